"""Shares of a crosscoder's sites: weights that lie are found out on held-out rows."""

import json

import numpy as np
import pytest
import torch

from interp.cli.main import main
from interp.errors import SAEError
from interp.sae import Crosscoder, TopK, TrainConfig, crosscoder_shares, join, train
from interp.sae.shares import BETWEEN, SHARED, SILENT
from interp.store import write_store
from tests.sae.stores import make_pair

N, P, M, D = 24, 8, 6, 8
# Latents 0 and 1 are in both sites, 2 and 3 in the first, 4 in the second, 5 nowhere.
INSIDE = torch.tensor([[1, 1], [1, 1], [1, 0], [1, 0], [0, 1], [0, 0]]).double()


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """A store of two points that mix orthonormal atoms, and the crosscoder that made them."""
    g = torch.Generator().manual_seed(0)
    draw = torch.rand(N * P, M, generator=g, dtype=torch.float64)
    codes = (draw < 0.4) * (0.5 + torch.rand(N * P, M, generator=g, dtype=torch.float64))
    codes[:, 5] = 0
    atoms = torch.linalg.qr(torch.randn(2, D, D, generator=g, dtype=torch.float64))[0][:, :M]
    parts = [codes * INSIDE[:, s] @ atoms[s] for s in (0, 1)]
    parts = [x + 0.01 * torch.randn(x.shape, generator=g).double() for x in parts]
    store = write_store(
        tmp_path_factory.mktemp("planted") / "store",
        {
            name: x.float().reshape(N, 1, P, D)
            for name, x in zip(("one", "two"), parts, strict=True)
        },
        generations={"image_id": [f"i{i}" for i in range(N)]},
        model={"spec": "test", "weights_sha256": "cd" * 32},
    )
    sae = Crosscoder(2 * D, M, 2, widths=(D, D), sparsity="l1", l1=0.1)
    scale = INSIDE / INSIDE.norm(dim=1, keepdim=True).clamp(min=1)
    with torch.no_grad():
        sae.W_dec.copy_(torch.cat([atoms[0] * INSIDE[:, :1], atoms[1] * INSIDE[:, 1:]], dim=1))
        encoder = torch.cat([atoms[0] * scale[:, :1] ** 2, atoms[1] * scale[:, 1:] ** 2], dim=1)
        sae.W_enc.copy_(encoder)
        sae.b_enc.fill_(-0.05)
    return sae, join([(store, "one"), (store, "two")])


def test_weights_and_held_out_rows_agree_where_the_weights_are_true(planted):
    sae, rows = planted
    found = crosscoder_shares(sae, rows, allow_train=True)
    assert found.sites == ("one", "two")
    assert found.kinds().tolist() == [SHARED, SHARED, 0, 0, 1, SILENT]
    assert found.kinds("refitted").tolist() == found.kinds().tolist()
    assert found.summary()["exclusive_confirmed"] == 1
    assert found.summary()["norms"] == {"shared": 2, "between": 0, "silent": 1, "exclusive": [2, 1]}
    assert (found.fired[:5] > 40).all()


def test_a_shared_latent_whose_decoder_lost_a_site_is_found_out(planted):
    sae, rows = planted
    lying = Crosscoder(**sae.spec())
    lying.load_state_dict(sae.state_dict())
    with torch.no_grad():
        lying.W_dec[0, D:] = 0
    found = crosscoder_shares(lying, rows, allow_train=True)
    assert found.kinds()[0] == 0
    assert found.kinds("refitted")[0] == SHARED
    assert found.summary()["exclusive_confirmed"] == 3 / 4
    assert found.refitted is not None
    np.testing.assert_allclose(found.refitted[0], [0.5, 0.5], atol=0.02)


def test_without_rows_the_weights_speak(planted):
    found = crosscoder_shares(planted[0])
    np.testing.assert_allclose(
        found.norms[:5], INSIDE[:5] / INSIDE[:5].sum(1, keepdim=True), atol=1e-6
    )
    assert found.sites == ("site 0", "site 1")
    with pytest.raises(SAEError, match="refitted where rows were given"):
        found.kinds("refitted")


def test_the_twin_stands_beside(planted):
    sae, rows = planted
    found = crosscoder_shares(sae, rows, twin=(sae, rows), allow_train=True)
    assert found.twin is not None
    assert found.summary()["twin"]["norms"] == found.summary()["norms"]


def test_a_latent_between_is_neither(planted):
    sae = Crosscoder(**planted[0].spec())
    with torch.no_grad():
        sae.W_dec[0] = torch.cat([torch.full((D,), 0.8), torch.full((D,), 0.2)])
    assert crosscoder_shares(sae).kinds()[0] == BETWEEN


def test_other_saes_sites_and_trained_rows_are_refused(planted):
    sae, rows = planted
    with pytest.raises(SAEError, match="a topk has no sites"):
        crosscoder_shares(TopK(4, 8, 2))
    with pytest.raises(SAEError, match=r"widths \(8, 8\) do not fit a crosscoder of \(4, 4\)"):
        crosscoder_shares(Crosscoder(8, 4, 2, widths=(4, 4)), rows)
    with pytest.raises(SAEError, match="no record of its training images"):
        crosscoder_shares(sae, rows)
    with pytest.raises(SAEError, match="1 cluster of images"):
        crosscoder_shares(sae, rows, rows=np.arange(P), allow_train=True)


def test_a_trained_crosscoder_is_judged_on_held_out_rows_from_the_command_line(tmp_path, capsys):
    store = make_pair(tmp_path / "store")
    pair = join([(store, "early"), (store, "late")])
    config = TrainConfig(
        "crosscoder", 24, 3, batch_size=32, steps=60, lr=1e-2, checkpoint_every=0, held_out=0.3
    )
    train(pair, config, out=tmp_path / "run")
    words = ["sae", "shares", str(tmp_path / "run")]
    assert main([*words, str(store.path)]) == 0
    whole = json.loads(capsys.readouterr().out)
    sites = [f"{store.path}::early", f"{store.path}::late"]
    assert main([*words, *sites, "--twin", str(tmp_path / "run"), *sites]) == 0
    named = json.loads(capsys.readouterr().out)
    assert whole["sites"] == ["early", "late"]
    assert 0 < whole["n_rows"] < pair.n_rows / 2
    assert named["twin"]["norms"] == named["norms"] == whole["norms"]
    assert main([*words, "early", "late"]) == 2
    assert "sites are STORE::POINT" in capsys.readouterr().err
