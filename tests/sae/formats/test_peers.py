"""Against the libraries themselves: their files are read, ours are read by their own loaders.

Each library runs in its own environment, made by `python -m benchmarks.peers.setup`; a library
without one is skipped.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.peers.setup import default_folder, python_of, state
from interp.sae import load_sae, save_sae
from interp.sae.formats import fold
from tests.sae.formats.made import imported, rows, trained

pytestmark = pytest.mark.slow

SCRIPTS = Path(__file__).parent / "peers"
# Peer -> its script, the format, and what of ours its loader is given.
PEERS = {
    "sae-lens": ("sae_lens_peer.py", "saelens"),
    "dictionary-learning": ("dictionary_learning_peer.py", "dictionary_learning"),
    "sparsify": ("sparsify_peer.py", "sparsify"),
    "overcomplete": ("overcomplete_peer.py", "overcomplete"),
    "saev": ("saev_peer.py", "saev-0.1"),
}
JUMPS = ("jumprelu", "batchtopk", "matryoshka")
OURS = {
    "sae-lens": ("relu", "gated", "topk", "pursuit", "archetypal", *JUMPS),
    "dictionary-learning": ("relu", "gated", "topk", *JUMPS),
    "sparsify": ("relu", "topk", "archetypal", "transcoder"),
    "overcomplete": ("relu", "topk", *JUMPS),
    "saev": ("relu",),
}
IMPORTED = {
    "sae-lens": (("relu", "none"), ("jumprelu", "layer"), ("topk", "length"), ("gated", "none")),
    "dictionary-learning": (("relu", "none"), ("gated", "none"), ("jumprelu", "none")),
    "sparsify": (("groupmax", "none"), ("topk", "none")),
    "overcomplete": (("relu", "none"), ("topk", "none"), ("jumprelu", "none")),
    "saev": (("relu", "none"),),
}


def _ours(name):
    saes = {f"trained {variant}": trained(variant) for variant in OURS[name]}
    kinds = {f"imported {a} on {r}": imported(a, r) for a, r in IMPORTED[name]}
    return saes | kinds


def _file(name, case):
    return f"{case}.pt" if name == "saev" else case


@pytest.fixture(scope="module", params=PEERS)
def met(request, tmp_path_factory):
    """The folder in which both have written and the library has read."""
    name = request.param
    record = state(name, default_folder())
    if not record["ok"]:
        pytest.skip(f"no environment of {name}: {record['step']}: {record['reason']}")
    folder = tmp_path_factory.mktemp(name)
    for part in ("ours", "theirs"):
        (folder / part).mkdir()
    np.save(folder / "x.npy", rows().numpy())
    script, layout = PEERS[name]
    for case, sae in _ours(name).items():
        save_sae(sae, folder / "ours" / _file(name, case), layout)
    done = subprocess.run(
        [str(python_of(name, default_folder())), str(SCRIPTS / script), str(folder)],
        capture_output=True,
        text=True,
        # Nothing is fetched: these libraries look for updates or models when imported.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"},
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"[-4000:]
    return name, folder


def _close(found, expected, what):
    """Equal to 1e-6 of the largest number: float32 sums in another order."""
    expected = torch.as_tensor(expected)
    error = (found - expected).abs().max() / max(1.0, float(expected.abs().max()))
    assert error <= 1e-6, f"{what}: {float(error)}"


def test_what_the_library_wrote_is_read_with_equal_codes_and_reconstructions(met):
    name, folder = met
    cases = sorted((folder / "theirs").glob("*.npz"))
    assert cases
    for record in cases:
        case, kept = record.name.removesuffix(".npz"), np.load(record)
        sae = load_sae(folder / "theirs" / case)
        with torch.no_grad():
            code = sae.encode(rows())
            _close(code.dense(), kept["code"], f"{name}, code of {case}")
            _close(sae(rows()), kept["x_hat"], f"{name}, reconstruction of {case}")
        assert (kept["code"] != 0).any(), f"{case} shows nothing"


def test_what_we_write_is_read_by_the_library_with_equal_codes_and_reconstructions(met):
    name, folder = met
    for case, sae in _ours(name).items():
        kept = np.load(folder / "ours" / f"{_file(name, case)}.npz")
        with torch.no_grad():
            code = fold(sae).encode(rows()).dense()
            # The bias of overcomplete's dictionary is a concept of its own.
            extra = kept["code"].shape[1] - sae.n_latents
            assert extra == int(name == "overcomplete")
            _close(code, kept["code"][:, : sae.n_latents], f"{name}, code of {case}")
            _close(sae(rows()), kept["x_hat"], f"{name}, reconstruction of {case}")
