import json
import re
import shutil
from dataclasses import replace

import pytest
import torch

from interp.errors import InterpError
from interp.zoo import MODELS, cards, quality
from interp.zoo.cards import Quality, card, verdict, write_quality
from interp.zoo.export import picture
from interp.zoo.images import load_images
from interp.zoo.nets import WEIGHTS, load_net
from interp.zoo.sampling import sample_ddpm, sample_gan

GOOD = Quality(
    n=100,
    frechet=4.0,
    frechet_floor=1.0,
    nearest_train=0.2,
    nearest_train_heldout=0.2,
    label_accuracy=0.5,
    vit_accuracy=0.6,
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"label_accuracy": 0.29}, r"vit labels 29.0% .* less than half of its 60.0%"),
        ({"frechet": 5.1}, r"Frechet distance 5.1 is 5.1 times its floor 1 \(limit 5\)"),
        ({"nearest_train": 0.13}, r"0.65 times as far from training images .* \(limit 0.7\)"),
        ({"accuracy": 0.2, "majority": 0.15}, r"20.0% is below twice .* 15.0%"),
    ],
)
def test_each_rule_alone_makes_a_network_undertrained(change, reason):
    assert verdict(GOOD) == (False, ())
    judged = verdict(replace(GOOD, **change))
    assert judged.undertrained
    assert len(judged.reasons) == 1
    assert re.search(reason, judged.reasons[0])


def test_a_rule_without_its_measure_does_not_apply():
    assert verdict(Quality(n=1)) == (False, ())


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_network_has_a_complete_card_and_picture(name):
    shipped = card(f"zoo:{name}")
    assert shipped.name == f"zoo:{name}"
    assert shipped.data["categories"] == list(load_images("glyphs").categories)
    assert len(shipped.data["sha256"]) == 64
    assert shipped.recipe["lr"] > 0
    assert {"steps", "seed", "seconds", "device"} <= shipped.training.keys()
    assert shipped.quality is not None
    assert shipped.verdict == verdict(shipped.quality)
    assert ("UNDERTRAINED" in shipped.warning) == shipped.verdict.undertrained
    assert (WEIGHTS / f"{name}.png").stat().st_size < 200_000


def test_a_card_without_quality_says_so_and_takes_one(tmp_path):
    for suffix in ("json", "safetensors"):
        shutil.copy(WEIGHTS / f"vit.{suffix}", tmp_path)
    path = tmp_path / "vit.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quality": None, "verdict": None}))
    assert card("vit", folder=tmp_path).warning == "zoo:vit: quality not measured"
    written = write_quality("vit", replace(GOOD, frechet=9.87654321), folder=tmp_path)
    assert written.quality is not None
    assert written.quality.frechet == 9.877
    assert written.warning.startswith("zoo:vit: UNDERTRAINED (Frechet distance")


def test_only_generators_draw():
    with pytest.raises(InterpError, match="vit does not generate; gan, ddpm and dit do"):
        cards.draw("vit", torch.nn.Identity(), [0])


def test_frechet_of_shifted_scaled_gaussians_has_its_closed_form():
    x = torch.randn(500, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert quality.frechet(x, x) == pytest.approx(0, abs=1e-9)
    shift = torch.tensor([1.0, 0, 0, 2.0], dtype=torch.float64)
    # y = 3x + s: |mean difference|^2 + (3 - 1)^2 tr C.
    mean = x.mean(0)
    expected = (2 * mean + shift).square().sum() + 4 * torch.cov(x.T).trace()
    assert quality.frechet(x, 3 * x + shift) == pytest.approx(float(expected), rel=1e-9)


def test_precision_and_recall_tell_collapse_from_noise():
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(200, 3, generator=generator)
    collapsed = real[:1] + 0.01 * torch.randn(200, 3, generator=generator)
    precision, recall = quality.precision_recall(real, collapsed)
    assert precision > 0.9
    assert recall < 0.05
    precision, recall = quality.precision_recall(real, real + 20)
    assert precision == recall == 0


def test_nearest_and_psnr_have_their_units():
    black = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    gray = torch.full((1, 4, 4, 3), 51, dtype=torch.uint8)
    assert torch.allclose(quality.nearest(black, gray), torch.full((2,), 0.2, dtype=torch.float64))
    assert quality.psnr(black, gray.expand(2, -1, -1, -1)) == pytest.approx(13.979, abs=1e-3)


def test_sample_i_depends_on_seed_i_alone():
    net, _ = load_net("gan")
    both = sample_gan(net, [3, 4])
    # Batches of other sizes may round differently in the last bit.
    assert (both[1:].int() - sample_gan(net, [4]).int()).abs().max() <= 1


@pytest.mark.slow
def test_ddpm_samples_depend_on_seed_and_class():
    net, _ = load_net("ddpm")
    both = sample_ddpm(net, [3, 4], [0, 1], steps=3)
    assert (both[1:].int() - sample_ddpm(net, [4], [1], steps=3).int()).abs().max() <= 1
    assert not torch.equal(both[1:], sample_ddpm(net, [4], [2], steps=3))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit", "vae", "gan"])
def test_quality_is_measured_on_a_few_images(name):
    measured = cards.evaluate_zoo(name, n=32)
    assert measured.n == 32
    if name == "vit":
        assert measured.accuracy is not None
        assert measured.accuracy > 0.2
    else:
        assert measured.frechet is not None
        assert measured.frechet_floor is not None
    if name == "vae":
        assert measured.psnr is not None
        assert measured.psnr > 20


def test_a_picture_holds_every_image(tmp_path):
    from PIL import Image

    picture(tmp_path / "sheet.png", torch.zeros(5, 32, 32, 3, dtype=torch.uint8), columns=3)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (3 * 34, 2 * 34)
