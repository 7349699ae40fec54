"""Layouts of libraries that cannot be installed, and old ones: key by key, against formulas."""

import json

import pytest
import torch
from safetensors.torch import save_file

from interp.errors import SAEError
from interp.sae import load_sae, save_sae
from tests.sae.formats.made import D, K, M, imported, rows, trained


def draw(*shape, seed=0):
    return 0.5 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape)))


def weights():
    """Names of OpenAI's class, which sdxl-unbox took over."""
    return {
        "pre_bias": draw(D),
        "latent_bias": draw(M, seed=1),
        "encoder.weight": draw(M, D, seed=2),
        "decoder.weight": draw(D, M, seed=3),
        "stats_last_nonzero": torch.zeros(M, dtype=torch.int64),
    }


def topk(p, k=K):
    values, indices = p.topk(k, dim=1)
    return torch.zeros_like(p).scatter(1, indices, values.relu())


def layer(x):
    mean = x.mean(1, keepdim=True)
    deviation = (x - mean).std(1, keepdim=True)
    return (x - mean) / (deviation + 1e-5), mean, deviation


def check(sae, code, x_hat):
    with torch.no_grad():
        found = sae.encode(rows())
        torch.testing.assert_close(found.dense(), code, rtol=1e-6, atol=2e-6)
        torch.testing.assert_close(sae.decode(found), x_hat, rtol=1e-6, atol=2e-6)
    assert 0 < (code > 0).float().mean() < 1


def openai_file(path, activation="TopK", inner=None, **changes):
    state = {**weights(), "latents_activation_frequency": torch.ones(M)}
    state["latents_mean_square"] = torch.zeros(M)
    inner = {"k": K, "postact_fn": "ReLU"} if inner is None else inner
    state |= {"activation": activation, "activation_state_dict": inner, **changes}
    torch.save(state, path)
    return path


