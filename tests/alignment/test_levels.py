"""Reference levels: what each is made of, and how it stands beside a cell."""

from pathlib import Path

import numpy as np
import pytest
import torch

from interp.alignment import (
    Alignment,
    Representation,
    caption_representations,
    color_representation,
    compare,
    compare_layers,
    matched_spectrum,
    random_convolutions,
    reference,
    text_representations,
)
from interp.errors import InputError
from interp.stats import detectable_difference, jackknife, make_folds
from interp.store import ActivationStore, write_store

N = 40
IDS = tuple(f"i{i:02d}" for i in range(N))
CAPTIONS = [f"a {color} {thing}" for color in ("red", "blue") for thing in ["cube", "disk", "ring"]]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def layer(model: str, seed: int, signal: float = 1.0, point: str = "p", **more) -> Representation:
    x = signal * draw(N, 3, seed=99) @ draw(3, 5, seed=seed) + draw(N, 5, seed=seed + 1)
    return Representation(model, point, x, IDS, **more)


def store_of(path: Path, **more) -> ActivationStore:
    n = 24
    table = {
        "image_id": [f"i{i:02d}" for i in range(n)],
        "caption": [CAPTIONS[i % 6] for i in range(n)],
    }
    images = (draw(n, 8, 8, 3, seed=3) * 60 + 128).clamp(0, 255).byte()
    return write_store(
        path,
        {"block": draw(n, 1, 16, 6, seed=more.pop("seed", 0))},
        generations=table | more,
        images=images,
        t=(0,),
        log_snr=(0.0,),
        model={"spec": "zoo:test"},
    )


def run(models, **options) -> Alignment:
    return compare_layers(
        models, **{"pixels": False, "measures": ("cka",), "n_folds": 8, **options}
    )


