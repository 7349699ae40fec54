from typing import Any

import pytest
import torch

import interp
from interp.errors import InterpError
from interp.loading import wrap_zoo
from interp.models import Generation, Rows
from interp.zoo import ldm
from interp.zoo.cards import evaluate_zoo
from interp.zoo.images import load_images
from interp.zoo.nets import build_net
from interp.zoo.recipes import make_job
from interp.zoo.text import GPT

PROMPTS = ("red apple", "flag of france", "")


@pytest.fixture(scope="module")
def net() -> Any:
    return build_net("ldm", n_classes=3)


@pytest.fixture(scope="module")
def pipe(net) -> Any:
    return ldm.make_pipe(net, {})


@torch.no_grad()
def test_the_network_maps_codes_and_context_to_codes_and_fits_its_budget(net):
    assert 1e6 <= sum(p.numel() for p in net.parameters()) <= 2.5e6
    context = torch.randn(2, ldm.CONTEXT, GPT["n_embd"])
    assert net(torch.randn(2, 4, 8, 8), 5, encoder_hidden_states=context).sample.shape[1:] == (
        4,
        8,
        8,
    )


def test_the_scaling_gives_draws_of_the_posteriors_unit_variance():
    g = torch.Generator().manual_seed(0)
    mean, std = 3 * torch.randn(200, 4, 8, 8, generator=g), torch.full((200, 4, 8, 8), 4.0)
    assert ldm.scaling_factor(mean, std) == pytest.approx(0.2, rel=0.01)


def test_a_training_sees_the_texts_as_the_pipeline_shows_them(pipe, tmp_path):
    images = load_images("glyphs", split="train", limit=3)
    codes, contexts = ldm.prepare(images, tmp_path)
    assert codes.shape == (3, 2, 4, 8, 8)
    assert contexts.shape == (3, ldm.TEXTS + 1, ldm.CONTEXT, GPT["n_embd"])
    shown, null = pipe.encode_prompt(list(images.captions), torch.device("cpu"), 1, True)
    assert torch.allclose(contexts[:, 0].float(), shown, atol=5e-3)
    assert torch.allclose(contexts[:, -1].float(), null, atol=5e-3)


def test_a_network_is_not_run_with_parts_that_it_was_not_trained_on(net):
    with pytest.raises(InterpError, match=r"trained on a zoo:text with sha256 0000.*train ldm"):
        ldm.make_pipe(net, {"net": {"text_sha256": "0" * 64}})


def test_its_points_are_blocks_branches_skips_and_a_context_of_its_prompts_length(net):
    points = wrap_zoo("ldm", net, "zoo:ldm", {}).points
    block = "mid_block.attentions.0.transformer_blocks.0"
    assert points[block].kind == "resid"
    assert {points[f"{block}.{branch}"].kind for branch in ("attn1", "attn2", "ff")} == {"contrib"}
    assert points[f"context.{block}.attn2"].stream == "context"
    assert points[f"context.{block}.attn2"].grid == (ldm.CONTEXT,)
    assert {points[f"skip.{i}"].stream for i in range(4)} == {"skip"}
    assert points["x_T"].grid == (8, 8)


@pytest.mark.slow
def test_a_step_learns_a_few_codes():
    job = make_job("ldm", n_classes=3, batch_size=4)
    g = torch.Generator().manual_seed(0)
    codes = torch.randn(4, 1, 4, 1, 1, generator=g).expand(-1, 2, -1, 8, 8) * torch.tensor(
        [1.0, 0.0]
    ).view(1, 2, 1, 1, 1)
    contexts = torch.randn(4, 3, ldm.CONTEXT, GPT["n_embd"], generator=g).half()
    losses = [float(job.step(job, codes, contexts, 0.0)["v_mse"]) for _ in range(30)]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.slow
def test_a_capture_with_prompts_has_rows_of_both_halves_with_their_noise_level(tmp_path):
    model = interp.load("zoo:ldm")
    points = ["x_T", "mid_block.attentions.0", "context.mid_block.*.attn2", "skip.1"]
    recipe = Generation(n=2, prompts=PROMPTS[:2], guidance=2.0, steps=2)
    store = interp.capture(model, points, recipe, out=tmp_path, rows=Rows(positions="mean"))
    assert list(store.generations["prompt"]) == list(PROMPTS[:2])
    middle = store.rows("mid_block.attentions.0")
    coords = store.coords("mid_block.attentions.0")
    assert len(middle) == 2 * 2 * 2
    assert set(coords["cfg_half"]) == {0, 1}
    assert len(set(coords["t"])) == 2
    assert all(x == x for x in coords["log_snr"])


@pytest.mark.slow
def test_the_zoos_own_samples_are_those_of_the_loaded_model():
    model: Any = interp.load("zoo:ldm")
    batch = Generation(n=3, prompts=PROMPTS, guidance=2.0, steps=3).batch(0, 3)
    made = ldm.sample(model.host.pipe, range(3), PROMPTS, steps=3, guidance=2.0)
    assert (made.int() - model.generate(batch).int()).abs().max() <= 1


@pytest.mark.slow
def test_its_quality_stands_beside_shuffled_captions():
    measured = evaluate_zoo("ldm", n=16)
    assert measured.frechet is not None
    assert measured.label_accuracy is not None
    assert measured.label_accuracy_shuffled is not None
    assert measured.label_accuracy_shuffled_max is not None
    assert 0 <= measured.label_accuracy_shuffled <= measured.label_accuracy_shuffled_max <= 1
    assert measured.vit_accuracy is not None
