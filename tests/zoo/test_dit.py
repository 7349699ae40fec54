from collections.abc import Callable
from typing import Any

import pytest
import torch

from interp.errors import InputError
from interp.loading import wrap_zoo
from interp.models import GenerateBatch, Model, reading
from interp.zoo import dit, training
from interp.zoo.nets import build_net
from interp.zoo.recipes import make_job
from interp.zoo.sampling import sample_ddpm
from interp.zoo.training import Box, run

N_CLASSES = 3
# Four images of one color each: a network that learns anything at all learns these.
COLORS = torch.tensor([[255, 40, 40], [40, 255, 40], [40, 40, 255], [250, 250, 250]])
IMAGES = COLORS.to(torch.uint8)[:, :, None, None].expand(-1, -1, 32, 32).contiguous()
LABELS = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., training.Job]:
    """A training of two thin blocks."""
    tiny = {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 64}
    monkeypatch.setattr(dit, "DIT", dit.DIT | tiny)
    return lambda **options: make_job("dit", n_classes=N_CLASSES, batch_size=4, **options)


@pytest.fixture(scope="module")
def model() -> Model:
    return wrap_zoo("dit", build_net("dit", n_classes=N_CLASSES), "zoo:dit", {})


def test_a_training_begins_with_blocks_that_do_nothing_and_a_zero_output(small):
    start, twin = small(), build_net("dit", n_classes=N_CLASSES)
    x, t = torch.randn(2, 12, 16, 16, generator=start.generator), torch.tensor([5, 900])
    for net in (start.nets["dit"], start.ema):
        with torch.no_grad():
            tokens = net.pos_embed(x)
            block = net.transformer_blocks[1]
            out = block(tokens, timestep=t, class_labels=torch.tensor([0, 3]))
            assert torch.equal(out, tokens)
            assert not net(x, t, class_labels=torch.tensor([0, 3])).sample.any()
    with torch.no_grad():
        assert twin(x, t, class_labels=torch.tensor([0, 3])).sample.std() > 0.01


@pytest.mark.slow
def test_the_loss_falls(small, tmp_path):
    trained = small()
    # Warm-up would take a third of so short a run.
    trained.warmup = 1
    losses: list[float] = []
    step = trained.step

    def noted(*arguments):
        found = step(*arguments)
        losses.append(float(found["v_mse"]))
        return found

    trained.step = noted
    run(trained, IMAGES, LABELS, Box(steps=60), tmp_path)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])


def test_training_draws_from_its_own_generator_alone(small, tmp_path):
    trained, before = small(), torch.get_rng_state()
    run(trained, IMAGES, LABELS, Box(steps=2), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


def test_labels_are_dropped_before_the_network_and_for_all_of_it(small):
    job = small()
    net, seen = job.nets["dit"], []
    assert net.training
    for module in net.modules():
        if type(module).__name__ == "LabelEmbedding":
            module.embedding_table.register_forward_hook(lambda m, args, out: seen.append(args[0]))
    job.extra["recipe"]["null_share"] = 0.5
    x = torch.zeros(64, 3, 32, 32)
    job.step(job, x, torch.arange(64) % N_CLASSES, 0.0)
    # Two blocks and the head.
    assert len(seen) == 3
    assert all(torch.equal(labels, seen[0]) for labels in seen)
    assert 16 < int((seen[0] == N_CLASSES).sum()) < 48


def test_every_block_is_a_point_on_the_grid_of_patches(model):
    points = model.points
    assert points["x_t"].grid == (16, 16)
    for i in range(6):
        for suffix in ("", ":delta", ".attn1", ".ff"):
            point = points[f"transformer_blocks.{i}{suffix}"]
            assert (point.width, point.grid, point.stream) == (96, (8, 8), "image")
    assert points["pos_embed"].grid == (8, 8)
    assert points["transformer_blocks.5"].kind == "resid"
    assert points["transformer_blocks.5:delta"].kind == "delta"
    assert points["transformer_blocks.5.ff"].kind == "contrib"


def test_a_generation_reports_halves_timesteps_and_noise_levels(model):
    batch = GenerateBatch(seeds=(3, 4), steps=3, classes=(0, 2), guidance=2.0)
    with reading(model, ["transformer_blocks.2"]) as reader:
        made = model.generate(batch)
    assert made.shape == (2, 32, 32, 3)
    assert [c.call for c in reader.calls] == [0, 1, 2]
    assert {c.factor for c in reader.calls} == {2}
    assert [c.t for c in reader.calls] == [999.0, 666.0, 332.0]
    levels = [c.log_snr or 0.0 for c in reader.calls]
    assert levels == sorted(levels)
    assert levels[0] < -5
    first = reader.calls[0]
    assert first.value.shape == (4, 64, 96)
    # The halves differ by the class alone, and they do differ.
    assert not torch.equal(first.value[:2], first.value[2:])


def test_the_zoos_own_samples_are_those_of_the_loaded_model(model):
    batch = GenerateBatch(seeds=(3, 4), steps=2, classes=(0, 2), guidance=2.0)
    ours = sample_ddpm(model.root, [3, 4], [0, 2], steps=2, guidance=2.0)
    assert (model.generate(batch).int() - ours.int()).abs().max() <= 1


def test_a_sample_depends_on_its_own_seed_and_class_alone(model):
    both = sample_ddpm(model.root, [3, 4], [0, 1], steps=2)
    assert (both[1:].int() - sample_ddpm(model.root, [4], [1], steps=2).int()).abs().max() <= 1
    assert not torch.equal(both[1:], sample_ddpm(model.root, [4], [2], steps=2))


def test_no_class_is_the_null_class(model):
    assert model.n_classes == N_CLASSES
    null = GenerateBatch(seeds=(3,), steps=1)
    named = GenerateBatch(seeds=(3,), steps=1, classes=(N_CLASSES,))
    assert torch.equal(model.generate(null), model.generate(named))
    with pytest.raises(InputError, match="class 4 of a model with 4 class emb"):
        model.generate(GenerateBatch(seeds=(3,), steps=1, classes=(4,)))


def test_the_networks_own_class_dropout_is_off():
    net: Any = build_net("dit", n_classes=N_CLASSES).train()
    before = torch.get_rng_state()
    x, t = torch.zeros(2, 12, 16, 16), torch.tensor([5, 9])
    one, two = (net(x, t, class_labels=torch.tensor([0, 1])).sample for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(before, torch.get_rng_state())
    assert net.config["num_embeds_ada_norm"] == dit.null_class(net) == N_CLASSES
