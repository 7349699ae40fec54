"""What is written is read again: every bit of the folded SAE, and the function of the first."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import SAE, VARIANTS, load_sae, save_sae
from interp.sae.formats import FORMATS, Imported, fold
from interp.sae.formats.folding import FOLDS
from interp.sae.formats.imported import ACTIVATIONS
from tests.sae.formats.made import imported, rows, trained

# Format -> variants that it says exactly, and the class that comes back.
JUMPS = {"jumprelu": "imported", "batchtopk": "imported", "matryoshka": "imported"}
SAME = {"relu": "relu", "topk": "topk", "gated": "gated"}
HELD: dict[str, dict[str, str]] = {
    "saelens": {**SAME, **JUMPS, "pursuit": "pursuit", "archetypal": "imported"},
    "dictionary_learning": {**SAME, **{name: name for name in ("batchtopk", "matryoshka")}},
    "sparsify": {"topk": "topk", "relu": "topk", "transcoder": "transcoder"},
    "saeuron": {"topk": "topk", "relu": "topk"},
    "sdxl-unbox": {"topk": "topk"},
    "openai": {"relu": "relu"},
    "saev": {"relu": "imported", "batchtopk": "imported", "matryoshka": "imported"},
    "saev-0.1": {"relu": "relu"},
    "overcomplete": {"relu": "imported", "topk": "imported", **JUMPS},
}
CASES = [(layout, variant) for layout, held in HELD.items() for variant in held]
WRITTEN = [name for name, layout in FORMATS.items() if layout.write]


def _unit(sae):
    """What a code of 1 is in units of the data."""
    return sae.target_scale if sae.separate else sae.scale


def _near(found, expected):
    """Equal to 1e-6 of the largest number."""
    error = (found - expected).abs().max() / expected.abs().max().clamp_min(1)
    assert error <= 1e-6, float(error)


def test_every_format_that_is_written_is_tested():
    assert set(HELD) == set(WRITTEN)


@pytest.mark.parametrize(("layout", "variant"), CASES)
def test_an_sae_keeps_its_reconstructions_and_its_codes_in_units_of_the_data(
    tmp_path, layout, variant
):
    sae = trained(variant)
    back = load_sae(save_sae(sae, tmp_path / "x", layout))
    assert back.variant == HELD[layout][variant]
    with torch.no_grad():
        code = sae.encode(rows()).dense()
        assert 0 < (code > 0).float().mean() < 1
        _near(back.encode(rows()).dense(), code * _unit(sae))
        _near(back(rows()), sae(rows()))


@pytest.mark.parametrize("layout", WRITTEN)
def test_what_was_read_is_written_again_with_every_bit(tmp_path, layout):
    variant = next(iter(HELD[layout]))
    first = load_sae(save_sae(trained(variant), tmp_path / "a", layout))
    again = load_sae(save_sae(first, tmp_path / "b", layout))
    assert again.digest == first.digest
    with torch.no_grad():
        assert torch.equal(again(rows()), first(rows()))


@pytest.mark.parametrize("variant", sorted(FOLDS.keys() - {"imported"}))
def test_folding_keeps_the_dictionary_and_moves_thresholds_and_biases_by_the_scale(variant):
    sae = trained(variant)
    part = fold(sae)
    assert float(sae.scale) > 2
    assert float(part.scale) == 1
    assert not part.mean.any()
    assert torch.equal(part.W_dec, sae.dictionary())
    with torch.no_grad():
        _near(part.encode(rows()).dense(), sae.encode(rows()).dense() * _unit(sae))
        _near(part(rows()), sae(rows()))
    threshold = {"jumprelu": lambda: sae.theta, "batchtopk": lambda: sae.threshold}
    if variant in threshold:
        grown = (threshold[variant]() * sae.scale).expand_as(part.threshold)
        torch.testing.assert_close(part.threshold, grown)


def test_folding_an_sae_of_raw_rows_changes_no_bit(tmp_path):
    first = load_sae(save_sae(trained("topk"), tmp_path, "saelens"))
    part = fold(first)
    for name, bias in (("W_enc", "W_enc"), ("b_enc", "b_enc"), ("W_dec", "W_dec")):
        assert torch.equal(getattr(part, name), getattr(first, bias))
    assert torch.equal(part.b_dec, first.mean)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("way", ["none", "layer", "length"])
def test_an_imported_sae_is_kept_by_our_own_format(tmp_path, activation, way):
    sae = imported(activation, way)
    sae.provenance = {"source": {"format": "saelens"}, "latents": {"mean": [0.1]}}
    back = SAE.load(save_sae(sae, tmp_path))
    assert isinstance(back, Imported)
    assert back.digest == sae.digest
    assert back.provenance == sae.provenance
    with torch.no_grad():
        assert torch.equal(back(rows()), sae(rows()))


@pytest.mark.parametrize("layout", ["saelens", "dictionary_learning", "saev", "overcomplete"])
@pytest.mark.parametrize("activation", ["relu", "jumprelu", "gated", "topk"])
def test_an_input_bias_of_its_own_moves_into_the_encoder(tmp_path, layout, activation):
    sae = imported(activation)
    if layout == "saev" and activation == "jumprelu":
        sae.threshold.data.fill_(0.4)
    if layout in ("saev", "overcomplete") and activation == "gated":
        with pytest.raises(SAEError, match="has no gated SAE"):
            save_sae(sae, tmp_path / "x", layout)
        return
    back = load_sae(save_sae(sae, tmp_path / "x", layout, inexact=True), inexact=True)
    with torch.no_grad():
        _near(back.encode(rows()).dense(), sae.encode(rows()).dense())
        _near(back(rows()), sae(rows()))


@pytest.mark.parametrize(
    ("variant", "layout", "message"),
    [
        ("topk", "openai", "no topk SAE; it can hold relu, topk on rows normalized by layer"),
        ("jumprelu", "saev", "one threshold for all latents, this SAE has"),
        ("gated", "sparsify", "sparsify has no gated SAE"),
        ("relu", "sdxl-unbox", "sdxl-unbox has no relu SAE"),
        ("topk", "saev", "fewer than k positive latents differ; allow it by inexact=True"),
        ("topk", "prisma", "is read only"),
        ("topk", "ours", "no format 'ours'; there are interp, saelens"),
    ],
)
def test_what_a_format_cannot_say_is_not_written(tmp_path, variant, layout, message):
    with pytest.raises(SAEError, match=message):
        save_sae(trained(variant), tmp_path / "x", layout)
    assert not list(tmp_path.iterdir())


def test_every_variant_is_folded_or_refused_by_name():
    for variant in VARIANTS:
        if variant in FOLDS:
            continue
        with pytest.raises(SAEError, match=f"a {variant} SAE has no place in the other libraries"):
            fold(trained(variant))