def test_openai_topk_normalizes_every_row(tmp_path):
    w = weights()
    u, mean, deviation = layer(rows())
    code = topk((u - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"])
    x_hat = (code @ w["decoder.weight"].T + w["pre_bias"]) * deviation + mean
    sae = load_sae(openai_file(tmp_path / "8.pt"))
    check(sae, code, x_hat)
    assert sae.provenance["source"]["format"] == "openai"
    # The other way: what it writes is what it read.
    again = load_sae(save_sae(sae, tmp_path / "again.pt", "openai"))
    assert again.digest == sae.digest


def test_openai_relu_takes_rows_as_they_are(tmp_path):
    w = weights()
    code = ((rows() - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]).relu()
    sae = load_sae(openai_file(tmp_path / "8.pt", "ReLU", {}))
    check(sae, code, code @ w["decoder.weight"].T + w["pre_bias"])


def test_openai_tied_weights_decode_by_the_encoder(tmp_path):
    state = {**weights(), "activation": "ReLU", "activation_state_dict": {}}
    state["decoder.linear.weight"] = state["encoder.weight"]
    del state["decoder.weight"]
    torch.save(state, tmp_path / "8.pt")
    w = weights()
    code = ((rows() - w["pre_bias"]) @ w["encoder.weight"].T + w["latent_bias"]).relu()
    check(load_sae(tmp_path / "8.pt"), code, code @ w["encoder.weight"] + w["pre_bias"])


@pytest.mark.parametrize(
    ("activation", "inner", "message"),
    [
        ("TopK", {"k": K, "postact_fn": "Identity"}, "negative codes"),
        ("Jump", {}, "'Jump' cannot be read"),
        ("TopK", {"postact_fn": "ReLU"}, "k = None is not a whole number"),
    ],
)
def test_openai_activations_without_an_equal_are_refused(tmp_path, activation, inner, message):
    with pytest.raises(SAEError, match=message):
        load_sae(openai_file(tmp_path / "8.pt", activation, inner))


def unbox_folder(path, unit=True):
    path.mkdir()
    state = weights()
    if unit:
        state["decoder.weight"] /= state["decoder.weight"].norm(dim=0)
    torch.save({"state_dict": state}, path / "state_dict.pth")
    torch.save(draw(M, seed=7).abs(), path / "mean.pt")
    torch.save(draw(M, seed=8).abs(), path / "std.pt")
    config = {"n_dirs_local": M, "d_model": D, "k": K, "auxk": 256, "dead_steps_threshold": 2441}
    (path / "config.json").write_text(json.dumps(config))
    return state


def test_sdxl_unbox_is_a_topk_sae_that_keeps_its_numbers_per_latent(tmp_path):
    state = unbox_folder(tmp_path / "final")
    code = topk((rows() - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"])
    sae = load_sae(tmp_path / "final")
    check(sae, code, code @ state["decoder.weight"].T + state["pre_bias"])
    assert sae.variant == "topk"
    assert torch.equal(torch.tensor(sae.provenance["latents"]["mean"]), draw(M, seed=7).abs())
    save_sae(sae, tmp_path / "again", "sdxl-unbox")
    for name in ("mean.pt", "std.pt"):
        old, new = (torch.load(tmp_path / where / name) for where in ("final", "again"))
        assert torch.equal(old, new)
    written = torch.load(tmp_path / "again" / "state_dict.pth")["state_dict"]
    assert all(torch.equal(written[name], state[name]) for name in state)


def test_rows_of_another_norm_make_an_imported_sae_of_the_same_function(tmp_path):
    state = unbox_folder(tmp_path / "final", unit=False)
    code = topk((rows() - state["pre_bias"]) @ state["encoder.weight"].T + state["latent_bias"])
    sae = load_sae(tmp_path / "final")
    check(sae, code, code @ state["decoder.weight"].T + state["pre_bias"])
    assert sae.variant == "imported"


def saeuron_folder(path, **flags):
    path.mkdir()
    tensors = {"encoder.weight": draw(M, D), "encoder.bias": draw(M), "W_dec": draw(M, D, seed=5)}
    save_file({**tensors, "b_dec": draw(D)}, path / "sae.safetensors")
    config = {"expansion_factor": 4, "normalize_decoder": True, "num_latents": M, "k": K}
    config |= {"batch_topk": True, "sample_topk": False, "input_unit_norm": False, "d_in": D}
    (path / "cfg.json").write_text(json.dumps(config | {"multi_topk": False} | flags))
    return {**tensors, "b_dec": draw(D)}


@pytest.mark.parametrize("unit", [False, True])
def test_saeuron_is_topk_per_row_as_its_own_loader_makes_it(tmp_path, unit):
    w = saeuron_folder(tmp_path / "sae", input_unit_norm=unit)
    u, mean, deviation = layer(rows()) if unit else (rows(), 0, 1)
    code = topk((u - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
    sae = load_sae(tmp_path / "sae")
    check(sae, code, (code @ w["W_dec"] + w["b_dec"]) * deviation + mean)
    source = sae.provenance["source"]
    assert source["format"] == "saeuron"
    assert source["config"]["batch_topk"] is True
    again = load_sae(save_sae(sae, tmp_path / "again", "saeuron"))
    assert again.digest == sae.digest


def saev_file(path, header, **more):
    state = {"W_enc": draw(D, M), "W_dec": draw(M, D), "b_enc": draw(M), "b_dec": draw(D)}
    with path.open("wb") as file:
        file.write(json.dumps(header).encode() + b"\n")
        torch.save({**state, **more}, file)
    return state


def saev_header(name, schema=5, **params):
    activation = {"cls": name, "params": params}
    config = {"d_model": D, "d_sae": M, "activation": activation}
    return {"schema": schema, "cfg": config, "commit": "abc", "lib": "0.2.0"}


@pytest.mark.parametrize("schema", [2, 3, 4, 5])
def test_saev_subtracts_nothing_from_the_input_since_schema_2(tmp_path, schema):
    w = saev_file(tmp_path / "sae.pt", saev_header("Relu", schema))
    code = (rows() @ w["W_enc"] + w["b_enc"]).relu()
    check(load_sae(tmp_path / "sae.pt"), code, code @ w["W_dec"] + w["b_dec"])


@pytest.mark.parametrize(
    "header",
    [
        {"d_vit": D, "exp_factor": M // D, "sparsity_coeff": 4e-4, "seed": 0},
        {"schema": 1, "cls": "Relu", "cfg": {"d_vit": D}},
        saev_header("Relu", 1),
    ],
)
def test_saev_subtracted_its_bias_before(tmp_path, header):
    w = saev_file(tmp_path / "sae.pt", header)
    code = ((rows() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(load_sae(tmp_path / "sae.pt"), code, code @ w["W_dec"] + w["b_dec"])


def test_saev_batchtopk_is_a_threshold_at_inference(tmp_path):
    more = {"activation.threshold": torch.tensor(0.6)}
    w = saev_file(tmp_path / "sae.pt", saev_header("BatchTopK", top_k=K), **more)
    p = rows() @ w["W_enc"] + w["b_enc"]
    code = torch.where(p > 0.6, p, 0)
    check(load_sae(tmp_path / "sae.pt"), code, code @ w["W_dec"] + w["b_dec"])
    below = {"activation.threshold": torch.tensor(-0.6)}
    saev_file(tmp_path / "below.pt", saev_header("BatchTopK", top_k=K), **below)
    check(load_sae(tmp_path / "below.pt"), p.relu(), p.relu() @ w["W_dec"] + w["b_dec"])


def test_saev_topk_with_negative_values_is_refused_until_that_is_allowed(tmp_path):
    w = saev_file(tmp_path / "sae.pt", saev_header("TopK", top_k=M - 1))
    sae = load_sae(tmp_path / "sae.pt")
    with pytest.raises(SAEError, match="have fewer than k = 23 positive latents; saev keeps"):
        sae.encode(rows())
    code = topk(rows() @ w["W_enc"] + w["b_enc"], M - 1)
    allowed = load_sae(tmp_path / "sae.pt", inexact=True)
    check(allowed, code, code @ w["W_dec"] + w["b_dec"])


def test_saev_topk_with_positive_values_is_exact(tmp_path):
    w = saev_file(tmp_path / "sae.pt", saev_header("TopK", top_k=2))
    p = rows() @ w["W_enc"] + w["b_enc"]
    kept = (p.topk(2).values > 0).all(1)
    assert kept.any()
    sae = load_sae(tmp_path / "sae.pt")
    with torch.no_grad():
        found = sae.encode(rows()[kept]).dense()
    torch.testing.assert_close(found, topk(p, 2)[kept], rtol=1e-6, atol=1e-6)
    written = load_sae(save_sae(sae, tmp_path / "again.pt", "saev"))
    assert written.digest == sae.digest


def saelens_folder(path, config, **tensors):
    path.mkdir()
    state = {"W_enc": draw(D, M), "W_dec": draw(M, D), "b_enc": draw(M), "b_dec": draw(D)}
    save_file({**state, **tensors}, path / "sae_weights.safetensors")
    (path / "cfg.json").write_text(json.dumps({"d_in": D, "d_sae": M, **config}))
    return state


def test_saelens_before_6_named_things_otherwise(tmp_path):
    old = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "hook_point": "mid"}
    w = saelens_folder(tmp_path / "topk", {**old, "normalize_activations": False})
    code = topk((rows() - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    check(load_sae(tmp_path / "topk"), code, code @ w["W_dec"] + w["b_dec"])
    factor = 1 + draw(M).abs()
    w = saelens_folder(tmp_path / "scaled", {"activation_fn_str": "relu"}, scaling_factor=factor)
    code = ((rows() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check(load_sae(tmp_path / "scaled"), code, (code * factor) @ w["W_dec"] + w["b_dec"])


def test_saelens_log_thresholds_are_thresholds(tmp_path):
    log = draw(M, seed=4)
    w = saelens_folder(tmp_path / "sae", {"architecture": "jumprelu"}, log_threshold=log)
    p = (rows() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
    code = torch.where(p > log.exp(), p, 0)
    check(load_sae(tmp_path / "sae"), code, code @ w["W_dec"] + w["b_dec"])


def test_saelens_activation_norm_needs_its_factor(tmp_path):
    config = {"architecture": "standard", "normalize_activations": "expected_average_only_in"}
    w = saelens_folder(tmp_path / "sae", config)
    with pytest.raises(SAEError, match=r"a factor first that is not in the file.*input_scale="):
        load_sae(tmp_path / "sae")
    code = ((0.3 * rows() - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    sae = load_sae(tmp_path / "sae", input_scale=0.3)
    check(sae, code, (code @ w["W_dec"] + w["b_dec"]) / 0.3)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "batchtopk"}, "training checkpoint of batchtopk.*save_inference_model"),
        ({"architecture": "abstopk"}, "negative as often as positive"),
        ({"architecture": "temporal"}, "earlier tokens"),
        ({"normalize_activations": "covariance_whitening"}, "statistics are not in the file"),
        ({"activation_fn_str": "tanh-relu"}, "'tanh-relu' of SAELens is unknown"),
        ({"architecture": "jumprelu"}, "has no tensor 'threshold'"),
        ({"architecture": "topk"}, "k = None is not a whole number"),
    ],
)
def test_saelens_files_without_an_equal_are_refused(tmp_path, config, message):
    saelens_folder(tmp_path / "sae", config)
    with pytest.raises(SAEError, match=message):
        load_sae(tmp_path / "sae")


def test_overcomplete_weights_need_what_they_do_not_say(tmp_path):
    rows_of = draw(M, D)
    rows_of = rows_of / rows_of.norm(dim=1, keepdim=True)
    state = {"encoder.final_block.0.weight": draw(M, D, seed=2), "dictionary._weights": rows_of}
    state |= {"encoder.final_block.0.bias": draw(M), "dictionary.multiplier": torch.tensor(0.5)}
    torch.save(state, tmp_path / "sae.pt")
    with pytest.raises(SAEError, match="does not say what fires: give activation='topk' and k="):
        load_sae(tmp_path / "sae.pt")
    code = topk(rows() @ state["encoder.final_block.0.weight"].T + draw(M))
    sae = load_sae(tmp_path / "sae.pt", activation="topk", k=K)
    check(sae, code, code @ rows_of * torch.tensor(0.5).exp())
    torch.save({**state, "dictionary._weights": 3 * rows_of}, tmp_path / "long.pt")
    with pytest.raises(SAEError, match="norms 3 to 3, and nothing says how it is normalized"):
        load_sae(tmp_path / "long.pt", activation="topk", k=K)


def test_overcomplete_gives_back_the_bias_that_it_has_no_place_for(tmp_path):
    sae = trained("topk")
    back = load_sae(save_sae(sae, tmp_path, "overcomplete"))
    assert back.n_latents == sae.n_latents
    state = torch.load(tmp_path / "state_dict.pt")
    assert state["dictionary._weights"].shape == (M + 1, D)
    assert json.loads((tmp_path / "config.json").read_text())["top_k"] == K + 1


def test_dictionary_learning_checkpoints_find_their_config(tmp_path):
    sae = imported("gated")
    save_sae(sae, tmp_path / "trainer_0", "dictionary_learning")
    (tmp_path / "trainer_0" / "checkpoints").mkdir()
    kept = tmp_path / "trainer_0" / "ae.pt"
    target = tmp_path / "trainer_0" / "checkpoints" / "ae_500.pt"
    target.write_bytes(kept.read_bytes())
    for path in (kept, target, tmp_path / "trainer_0"):
        assert load_sae(path).provenance["source"]["format"] == "dictionary_learning"


def test_a_folder_of_saes_names_them(tmp_path):
    for point in ("layers.0", "layers.1"):
        save_sae(imported("topk"), tmp_path / point, "sparsify")
    with pytest.raises(SAEError, match=r"holds 2 SAEs; name one: layers\.0, layers\.1"):
        load_sae(tmp_path)


def test_half_precision_weights_are_read_exactly(tmp_path):
    tensors = {"encoder.weight": draw(M, D), "encoder.bias": draw(M), "W_dec": draw(M, D, seed=5)}
    tensors = {name: value.to(torch.bfloat16) for name, value in tensors.items()}
    tmp_path.joinpath("a").mkdir()
    save_file({**tensors, "b_dec": draw(D).bfloat16()}, tmp_path / "a" / "sae.safetensors")
    (tmp_path / "a" / "cfg.json").write_text(json.dumps({"d_in": D, "num_latents": M, "k": K}))
    sae = load_sae(tmp_path / "a")
    assert torch.equal(sae.W_enc.detach().bfloat16(), tensors["encoder.weight"])


def test_the_point_is_told_by_the_user(tmp_path):
    path = save_sae(trained("topk"), tmp_path / "a", "saelens")
    assert load_sae(path).point is None
    assert load_sae(path, point="mid").point == {"name": "mid"}
    own = trained("topk")
    own.provenance = {"point": {"name": "mid"}}
    own.save(tmp_path / "own")
    assert load_sae(tmp_path / "own").point == {"name": "mid"}
    with pytest.raises(SAEError, match="was trained on mid, not on up"):
        load_sae(tmp_path / "own", point="up")


def test_saelens_pursuit_of_a_few_steps_is_ours(tmp_path):
    options = {"residual_threshold": 0.0, "max_iterations": K, "stop_on_duplicate_support": False}
    config = {"architecture": "matching_pursuit", "d_in": D, "d_sae": M, **options}
    rows_of = draw(M, D)
    rows_of = rows_of / rows_of.norm(dim=1, keepdim=True)
    (tmp_path / "sae").mkdir()
    save_file({"W_dec": rows_of, "b_dec": draw(D)}, tmp_path / "sae" / "sae_weights.safetensors")
    (tmp_path / "sae" / "cfg.json").write_text(json.dumps(config))
    residual, code = rows() - draw(D), torch.zeros(len(rows()), M)
    for _ in range(K):
        value, latent = (residual @ rows_of.T).max(1)
        code[torch.arange(len(code)), latent] += value
        residual = residual - value[:, None] * rows_of[latent]
    sae = load_sae(tmp_path / "sae")
    check(sae, code, code @ rows_of + draw(D))
    assert sae.variant == "pursuit"
