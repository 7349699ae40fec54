"""Models named by spec on images and captions of the user's own: twins, levels, shared noise."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import interp
from interp.errors import InputError
from interp.studies import study
from interp.studies.captures import main_points

N = 40
WORDS = ["[UNK]", "<eos>", "a", "picture", "of", "color", "0", "1", "2", "3"]
FAST = {"measures": ("cka",), "n_permutations": 200, "n_folds": 5, "n_layers": 2}


def write_images(folder: Path) -> Path:
    from PIL import Image

    rng, lines = np.random.default_rng(0), ["file,caption"]
    (folder / "images").mkdir()
    for i in range(N):
        color = rng.integers(0, 255, 3)
        noise = rng.integers(-40, 40, (16, 16 if i % 3 else 20, 3))
        pixels = np.clip(color + noise, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"p{i:02d}.png")
        words = " ".join(map(str, (color // 64).tolist()[: 1 + i % 3]))
        lines.append(f"p{i:02d}.png,a picture of color {words}")
    (folder / "captions.csv").write_text("\n".join(lines) + "\n")
    return folder / "images"


def write_models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    import transformers as t
    from tokenizers import Tokenizer, models, pre_tokenizers

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "models"))
    from tiny_pipes import ddpm_pipe  # pyright: ignore

    assert "tiny_pipes" in sys.modules
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        sizes |= {"intermediate_size": 16, "image_size": 16, "patch_size": 4}
        t.ViTModel(t.ViTConfig(**sizes)).save_pretrained(folder / "vit")
        ends = {"bos_token_id": 1, "eos_token_id": 1}
        shape = {"vocab_size": 10, "n_positions": 32, "n_embd": 16, "n_layer": 2, "n_head": 2}
        t.GPT2LMHeadModel(t.GPT2Config(**shape, **ends)).save_pretrained(folder / "gpt")
        ddpm_pipe().save_pretrained(folder / "unet")
    words = models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0])
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"unk_token": WORDS[0], "bos_token": WORDS[1], "eos_token": WORDS[1]}
    fast = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.save_pretrained(folder / "gpt")
    return {
        "vit": f"transformers:{folder}/vit",
        "unet": f"diffusers:{folder}/unet",
        "gpt": f"lens:{folder}/gpt",
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_models_of_three_libraries_see_a_folder_and_read_its_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, models = write_images(tmp_path), write_models(tmp_path, monkeypatch)
    captions = tmp_path / "captions.csv"
    lines: list[str] = []
    options = {"log_snr": (0.0,), "activations": tmp_path / "stores", "progress": lines.append}
    found = study(models, images=images, captions=str(captions), **options, **FAST)
    alignment = found.alignment
    assert alignment.models == ("vit", "unet", "gpt")
    assert (alignment.n, alignment.sample_set) == (N, "real images")
    assert sum(line.startswith("capture") for line in lines) == 6
    # Words and their number stand beside a language model, without being asked for.
    assert {"words/counts", "caption/length", "pixels/rgb"} <= set(alignment.level_names())
    assert all(layer.twin for layer in alignment.layers if not layer.reference)
    assert len(found.scores) == 3
    assert "Not recorded: what" in found.reading
    captions.write_text("id,caption\np00,a picture\n")
    with pytest.raises(InputError, match="39 of 40 images have no caption: p01"):
        study(models, images=images, captions=str(captions), **options, **FAST)


@pytest.mark.slow
def test_diffusion_models_may_stand_beside_shared_noise(tmp_path: Path) -> None:
    images = write_images(tmp_path)
    options = {"log_snr": (0.0,), "activations": tmp_path / "stores", "images": images, **FAST}
    levels = ("pixels", "shared noise")
    found = study(["zoo:ddpm", "zoo:dit"], levels=levels, untrained=0, size=32, **options)
    assert found.choices is not None
    levels = {level.name for cell in found.alignment.cells for level in cell.levels}
    assert {"shared noise", "pixels/rgb"} <= levels
    assert "- shared noise: two networks that are shown the same noise" in found.reading


def test_layers_are_ends_of_blocks_evenly_over_the_depth() -> None:
    vit = interp.load("zoo:vit")
    assert main_points(vit, 8) == ["embed", *(f"blocks.{i}" for i in range(6))]
    assert main_points(vit, 3) == ["embed", "blocks.2", "blocks.5"]
    ddpm = main_points(interp.load("zoo:ddpm"), 100)
    assert not [name for name in ddpm if name.endswith(":main") or "samplers" in name]
    assert "up_blocks.1.attentions.1" in ddpm
    assert "up_blocks.1.resnets.1" not in ddpm


def test_a_generator_without_an_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="zoo:gan cannot look at images"):
        study(["zoo:gan", "zoo:vit"], limit=8, activations=tmp_path, **FAST)


def test_captions_of_a_store_are_its_own(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "c.csv").write_text("id,caption\na,b\n")
    where = {"images": tmp_path, "captions": str(tmp_path / "c.csv")}
    with pytest.raises(InputError, match="captions belong to a folder of images"):
        study(["zoo:vit", "zoo:vae"], activations=tmp_path / "out", **where, **FAST)
