"""overcomplete: `train_sae(model, loader, criterion, optimizer)` with the loss of its README."""

# pyright: reportMissingImports=false
import importlib.util
import sys
import types

import torch

PACKAGE = "overcomplete"
AHEAD = 0
NOTES = []


def _sae():
    """The subpackage; the whole package also imports vision models and plotting."""
    try:
        import overcomplete.sae
    except (ImportError, RuntimeError, AttributeError) as error:
        for name in [one for one in sys.modules if one.split(".")[0] == "overcomplete"]:
            del sys.modules[name]
        package = types.ModuleType("overcomplete")
        spec = importlib.util.find_spec("overcomplete")
        package.__path__ = list((spec and spec.submodule_search_locations) or [])
        sys.modules["overcomplete"] = package
        NOTES.append(f"only the subpackage `sae` was imported ({type(error).__name__}: {error})")
        import overcomplete.sae
    return overcomplete.sae


LIBRARY = _sae()


def _criterion(x, x_hat, pre_codes, codes, dictionary):
    return (x - x_hat).square().mean()


def train(job, rows):
    sae = LIBRARY.TopKSAE(rows.width, nb_concepts=job.m, top_k=job.k, device="cpu")
    optimizer = torch.optim.Adam(sae.parameters(), lr=job.lr)
    LIBRARY.train_sae(sae, rows, _criterion, optimizer, nb_epochs=1, monitoring=0, device="cpu")
    sae = sae.eval()
    linear = sae.encoder.final_block[0]
    weights = {
        "encoder": linear.weight,
        "encoder_bias": linear.bias,
        "decoder": sae.get_dictionary(),
        "decoder_bias": torch.zeros(rows.width),
    }
    return weights, lambda x: sae(x)[2]
