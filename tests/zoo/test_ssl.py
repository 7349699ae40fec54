import math
import re
from dataclasses import replace

import pytest
import torch

from interp.loading import wrap_zoo
from interp.models import EncodeBatch, reading
from interp.zoo import ssl, ssl_quality, training
from interp.zoo.cards import Quality, verdict
from interp.zoo.images import load_images
from interp.zoo.nets import build_net
from interp.zoo.recipes import make_job
from interp.zoo.training import Box, run
from interp.zoo.vit import WIDTH

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (12, 3, 32, 32), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.zeros(12, dtype=torch.int64)
KNN = {"ssl": 0.40, "untrained": 0.30, "pixels": 0.28, "vit": 0.45}
PROBE = {"ssl": 0.45, "untrained": 0.30, "pixels": 0.28, "vit": 0.46}
RANK = {"ssl": 40.0, "untrained": 8.0, "pixels": 300.0, "vit": 20.0}
GOOD = Quality(n=100, knn=KNN, probe=PROBE, effective_rank=RANK)


def job(**options) -> training.Job:
    return make_job("ssl", n_classes=3, **{"batch_size": 6, **options})


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_encoder_is_vits_trunk_and_returns_its_features():
    net, vit = ssl.build(3), build_net("vit", n_classes=3)
    ours = {key: x.shape for key, x in net.state_dict().items()}
    theirs = {k: x.shape for k, x in vit.state_dict().items() if not k.startswith("head")}
    assert ours == theirs
    x = random(2, 3, 32, 32)
    assert net(x).shape == (2, WIDTH)
    assert torch.equal(net(x), net.features(x))


def test_every_block_is_a_point_named_as_in_vit():
    model = wrap_zoo("ssl", build_net("ssl", n_classes=3), "zoo:ssl", {})
    vit = wrap_zoo("vit", build_net("vit", n_classes=3), "zoo:vit", {})
    assert list(model.points) == list(vit.points)
    assert model.points["blocks.3"].grid == (8, 8)
    images = torch.full((2, 32, 32, 3), 200, dtype=torch.uint8)
    with reading(model, ["blocks.3"]) as reader:
        model.encode(EncodeBatch(images=images, noise_seeds=(), log_snr=None))
    assert reader.calls[0].value.shape == (2, 64, WIDTH)


