"""One call on matrices, stores and Representations: the whole answer, or one clear error."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import interp
from interp.alignment import Alignment, Representation, compare, prh
from interp.errors import InputError
from interp.geometry.preprocessing import Preprocessing
from interp.store import write_store
from interp.studies import Judging, Showing, Study, study

N = 60
FAST = {"measures": ("cka",), "n_permutations": 200, "n_folds": 10, "recipes": ()}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(signal: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    latent = draw(N, 3, seed=9)
    return tuple(signal * latent @ draw(3, 8, seed=s) + draw(N, 8, seed=s + 50) for s in (1, 2))


def test_two_matrices_get_a_defensible_answer_in_one_line() -> None:
    x, y = pair()
    found = study([x, y], n_neighbors=0.1, n_folds=10, n_permutations=200)
    assert isinstance(found, Study)
    alignment = found.alignment
    assert alignment.models == ("x", "y")
    assert alignment.measures == ("cka", "mutual_knn", "procrustes")
    # The same numbers as one by one, with levels and corrections beside them.
    for cell in alignment.cells:
        options = {"n_permutations": 200, "n_folds": 10, "n_neighbors": 0.1}
        alone = compare(x, y, cell.comparison.measure, **options)
        assert cell.comparison.value == pytest.approx(alone.value, abs=0.02)
        assert [level.name for level in cell.levels] == ["spectrum"]
        assert cell.comparison.corrected is not None
    assert [score.value for score in found.scores] == [prh(x, y).value]
    assert "x and y: beyond chance and spectrum; beyond what else is not known" in found.reading
    assert str(found) == found.reading


def test_p_depends_on_seed_and_labels_and_on_neither_form_nor_type_of_the_matrices(
    tmp_path: Path,
) -> None:
    x, z = pair(0.0)
    np.save(tmp_path / "x.npy", x.numpy())
    np.save(tmp_path / "z.npy", z.double().numpy())

    def p_of(models) -> float | None:
        (cell,) = study(models, **FAST).alignment.cells
        return cell.comparison.p

    files = p_of([tmp_path / "x.npy", tmp_path / "z.npy"])
    assert files == p_of({"x": x, "z": z})
    assert files != p_of([x, z])


def test_unrelated_matrices_are_told_no() -> None:
    found = study([draw(N, 8), draw(N, 8, seed=1)], **FAST)
    assert found.verdicts[0].startswith("x and y: no, as much is found when images are shuffled")


def test_features_of_the_users_own_are_a_level() -> None:
    x, y = pair(2.0)
    found = study([x, y], references={"pixels": draw(N, 4, seed=8)}, **FAST)
    assert "yes, beyond chance, spectrum and pixels/features" in found.verdicts[0]
    # What both are like is no discovery.
    found = study([x, y], references={"shared": draw(N, 3, seed=9)}, **FAST)
    assert "beyond chance, but less than the reference level: shared/features" in found.verdicts[0]


def test_twins_of_matrices_stand_beside_them() -> None:
    x, y = pair(2.0)
    twins = {m: [draw(N, 8, seed=s), draw(N, 8, seed=s + 1)] for m, s in (("x", 20), ("y", 30))}
    found = study([x, y], twins=twins, **FAST)
    assert len(found.alignment.cells[0].twin_values) == 2
    assert "yes, beyond chance, untrained twins and spectrum" in found.verdicts[0]


def test_layers_are_chosen_on_one_half_and_scored_on_the_other() -> None:
    x, y = pair()
    models = {"a": {"early": draw(N, 8), "late": x}, "b": [draw(N, 5, seed=4), y]}
    found = study(models, **FAST)
    assert found.choices is not None
    assert {(c.layer_a, c.layer_b) for c in found.choices.choices} == {("a/late", "b/1")}
    assert study(models, halves=False, **FAST).choices is None
    assert study([x, y], **FAST).choices is None


def test_preprocessing_is_part_of_what_a_result_says_of_itself() -> None:
    x, y = pair()
    given = study([x, y], clip=0.9, normalize=True, **FAST)
    how = "as given, clipped at the 0.9 quantile of absolute values, rows of length 1"
    assert how in given.alignment.cells[0].comparison.preprocessing
    assert how in given.reading
    steps = Preprocessing(clip=0.9, normalize=True)
    by_hand = compare(steps.apply(x), steps.apply(y), n_permutations=0, n_folds=0)
    assert given.alignment.cells[0].comparison.value == pytest.approx(by_hand.value)
    assert given.alignment != study([x, y], **FAST).alignment


def test_rows_are_paired_by_id_and_clusters_belong_to_the_first() -> None:
    x, y = pair()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    ids = [f"image{i}" for i in range(N)]
    moved = [ids[i] for i in order]
    clusters = np.arange(N) // 2
    options = {"clusters": clusters, **FAST}
    same = study([x, y], ids=ids, **options)
    found = study([x, y[order]], ids={"x": ids, "y": moved}, **options)
    assert found.alignment.cells == same.alignment.cells
    assert found.alignment.strata == "whole clusters"
    assert study([x, y], strata=clusters % 3, **FAST).alignment.strata == "within group"


def test_files_stores_and_arrays_may_be_mixed(tmp_path: Path) -> None:
    x, y = pair()
    ids = [f"image{i}" for i in range(N)]
    np.save(tmp_path / "mine.npy", x.numpy())
    save_file({"late": y.contiguous()}, tmp_path / "theirs.safetensors")
    store = write_store(
        tmp_path / "stores", {"mid": y[:, None, None, :]}, generations={"image_id": ids}
    )
    named = [tmp_path / "mine.npy", str(tmp_path / "theirs.safetensors"), store.path]
    models = dict(zip(("a", "b", "c"), named, strict=True))
    found = study(models, ids={"a": ids, "b": ids}, levels=("spectrum",), **FAST)
    names = [layer.name for layer in found.alignment.layers]
    assert names == ["a/features", "b/late", "c/mid"]
    value = found.alignment.cell("a/features", "b/late").comparison.value
    assert value == pytest.approx(found.alignment.cell("a/features", "c/mid").comparison.value)
    labels = study([named[0], named[1]], **FAST).alignment.models
    assert labels == ("mine", "theirs")
    reps = [Representation("a", "x", x, tuple(ids))]
    assert study({"a": reps, "c": store}, levels=("spectrum",), **FAST).alignment.n == N


def test_default_levels_that_cannot_be_had_are_told_and_asked_ones_are_errors(
    tmp_path: Path,
) -> None:
    ids = [f"image{i}" for i in range(N)]
    stores = {
        m: write_store(tmp_path / m, {"mid": z[:, None, None, :]}, generations={"image_id": ids})
        for m, z in zip("ab", pair(), strict=True)
    }
    found = study(stores, **FAST)
    assert [p.split(":")[0] for p in found.problems] == [
        "the reference level pixels",
        "the reference level colors",
    ]
    assert "- Not computed: the reference level pixels" in found.reading
    with pytest.raises(interp.InterpError, match="no images"):
        study(stores, levels=("pixels",), **FAST)
    with pytest.raises(InputError, match="no level 'pixel'"):
        study(stores, levels=("pixel",), **FAST)
    with pytest.raises(InputError, match="shared noise needs diffusion models"):
        study(stores, levels=("shared noise",), **FAST)


def test_a_layer_that_is_the_same_everywhere_is_left_out_and_told() -> None:
    x, y = pair()
    found = study({"a": {"live": x, "dead": torch.ones(N, 4)}, "b": y}, **FAST)
    assert [one.name for one in found.alignment.layers] == ["a/live", "b/features"]
    assert found.problems == ("a/dead, which is the same for every image",)
    with pytest.raises(InputError, match=r"every layer of b .* is the same for every image"):
        study({"a": x, "b": torch.ones(N, 4)}, **FAST)


def test_what_the_recipe_cannot_score_ends_no_study() -> None:
    x, y = pair()
    zero = x.clone()
    zero[3] = 0
    found = study([zero, y], **{**FAST, "recipes": ("prh",)})
    assert found.scores == ()
    assert "the published score prh: x/features: 1 of 60 rows are zero" in found.problems[0]


def test_the_folder_has_numbers_table_figure_page_and_reading(tmp_path: Path) -> None:
    x, y = pair()
    out = tmp_path / "out"
    models = {"a": {"early": draw(N, 8), "late": x}, "b": y}
    found = study(models, out=out, made_by="me", **{**FAST, "recipes": ("prh",)})
    assert Alignment.load(out / "alignment.json").cells[0].i == 0
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(found.table()) == 2
    assert float(rows[0]["value"]) == pytest.approx(found.table()[0]["value"])
    assert "spectrum [both] difference" in rows[0]
    assert (out / "reading.md").read_text() == found.reading
    assert json.loads((out / "scores.json").read_text())[0]["k"] == 10
    assert (out / "halves.json").is_file()
    assert "plotly" in (out / "figure-cka.html").read_text()
    assert "How alike: a, b" in (out / "index.html").read_text()
    assert not list(out.glob("*.partial"))


def test_no_name_in_the_table_is_a_formula_of_a_spreadsheet(tmp_path: Path) -> None:
    x, y = pair()
    study({"=1+1": x, "b": y}, out=tmp_path / "out", **FAST)
    with (tmp_path / "out" / "table.csv").open() as file:
        texts = [text for row in csv.DictReader(file) for text in row.values()]
    assert "'=1+1/features" in texts
    assert not [text for text in texts if text.startswith("=")]


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        (lambda x: [x], {}, "1 model to compare"),
        (lambda x: None, {}, "models are NoneType: a list of two or more"),
        (lambda x: "zoo:vit", {}, "models are str: a list of two or more"),
        (lambda x: {"a|b": x, "c": x}, {}, r"label 'a\|b' of a model has"),
        (lambda x: [x[:4], x[:4]], {"clusters": list("aabb"), "n_folds": 2}, "in 8 ways"),
        (lambda x: [x, x[1:]], {}, "y/features has 59 rows and x/features has 60 rows: row i"),
        (lambda x: [x, x[:, 0]], {}, r"y has layers \{'features': \(60,\)\}"),
        (lambda x: [x, x * torch.nan], {}, "NaN or infinite"),
        (lambda x: [x, "nonsense"], {}, "'nonsense' is no model, store or matrix"),
        (lambda x: [x, "absent.npy"], {}, "there is no such file"),
        (lambda x: [x, 3], {}, "y is a int"),
        (lambda x: [x, x], {"ids": ["a"] * N}, "ids stand more than once: a"),
        (lambda x: [x, x], {"ids": ["a"]}, "x has 60 rows and there are 1 ids"),
        (lambda x: [x, x], {"ids": {"z": ["a"]}}, "'z' is not among the models x, y"),
        (lambda x: [x, x], {"clusters": ["a"]}, "x has 60 rows and there are 1 clusters"),
        (lambda x: [x, x], {"n_folds": 61}, "61 folds from 60 clusters"),
        (lambda x: [x, x], {"n_permutations": 50}, "50 permutations"),
        (lambda x: [x, x], {"measures": ("ckaa",)}, "no measure 'ckaa'"),
        (lambda x: [x, x], {"recipes": ("huh",)}, "no recipe 'huh'; there are prh"),
        (lambda x: [x, x], {"speed": 3}, "no option 'speed'; there are images, captions"),
        (lambda x: [x, x], {"points": {"z": ["*"]}}, "'z' is not among the models"),
        (lambda x: [x, x], {"twins": {"z": draw(N, 5)}}, "'z' is not among the models"),
    ],
)
def test_what_cannot_be_compared_is_one_clear_error(models, options, message: str) -> None:
    with pytest.raises(InputError, match=message):
        study(models(draw(N, 5)), **{**FAST, **options})


def test_ids_that_differ_are_counted() -> None:
    x, y = pair()
    ids = {"x": [f"a{i}" for i in range(N)], "y": [f"a{i + 1}" for i in range(N)]}
    with pytest.raises(InputError, match=r"lacks 1 \(a0\) and has 1 others \(a60\)"):
        study([x, y], ids=ids, **FAST)


def test_an_error_leaves_the_earlier_result_as_it_is(tmp_path: Path) -> None:
    x, y = pair()
    study([x, y], out=tmp_path, **FAST)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    with pytest.raises(InputError, match="lacks"):
        study([x, y[1:]], out=tmp_path, **FAST)
    assert before == {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}


def test_options_go_by_name_or_in_records() -> None:
    x, y = pair()
    records = study([x, y], judging=Judging(**FAST), showing=Showing(untrained=0))
    assert records.alignment == study([x, y], **{**FAST, "measures": "cka"}).alignment
    with pytest.raises(InputError, match="untrained = -1: at least 0 is needed"):
        Showing(untrained=-1)
    with pytest.raises(InputError, match="no measures given"):
        Judging(measures=())


def test_a_folder_of_someone_else_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("mine")
    (tmp_path / "table.csv").write_text("mine")
    said: list[str] = []
    with pytest.raises(InputError, match="is not a dashboard of this library"):
        study([*pair()], out=tmp_path, progress=said.append, **FAST)
    assert not said
    assert sorted(one.name for one in tmp_path.iterdir()) == ["index.html", "table.csv"]
    assert (tmp_path / "table.csv").read_text() == "mine"


def test_a_file_is_no_folder_of_a_result(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        study([*pair()], out=tmp_path / "out", **FAST)


def test_labels_of_rows_belong_to_the_first_model_whatever_the_order_of_ids() -> None:
    x, y = pair()
    order = torch.randperm(N, generator=torch.Generator().manual_seed(4)).tolist()
    ids = [f"i{row}" for row in range(N)]
    near = [row // 3 for row in range(N)]
    given = {"x": ids, "y": [ids[row] for row in order]}
    turned = dict(reversed(given.items()))
    models = {"x": x, "y": y[order]}
    first, second = (
        study(models, ids=some, clusters=near, **FAST).alignment for some in (given, turned)
    )
    assert first == second


def test_references_stand_on_the_ids_of_all_or_on_their_own() -> None:
    x, y = pair()
    ids, back = [f"i{row}" for row in range(N)], [f"i{row}" for row in range(N)][::-1]
    seen = draw(N, 4, seed=8)
    one = study([x, y], ids=ids, references={"pixels": seen}, **FAST)
    named = {"x": ids, "y": ids, "pixels": back}
    other = study([x, y], ids=named, references={"pixels": seen.flip(0)}, **FAST)
    assert one.alignment == other.alignment


@pytest.mark.parametrize(
    "options",
    [
        {"measures": ("cka", "cka")},
        {"seed": -1},
        {"n_permutations": 250.5},
        {"pooling": "median"},
        {"n_neighbors": float("nan")},
    ],
)
def test_options_that_mean_nothing_are_refused_by_name(options: dict) -> None:
    with pytest.raises(InputError, match=next(iter(options))):
        Judging(**options)
