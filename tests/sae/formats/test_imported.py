"""The SAE that holds other libraries' functions: its own rules."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import load_sae, save_sae
from interp.sae.formats import Imported
from interp.sae.formats.weights import make
from tests.sae.formats.made import D, K, M, imported, rows
from tests.sae.formats.test_layouts import draw, topk


def test_a_pursuit_stops_where_its_library_stops():
    # One latent along each axis: the row (3, 2, 1) needs three steps.
    eye = torch.eye(D)
    weights = {"W_enc": eye, "W_dec": eye}
    x = torch.tensor([[3.0, 2, 1, 0, 0, 0]])

    def active(**options):
        return int((make("pursuit", weights, k=6, **options).encode(x).values > 0).sum())

    assert active() == 3
    assert active(tolerance=1.1) == 2
    assert active(tolerance=3.0) == 1
    assert active(settles=True) == 3
    twice = make("pursuit", {"W_enc": eye / 2, "W_dec": eye / 2}, k=6, settles=True)
    # A latent of length 1/2 leaves 3/4 of the row to be chosen again, which ends it.
    assert twice.encode(x).values[0, 0] == 1.5 + 1.125


@pytest.mark.parametrize("layout", ["sparsify", "saelens"])
def test_transcoders_keep_both_points_and_the_skip(tmp_path, layout):
    weights = {"W_enc": draw(M, D), "W_dec": draw(M, D, seed=3), "W_skip": draw(D, D, seed=4)}
    weights |= {"b_enc": draw(M), "b_dec": draw(D)}
    activation = "topk" if layout == "sparsify" else "relu"
    k = K if layout == "sparsify" else 0
    sae = make(activation, weights, k=k, d_out=D)
    p = rows() @ weights["W_enc"].T + weights["b_enc"]
    code = topk(p) if k else p.relu()
    y = code @ weights["W_dec"] + weights["b_dec"] + rows() @ weights["W_skip"].T
    back = load_sae(save_sae(sae, tmp_path, layout))
    with torch.no_grad():
        torch.testing.assert_close(back.encode(rows()).dense(), code, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(back(rows()), y, rtol=1e-6, atol=4e-6)
    with pytest.raises(SAEError, match="has no transcoders; sparsify and saelens have"):
        save_sae(sae, tmp_path / "x", "saev")


def test_an_imported_sae_is_neither_trained_nor_edited_without_its_frame():
    sae = imported("topk", "layer")
    with pytest.raises(SAEError, match="normalizes each row by itself"):
        sae.decode(sae.encode(rows())._replace(frame=None))
    with pytest.raises(SAEError, match="is not trained on"):
        sae.loss_terms(rows(), None)  # pyright: ignore
    with pytest.raises(SAEError, match="not trained"):
        Imported.build(6, None)  # pyright: ignore


def test_edited_codes_of_framed_rows_decode_linearly():
    sae = imported("topk", "layer")
    with torch.no_grad():
        code = sae.encode(rows())
        doubled = sae.decode(code._replace(values=2 * code.values))
        change = code.dense() @ sae.W_dec * code.frame[:, 1:]
        torch.testing.assert_close(doubled - sae.decode(code), change)
    assert torch.equal(sae(torch.zeros(2, 6)), sae(torch.zeros(2, 6)))
    assert torch.isfinite(imported("relu", "length")(torch.zeros(2, 6))).all()


@pytest.mark.parametrize(
    ("activation", "options", "message"),
    [
        ("sigmoid", {}, "activation 'sigmoid' must be one of relu, topk"),
        ("relu", {"rows": "batch"}, "rows 'batch' one of none, layer, length"),
        ("relu", {"k": 3}, "k = 3, but relu counts nothing"),
        ("topk", {"k": 0}, r"k = 0 is not in 1\.\.24"),
        ("topk", {"k": 25}, r"k = 25 is not in 1\.\.24"),
        ("groupmax", {"k": 5}, "24 latents do not split into k = 5 groups"),
        ("relu", {"skip": True}, "a skip belongs to a transcoder"),
        ("relu", {"d_out": 4, "rows": "layer"}, "a transcoder has d_out >= 1 and plain rows"),
    ],
)
def test_impossible_settings_are_refused(activation, options, message):
    with pytest.raises(SAEError, match=message):
        Imported(D, M, activation, **options)


def test_a_pursuits_bias_stays_where_it_is(tmp_path):
    weights = {"W_enc": draw(M, D), "W_dec": draw(M, D), "b_in": draw(D)}
    sae = make("pursuit", weights, k=K)
    with pytest.raises(SAEError, match="pursues with one matrix and one bias"):
        save_sae(sae, tmp_path, "saelens")
