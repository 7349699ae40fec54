"""One file per library: its public training API behind `train(job, rows)`; for worker.py alone."""