def test_labels_play_no_part(tmp_path):
    ends = []
    for labels in (LABELS, torch.arange(12) % 3):
        trained = job()
        run(trained, IMAGES, labels, Box(steps=2), tmp_path / str(len(ends)))
        ends.append(trained.nets["ssl"].state_dict())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_training_draws_from_its_own_generator_alone(tmp_path):
    before = torch.get_rng_state()
    run(job(), IMAGES, LABELS, Box(steps=2), tmp_path)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_the_loss_falls(tmp_path):
    images = load_images("glyphs", split="train", limit=12).pixels.permute(0, 3, 1, 2)
    trained = job(batch_size=12)
    trained.warmup = 1
    losses: list[float] = []
    step = trained.step

    def noted(*arguments):
        found = step(*arguments)
        losses.append(float(found["loss"]))
        return found

    trained.step = noted
    run(trained, images, LABELS, Box(steps=30), tmp_path)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_view_is_a_function_of_its_generator_and_stays_near_the_images_range():
    x = IMAGES.float() / 127.5 - 1
    one, same = (ssl.view(x, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(one, same)
    assert not torch.equal(one, ssl.view(x, torch.Generator().manual_seed(2)))
    white = ssl.view(torch.ones(64, 3, 32, 32), torch.Generator().manual_seed(3))
    # Outside of the image there is white as well: nothing but contrast and brightness shows.
    assert white.flatten(1).std(1).max() < 1e-5


def test_all_patches_in_order_are_the_encoders_own_features():
    net, x = ssl.build(3), random(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ssl.look(net, x, 64, GENERATOR), net.features(x))
        assert not torch.equal(ssl.look(net, x, 32, GENERATOR), net.features(x))


def test_the_contrast_is_the_cross_entropy_of_the_partner_among_all_other_views():
    a, b = random(3, 5, seed=1).double(), random(3, 5, seed=2).double()
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    expected = torch.zeros((), dtype=torch.float64)
    for i in range(6):
        weights = [torch.exp(z[i] @ z[k] / 0.5) for k in range(6) if k != i]
        own = torch.exp(z[i] @ z[(i + 3) % 6] / 0.5)
        expected = expected - torch.log(own / torch.stack(weights).sum()) / 6
    loss, _ = ssl.contrast(a, b, 0.5)
    assert float(loss) == pytest.approx(float(expected), rel=1e-9)


def test_equal_projections_cost_the_logarithm_of_the_others_and_right_ones_nothing():
    same = torch.ones(4, 3)
    assert float(ssl.contrast(same, same, 0.2)[0]) == pytest.approx(math.log(7))
    apart = torch.eye(4)
    loss, found = ssl.contrast(apart, 2 * apart, 0.05)
    assert float(loss) < 1e-6
    assert float(found) == 1


def test_effective_rank_counts_equal_directions_and_ignores_the_offset():
    rows = torch.linalg.qr(random(100, 8).double() - random(100, 8).double().mean(0))[0]
    assert ssl_quality.effective_rank(rows) == pytest.approx(8, rel=0.01)
    assert ssl_quality.effective_rank(rows + 100) == pytest.approx(
        ssl_quality.effective_rank(rows), rel=1e-6
    )
    line = random(100, 1) * torch.ones(1, 8)
    assert ssl_quality.effective_rank(line) == pytest.approx(1, abs=1e-5)


def test_judges_of_categories_find_planted_ones_and_nothing_in_noise():
    labels = torch.arange(240) % 4
    centers = 3 * random(4, 6, seed=1)
    planted = centers[labels] + random(240, 6, seed=2)
    noise = random(240, 6, seed=3)
    clusters = [str(i // 8) for i in range(240)]
    a, b = slice(0, 160), slice(160, 240)
    for rows, low, high in ((planted, 0.9, 1.0), (noise, 0.05, 0.5)):
        knn = ssl_quality.knn_accuracy(rows[a], labels[a], rows[b], labels[b])
        probe = ssl_quality.probe_accuracy(rows[a], labels[a], clusters[:160], rows[b], labels[b])
        assert low <= knn <= high
        assert low <= probe <= high


def test_the_probe_is_invariant_to_scale_and_offset_of_columns():
    labels = torch.arange(120) % 3
    rows = 2 * random(3, 5)[labels] + random(120, 5, seed=1)
    clusters = [str(i) for i in range(80)]
    scores = [
        ssl_quality.probe_accuracy(x[:80], labels[:80], clusters, x[80:], labels[80:])
        for x in (rows, rows * torch.tensor([1, 10, 0.1, 5, 100.0]) + 7)
    ]
    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"knn": KNN | {"ssl": 0.32}}, r"k-NN accuracy 32.0% .* untrained \(30.0%\)"),
        ({"knn": KNN | {"pixels": 0.38}}, r"k-NN accuracy 40.0% .* pixels \(38.0%\)"),
        ({"probe": PROBE | {"untrained": 0.43}}, r"linear-probe .* untrained \(43.0%\)"),
        ({"effective_rank": {"ssl": 4.7}}, r"collapsed: 4.7 effective directions of 96"),
    ],
)
def test_each_rule_alone_makes_the_encoder_undertrained(change, reason):
    assert verdict(GOOD) == (False, ())
    judged = verdict(replace(GOOD, **change))
    assert judged.undertrained
    assert len(judged.reasons) == 1
    assert re.search(reason, judged.reasons[0])


@pytest.mark.slow
def test_the_picture_has_a_frame_for_every_category(tmp_path):
    from PIL import Image

    heldout = load_images("glyphs", split="heldout")
    ssl.picture(build_net("ssl", n_classes=16), tmp_path / "sheet.png", heldout)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (16 * 34, 8 * 34)
