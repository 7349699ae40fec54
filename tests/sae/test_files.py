"""Damaged and hostile files are refused; nothing in them runs or fills the memory."""

import json

import pytest
import torch
from safetensors.torch import save

from interp.errors import SAEError
from interp.sae import SAE, TopK
from interp.sae.files import CONFIG, WEIGHTS


@pytest.fixture
def saved(tmp_path):
    return TopK(4, 8, 2).save(tmp_path / "sae")


def _edit(saved, **changes):
    config = json.loads((saved / CONFIG).read_text())
    (saved / CONFIG).write_text(json.dumps({**config, **changes}))


def _replace_weights(saved, tensors):
    import hashlib

    payload = save(tensors)
    (saved / WEIGHTS).write_bytes(payload)
    _edit(saved, weights={"file": WEIGHTS, "sha256": hashlib.sha256(payload).hexdigest()})


def _tensors(**changes):
    units = {"trained_units": torch.zeros(0, dtype=torch.int64)}
    return {**TopK(4, 8, 2).state_dict(), **units, **changes}


@pytest.mark.parametrize("size", [0, 3, 20, 100])
def test_truncated_weights_are_refused(saved, size):
    payload = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(payload[: len(payload) * size // 101])
    with pytest.raises(SAEError, match="truncated or altered"):
        SAE.load(saved)


@pytest.mark.parametrize("place", [5, 200, -1])
def test_a_flipped_bit_is_refused(saved, place):
    payload = bytearray((saved / WEIGHTS).read_bytes())
    payload[place] ^= 1
    (saved / WEIGHTS).write_bytes(payload)
    with pytest.raises(SAEError, match="truncated or altered"):
        SAE.load(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(SAEError, match=f"{name} is missing"):
        SAE.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00"])
def test_a_config_that_is_not_json_is_refused(saved, text):
    (saved / CONFIG).write_text(text)
    with pytest.raises(SAEError, match="is not JSON"):
        SAE.load(saved)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "not the config of an interp-sae"),
        ({"version": 99}, "version 99, this library reads 1"),
        ({"variant": "os.system"}, "variant 'os.system'; known are"),
        ({"variant": ["topk"]}, r"variant \['topk'\]; known are"),
        ({"spec": [1]}, "no table 'spec'"),
        ({"spec": {"d_in": {"a": 4}, "n_latents": 8, "k": 2}}, "more than numbers and words"),
        ({"spec": {"d_in": [[4]], "n_latents": 8, "k": 2}}, "more than numbers and words"),
        ({"spec": {"d_in": [4], "n_latents": 8, "k": 2}}, "does not build topk.* type int"),
        ({"spec": {"d_in": 4, "n_latents": 8, "k": 2, "x": 1}}, "does not build topk"),
        ({"spec": {"d_in": 4, "n_latents": 8, "k": 9}}, "k = 9 is not in"),
        ({"spec": {"d_in": 4, "n_latents": 10**15, "k": 2}}, "has shape|does not build"),
        ({"spec": {"d_in": "4", "n_latents": 8, "k": 2}}, "does not build topk"),
        ({"spec": {"d_in": 4, "n_latents": 8, "k": 2.5}}, "k = 2.5 does not build .* type int"),
        ({"spec": {"d_in": 4, "n_latents": 8, "k": True}}, "k = True does not build .* type int"),
        ({"spec": {"d_in": 4, "n_latents": 8, "k": 2, "seed": 2**70}}, "beyond 64 bits"),
        ({"provenance": {"point": "mid"}}, "'point' is 'mid', not a dict"),
        ({"provenance": {"point": {}}}, "'point' has no name"),
        ({"provenance": {"model": "zoo:gan"}}, "'model' is 'zoo:gan', not a dict"),
        ({"provenance": {"model": {"weights_sha256": 3}}}, "no text as hash"),
        ({"provenance": {"recipe": [1]}}, "'recipe' is .* not a dict"),
        ({"digest": "0123456789abcdef"}, "says digest '0123456789abcdef', the SAE's is"),
        ({"digest": None}, "says digest 'None'"),
        ({"weights": {}}, "truncated or altered"),
    ],
)
def test_a_hostile_config_is_refused(saved, changes, message):
    _edit(saved, **changes)
    with pytest.raises(SAEError, match=message):
        SAE.load(saved)


def test_a_huge_config_is_refused_before_it_is_read(saved, monkeypatch):
    monkeypatch.setattr("interp.sae.files.MAX_CONFIG_BYTES", 10)
    with pytest.raises(SAEError, match="more than 10"):
        SAE.load(saved)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (_tensors(W_enc=torch.zeros(8, 5)), r"W_enc has shape \(8, 5\), its config says \(8, 4\)"),
        (_tensors(extra=torch.zeros(1)), "holds .*extra"),
        (_tensors(b_dec=torch.full((4,), torch.nan)), "b_dec holds values that are not finite"),
        (_tensors(b_dec=torch.zeros(4, dtype=torch.int64)), "b_dec holds values that are not"),
        (_tensors(W_dec=torch.zeros(8, 4, dtype=torch.float64)), "not float32 but float64"),
        (_tensors(b_enc=torch.zeros(8).to(torch.float8_e4m3fn)), "not float32 but float8_e4m3fn"),
        (_tensors(scale=torch.zeros(())), r"scale = 0\.0 must be positive"),
        (_tensors(scale=torch.tensor(-2.0)), r"scale = -2\.0 must be positive"),
        (_tensors(b_dec=torch.ones(4)), "config and weights are not of one SAE"),
        (_tensors(trained_units=torch.zeros(3)), "no list 'trained_units'"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(saved, tensors, message):
    _replace_weights(saved, tensors)
    with pytest.raises(SAEError, match=message):
        SAE.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sae: sae.double(), "not float32 but float64"),
        (lambda sae: sae.b_dec.data.fill_(torch.inf), "not finite .* lower lr"),
        (lambda sae: sae.scale.fill_(0), "scale = 0.0 must be positive"),
    ],
)
def test_what_could_not_be_loaded_is_not_saved(tmp_path, change, message):
    sae = TopK(4, 8, 2)
    change(sae)
    with pytest.raises(SAEError, match=message):
        sae.save(tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_a_full_disk_keeps_the_old_file(saved, monkeypatch):
    before = (saved / WEIGHTS).read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("interp.sae.atomic.os.fsync", full)
    with pytest.raises(SAEError, match="No space left"):
        TopK(4, 8, 2, seed=9).save(saved)
    monkeypatch.undo()
    assert (saved / WEIGHTS).read_bytes() == before
    assert not list(saved.glob(".*tmp"))
    SAE.load(saved)


@pytest.mark.parametrize(
    ("k", "aux_k", "message"), [(0, 0, "k = 0"), (9, 0, "k = 9"), (2, -1, "aux")]
)
def test_impossible_sizes_are_refused(k, aux_k, message):
    with pytest.raises(SAEError, match=message):
        TopK(4, 8, k, aux_k=aux_k)
