"""saev: its released package has a ReLU SAE alone, so a TopK of a given k cannot be asked for."""

# pyright: reportMissingImports=false
import saev.nn

PACKAGE = "saev"
AHEAD = 0


def train(job, rows):
    raise NotImplementedError(
        f"{saev.nn.SparseAutoencoder.__name__} of the released saev is a ReLU SAE with an L1 "
        f"penalty: there is no TopK with k = {job.k}"
    )
