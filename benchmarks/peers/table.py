"""What is compared: libraries with pinned versions, and the rows of the tables."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class Peer(NamedTuple):
    """A library and how it is installed."""

    requirements: tuple[str, ...]
    """Exact versions, installed beside `TORCH` into an environment of its own."""
    remove: tuple[str, ...] = ()
    """Distributions taken away again because they stop the import."""
    torch: bool = True
    """Whether it needs torch."""


class Row(NamedTuple):
    """One row of the tables."""

    label: str
    peer: str
    """Key of PEERS, or "" for the environment of this process."""
    adapter: str
    """File in adapters/."""
    options: Mapping[str, Any] = MappingProxyType({})
    note: str = ""
    """What a reader must know about this row."""
    timed: bool = True
    """Whether its speed differs from that of the other rows."""


TORCH = "torch==2.13.0"

# torchvision's ordinary wheel does not load beside a CPU build of torch, and transformers imports
# it wherever it finds it; none of these libraries trains with it.
PEERS = {
    "sae-lens": Peer(("sae-lens==6.54.12",), ("torchvision",)),
    "dictionary-learning": Peer(("dictionary-learning==0.1.0",), ("torchvision",)),
    "sparsify": Peer(("eai-sparsify==1.3.3",), ("torchvision",)),
    "overcomplete": Peer(("overcomplete==0.3.0", "matplotlib==3.8.4"), ("torchvision",)),
    "saev": Peer(("saev==0.1.0",), ("torchvision",)),
}

# Libraries that compare representations, and those that agreement is tested with; versions of the
# numeric packages are those that the oldest of them still runs with.
GEOMETRY_PEERS = {
    # On no index: from its repository, or from a copy of it (`setup --source netrep=DIR`).
    "netrep": Peer(
        (
            "netrep @ git+https://github.com/ahwillia/netrep@0186b8a77ec1ebaf541cc8f7173cb2556df8a8f0",
            "scikit-learn",
        ),
        torch=False,
    ),
    "ckatorch": Peer(("ckatorch==1.0.3",)),
    "torch-cka": Peer(("torch-cka==0.21", "matplotlib==3.8.4", "tqdm==4.67.1", "numpy==1.26.4")),
    "calibrated-similarity": Peer(("calibrated-similarity==0.1.1", "numpy==1.26.4")),
    "rsatoolbox": Peer(("rsatoolbox==0.3.2",), torch=False),
    "faiss": Peer(("faiss-cpu==1.15.1",), torch=False),
    "dcor": Peer(("dcor==0.7",), torch=False),
    "pot": Peer(("POT==0.9.7.post1",), torch=False),
    "dadapy": Peer(("dadapy==0.3.4",), torch=False),
    "scikit-dimension": Peer(("scikit-dimension==0.5.0",), torch=False),
    "repsim": Peer(("repsim==0.1.5",)),
    "ripser": Peer(("ripser==0.6.15",), torch=False),
}
# Every environment that `setup` can make.
ENVIRONMENTS = {**PEERS, **GEOMETRY_PEERS}

OURS, REFERENCE = "interp", "torch, dense autograd"

ROWS = (
    Row(OURS, "", "interp_topk.py"),
    Row(
        "interp, own defaults",
        "",
        "interp_topk.py",
        {"defaults": True},
        "learning rate, warm-up and decay of TrainConfig",
        timed=False,
    ),
    Row(
        "sparsify, Adam",
        "sparsify",
        "sparsify_topk.py",
        {"optimizer": "adam"},
        "its trainer always lets the rate fall linearly to 0",
    ),
    Row(
        "sparsify, signum",
        "sparsify",
        "sparsify_topk.py",
        {"optimizer": "signum"},
        "its default optimizer, with its own learning rate",
    ),
    Row("dictionary-learning", "dictionary-learning", "dictionary_learning_topk.py"),
    Row("sae-lens", "sae-lens", "sae_lens_topk.py"),
    Row(
        "overcomplete",
        "overcomplete",
        "overcomplete_topk.py",
        note="its subpackage `sae` alone where the whole does not import",
    ),
    Row("saev", "saev", "saev_topk.py"),
    Row(REFERENCE, "", "dense_torch.py", note="no library: the plain reference"),
)

# What compares representations; the file is a module with MEASURES, see geometry_worker.py.
GEOMETRY_ROWS = tuple(
    Row(name, name, f"geometry_{name.replace('-', '_')}.py") for name in GEOMETRY_PEERS
)
