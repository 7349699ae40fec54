"""Other libraries on the same batches, each in an environment of its own."""
