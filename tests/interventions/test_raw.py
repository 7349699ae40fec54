"""SSIM, LPIPS and CLIP: exact properties, and nothing that is not on the machine."""

import importlib.util

import pytest
import torch

from interp.errors import InputError
from interp.interventions import RAW, available_raw, raw


def _images(n=3, h=20, w=24, seed=0):
    return torch.rand(n, h, w, 3, generator=torch.Generator().manual_seed(seed)).double()


def test_ssim_is_one_for_equal_images_symmetric_and_at_most_one():
    a, b = _images(), _images(seed=1)
    assert torch.allclose(raw.ssim(a, a), torch.ones(3).double(), atol=1e-12)
    assert torch.equal(raw.ssim(a, b), raw.ssim(b, a))
    assert raw.ssim(a, b).abs().max() < 0.2
    flipped = raw.ssim(a, 1 - a)
    assert flipped.max() < 0


def test_ssim_of_flat_images_is_its_luminance_term():
    a, b = (torch.full((1, 16, 16, 3), v).double() for v in (0.2, 0.7))
    expected = (2 * 0.2 * 0.7 + 1e-4) / (0.04 + 0.49 + 1e-4)
    assert raw.ssim(a, b).item() == pytest.approx(expected, rel=1e-6)


def test_ssim_is_the_mean_over_windows():
    a, b = _images(1, 16, 17), _images(1, 16, 17, seed=1)
    luma = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    x, y = (a @ luma)[0], (b @ luma)[0]
    place = torch.arange(11).double() - 5
    window = torch.exp(-(place[:, None] ** 2 + place[None] ** 2) / 4.5)
    window = window / window.sum()
    values = []
    for i in range(6):
        for j in range(7):
            p, q = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            m, n = (window * p).sum(), (window * q).sum()
            vp, vq = (window * (p - m) ** 2).sum(), (window * (q - n) ** 2).sum()
            both = (window * (p - m) * (q - n)).sum()
            top = (2 * m * n + 1e-4) * (2 * both + 9e-4)
            values.append(top / ((m**2 + n**2 + 1e-4) * (vp + vq + 9e-4)))
    assert raw.ssim(a, b).item() == pytest.approx(torch.stack(values).mean().item(), rel=1e-9)


def test_bytes_and_floats_give_the_same():
    a, b = ((255 * _images(seed=s)).to(torch.uint8) for s in (0, 1))
    assert torch.equal(raw.ssim(a, b), raw.ssim(a.float() / 255, b.float() / 255))


def test_only_what_is_on_the_machine_is_offered():
    found = available_raw()
    assert found["ssim"] is raw.ssim
    assert set(RAW) == {"ssim", "lpips", "clip"}
    a = _images()
    for name in set(RAW) - set(found):
        with pytest.raises(InputError, match=r"lacks .* nothing is downloaded"):
            RAW[name](a, a)


def test_lpips_without_its_package_or_weights_says_which(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="lacks the package lpips"):
        raw.lpips(_images(), _images())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match="lacks alexnet-owt"):
        raw.lpips(_images(), _images())


@pytest.mark.slow
def test_clip_of_a_folder_is_the_cosine_of_its_embeddings(tmp_path):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=16,
        projection_dim=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=24,
        patch_size=8,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPVisionModelWithProjection(config).save_pretrained(tmp_path)
    a, b = _images(), _images(seed=1)
    same, other = (raw.clip(a, x, weights=str(tmp_path)) for x in (a, b))
    assert same == pytest.approx(torch.ones(3), abs=1e-6)
    assert other.max() < 1 - 1e-4
    assert torch.allclose(other, raw.clip(b, a, weights=str(tmp_path)))
    with pytest.raises(InputError, match=r"CLIP lacks model.safetensors or .* of nobody/nothing"):
        raw.clip(a, b, weights="nobody/nothing")


def test_images_that_do_not_fit_each_other_are_refused():
    with pytest.raises(InputError, match=r"\(3, 20, 24, 3\) and \(2, 20, 24, 3\)"):
        raw.ssim(_images(), _images(2))