def test_colors_are_shares_of_pixels_in_64_cells(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    one = color_representation(store, strata="")
    assert one.x.shape == (24, 64)
    assert one.reference
    assert torch.allclose(one.x.sum(1), torch.ones(24))
    picture = store.images([5])[0].long() // 64
    code = (picture[..., 0] * 16 + picture[..., 1] * 4 + picture[..., 2]).flatten()
    expected = torch.bincount(code, minlength=64) / 64
    assert torch.allclose(one.x[one.ids.index("i05")], expected)
    cells = color_representation(store, strata="", pooling="tokens").x
    assert cells.shape == (24, 16, 64)
    assert torch.allclose(cells.mean(0), torch.zeros(16, 64), atol=1e-6)


def test_words_are_counted_weighted_and_measured() -> None:
    texts = ["Red cube, red!", "red disk", "a blue disk", "unlike"]
    counts, tfidf, length = text_representations(texts, ("a", "b", "c", "d"))
    # Words of one text are left out: disk and red are left.
    assert counts.x.tolist() == [[0, 2], [1, 1], [1, 0], [0, 0]]
    assert [one.name for one in (counts, tfidf, length)] == [
        "words/counts",
        "words/tfidf",
        "caption/length",
    ]
    assert torch.allclose(tfidf.x.norm(dim=1), torch.tensor([1.0, 1, 1, 0]))
    assert length.x[:, 0].tolist() == pytest.approx(np.log1p([3, 2, 3, 1]).tolist())
    with pytest.raises(InputError, match="no word stands in two of the 2 texts"):
        text_representations(["one", "other"], ("a", "b"))
    with pytest.raises(InputError, match="1 texts for 2 image ids"):
        text_representations(["one"], ("a", "b"))


def test_captions_of_a_store_are_read_once_per_image(tmp_path: Path) -> None:
    words = caption_representations(store_of(tmp_path / "a"), strata="")[0]
    assert words.x.shape == (24, 6)
    assert words.x.sum(1).tolist() == [3] * 24
    with pytest.raises(InputError, match="have no captions: leave the words out"):
        caption_representations(store_of(tmp_path / "b", caption=[""] * 24), strata="")
    with pytest.raises(InputError, match="captions have no positions"):
        caption_representations(store_of(tmp_path / "a"), pooling="tokens")


def test_random_filters_are_drawn_anew_and_the_same_for_a_seed(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    first, again = (random_convolutions(store, strata="", n_draws=3) for _ in range(2))
    assert [one.call for one in first] == [0, 1, 2]
    assert torch.equal(first[1].x, again[1].x)
    assert not torch.equal(first[0].x, first[1].x)
    assert first[0].x.shape == (24, 64)
    assert bool((first[0].x >= 0).all())
    assert not torch.equal(random_convolutions(store, strata="", seed=1)[0].x, first[0].x)


@pytest.mark.parametrize("shape", [(30, 4), (12, 40), (10, 3, 4)])
def test_a_matched_spectrum_has_the_layers_and_nothing_of_its_images(
    shape: tuple[int, ...],
) -> None:
    n = shape[0]
    scale = torch.logspace(1, -1, shape[-1])
    one = Representation("m", "p", draw(*shape) * scale + 2, tuple(map(str, range(n))))
    other = matched_spectrum(one)
    flat = [z.x.reshape(-1, shape[-1]) for z in (one, other)]
    values = [torch.linalg.svdvals(z - z.mean(0)) for z in flat]
    assert torch.allclose(*values, atol=1e-3)
    assert torch.allclose(flat[0].mean(0), flat[1].mean(0), atol=1e-4)
    assert torch.equal(matched_spectrum(one).x, other.x)
    assert not torch.equal(matched_spectrum(one, draw=1).x, other.x)
    assert "rotated at random (draw 0)" in other.preprocessing


def test_the_level_of_several_twins_is_their_mean_and_each_is_shown() -> None:
    models = {"a": [layer("a", 0)], "b": [layer("b", 10)]}
    twins = {m: [[layer(m, s + 10 * t, 0)] for t in range(5)] for m, s in (("a", 100), ("b", 200))}
    cell = run(models, twins=twins).cell(0, 1)
    each = [compare(p.x, q.x, n_folds=8) for (p,), (q,) in zip(twins["a"], twins["b"], strict=True)]
    values = [one.value for one in each]
    assert cell.twin_values == pytest.approx(values)
    assert cell.twin_value == pytest.approx(np.mean(values))
    (level,) = cell.levels
    assert (level.name, level.stands_for) == ("untrained twins", "both")
    assert level.spread == pytest.approx(np.std(values, ddof=1))
    assert level.difference == pytest.approx(cell.comparison.value - np.mean(values))
    # The interval is that of the difference to the mean twin: all from the same folds.
    folds = make_folds(IDS, 8, 0)
    kept = [torch.as_tensor(folds != f) for f in range(8)]
    options = {"n_permutations": 0, "n_folds": 0}
    mine = [compare(models["a"][0].x[k], models["b"][0].x[k], **options).value for k in kept]
    theirs = [
        np.mean(
            [
                compare(p.x[k], q.x[k], **options).value
                for (p,), (q,) in zip(twins["a"], twins["b"], strict=True)
            ]
        )
        for k in kept
    ]
    interval = jackknife(level.difference, np.subtract(mine, theirs))
    assert (level.low, level.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert level.detectable == pytest.approx(detectable_difference(interval.se, 7))
    assert level.decided == (level.low > 0 or level.high < 0)


def test_fewer_twins_of_one_model_are_taken_in_turn() -> None:
    models = {m: [layer(m, s)] for m, s in (("a", 0), ("b", 10), ("c", 20))}
    twins = {
        "a": [[layer("a", 100 + t, 0)] for t in range(3)],
        "b": [[layer("b", 200 + t, 0)] for t in range(2)],
    }
    result = run(models, twins=twins, n_permutations=0)
    both = result.cell("a/p", "b/p")
    again = [compare(twins["a"][t][0].x, twins["b"][t % 2][0].x).value for t in range(3)]
    assert both.twin_values == pytest.approx(again)
    # A model without twins stands for itself.
    one = result.cell("b/p", "c/p")
    alone = [compare(twin[0].x, models["c"][0].x).value for twin in twins["b"]]
    assert one.twin_values == pytest.approx(alone)
    assert [layer.twin for layer in result.layers] == [True, True, False]


@pytest.mark.parametrize("measure", ["cka", "r2", "gulp"])
def test_a_reference_stands_for_either_layer(measure: str) -> None:
    models = {"a": [layer("a", 0)], "b": [layer("b", 10)]}
    codes = reference(draw(N, 4, seed=5), IDS, "vae/code")
    result = run(models, levels=[codes], measures=(measure,))
    cell = result.cell("a/p", "b/p", measure)
    options = {"n_permutations": 0, "n_folds": 0}
    for side, pair in (("i", (codes.x, models["b"][0].x)), ("j", (models["a"][0].x, codes.x))):
        level = cell.level("vae/code", side)
        assert level.value == pytest.approx(compare(*pair, measure, **options).value)
        assert level.values == (level.value,)
        assert level.spread is None
        assert level.difference == pytest.approx(cell.comparison.value - level.value)
        assert level.low < level.difference < level.high
    if measure == "cka":
        value, interval = result.difference(("a/p", "b/p"), ("a/p", "vae/code"))
        assert cell.level("vae/code", "j").low == pytest.approx(interval.low)
        assert value == pytest.approx(cell.level("vae/code", "j").difference)
    assert result.level_names() == ("vae/code",)
    row = next(one for one in result.table(measure) if one["b"] == "b/p" and one["a"] == "a/p")
    assert row["vae/code [i] difference"] == cell.level("vae/code", "i").difference
    assert cell.level("pixels/rgb") is None


def test_draws_of_a_random_reference_are_one_level(tmp_path: Path) -> None:
    models = {m: store_of(tmp_path / m, seed=s) for m, s in (("a", 1), ("b", 2))}
    names = ["colors", "random convolutions", "words", "tfidf", "caption length", "spectrum"]
    result = run(models, levels=names, pixels=True, strata="", n_permutations=0)
    cell = result.cell("a/block", "b/block")
    assert result.level_names() == (
        "spectrum",
        "pixels/rgb",
        "colors/histogram",
        "random convolutions/relu",
        "words/counts",
        "words/tfidf",
        "caption/length",
    )
    level = cell.level("random convolutions/relu", "i")
    assert len(level.values) == 5
    assert level.spread > 0
    assert len(cell.level("spectrum").values) == 5
    # Random features know nothing of the images.
    assert abs(cell.level("spectrum").value) < 0.3
    # A reference has no levels itself.
    assert result.cell("a/block", "pixels/rgb").levels == ()


def test_wrong_levels_are_refused() -> None:
    models = {"a": [layer("a", 0)], "b": [layer("b", 10)]}
    with pytest.raises(InputError, match="no level 'color'; there are pixels, colors, random"):
        run(models, levels=["color"])
    with pytest.raises(InputError, match=r"no store to take colors from: .* leave 'colors' out"):
        run(models, levels=["colors"])
    with pytest.raises(InputError, match="the name 'code' of a level needs the form"):
        reference(draw(N, 2), IDS, "code")
    with pytest.raises(InputError, match=r"shared_noise of \['z'\], which are not among"):
        run(models, shared_noise={"z": models["a"]})
    with pytest.raises(InputError, match="a/p was shown no noise"):
        run(models, shared_noise=models)
    with pytest.raises(InputError, match=r"leaks of \['z'\], which are not among"):
        run(models, leaks={"z": ("labels",)})


def test_leaks_are_told_for_the_models_that_share_them() -> None:
    told = ("training images: t", "labels: t")
    models = {
        "a": [layer("a", 0, leaks=told)],
        "b": [layer("b", 10, leaks=told[:1])],
        "c": [layer("c", 20)],
    }
    result = run(models, leaks={"c": ("labels: t",)}, n_permutations=0, n_folds=0)
    assert result.shared_leaks == (
        ("training images: t", ("a", "b")),
        ("labels: t", ("a", "c")),
    )
    rows = {(row["a"], row["b"]): row["leaks"] for row in result.table()}
    assert rows["a/p", "b/p"] == ("training images: t",)
    assert rows["b/p", "c/p"] == ()


def test_levels_survive_the_file(tmp_path: Path) -> None:
    models = {"a": [layer("a", 0, leaks=("x",))], "b": [layer("b", 10)]}
    twins = {"a": [[layer("a", 100 + t, 0)] for t in range(2)]}
    result = run(models, twins=twins, levels=["spectrum"], measures=("cka", "r2"))
    again = Alignment.load(result.save(tmp_path / "one.json"))
    assert again.layers == result.layers
    assert again.save(tmp_path / "two.json").read_bytes() == (tmp_path / "one.json").read_bytes()
    assert again.cell(0, 1, "r2").levels[1].name == "spectrum"
    assert again.cell(0, 1, "r2").reverse is not None
