"""The reading in plain words: what the data say, no more; "no" where they say no."""

import dataclasses

import pytest
import torch

from interp.alignment import Alignment, Representation, choose_and_score, compare_layers, read
from interp.alignment.reading import Case, cases, held_out_cases, judge, side, summary
from interp.alignment.recipes import score_models
from interp.alignment.records import Comparison, Level
from interp.alignment.words import LEVELS, level_words

N = 80
IDS = tuple(f"image{i:03d}" for i in range(N))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def model(name: str, signal: float, seed: int, count: int = 1, **more) -> list[Representation]:
    latent = draw(N, 3, seed=99)
    return [
        Representation(
            name,
            f"block{i}",
            signal * latent @ draw(3, 6, seed=seed + i) + draw(N, 6, seed=seed + 50 + i),
            IDS,
            **more,
        )
        for i in range(count)
    ]


def compared(signal: float, count: int = 1, **options) -> Alignment:
    models = {m: model(m, signal, 100 * i, count) for i, m in enumerate("ab")}
    return compare_layers(models, **{"pixels": False, "measures": ("cka",), **options})


def comparison(value: float = 0.5, distance: bool = False, **more) -> Comparison:
    given = {"null_mean": 0.1, "null_sd": 0.02, "z": 9.0, "p": 0.005, "low": 0.4, "high": 0.6}
    given |= {"n": N, "k": None, "n_permutations": 200, "seed": 0, "preprocessing": "as given"}
    return Comparison("cka", value, distance=distance, **{**given, **more})


def level(low: float | None, high: float | None, name: str = "untrained twins") -> Level:
    middle = 0.0 if low is None or high is None else (low + high) / 2
    return Level(name, "both", 0.5 - middle, (0.5 - middle,), None, middle, low, high, 0.1, 0.25)


def case(p: float, *levels: Level, **more) -> Case:
    one = comparison(**more)
    return Case(("a", "b"), ("a/x", "b/y"), one, p, one, levels, 4, None)


ABOVE, BELOW, OPEN = level(0.1, 0.3), level(-0.3, -0.1), level(-0.1, 0.3)


@pytest.mark.parametrize(
    ("given", "word"),
    [
        (case(0.2, ABOVE), "no"),
        (case(0.01), "bare"),
        (case(0.01, level(0.1, 0.3, "spectrum")), "bare"),
        (case(0.01, ABOVE), "yes"),
        (case(0.01, ABOVE, level(0.1, 0.3, "spectrum")), "yes"),
        (case(0.01, ABOVE, OPEN), "undecided"),
        (case(0.01, ABOVE, level(None, None)), "undecided"),
        (case(0.01, ABOVE, OPEN, BELOW), "less"),
        # Of a distance, less is more alike.
        (case(0.01, BELOW, distance=True), "yes"),
        (case(0.01, ABOVE, distance=True), "less"),
    ],
)
def test_a_verdict_is_as_strong_as_the_weakest_of_its_differences(given: Case, word: str) -> None:
    verdict = judge(given)
    assert verdict.word == word
    assert verdict.text.startswith({"no": "no", "yes": "yes"}.get(word, "beyond chance"))


def test_a_difference_whose_interval_holds_zero_is_undecided() -> None:
    assert [side(one, False) for one in (ABOVE, BELOW, OPEN)] == ["above", "below", "undecided"]
    assert [side(one, True) for one in (ABOVE, BELOW, OPEN)] == ["below", "above", "undecided"]
    assert side(level(None, None), False) == "undecided"


def test_no_is_said_of_unrelated_models_with_what_would_have_been_missed() -> None:
    alignment = compared(0.0, twins={"a": model("a", 0, 7), "b": model("b", 0, 8)})
    text = read(alignment)
    assert "a and b: no, as much is found when images are shuffled" in text
    assert "would have been missed more often than one time in five" in text
    detectable = alignment.cells[0].comparison.detectable
    assert f"a likeness of less than {detectable:.3f} from chance" in text
    assert "yes" not in text


def test_yes_is_said_beyond_every_level_and_only_then() -> None:
    twins = {"a": model("a", 0, 7), "b": model("b", 0, 8)}
    text = read(compared(2.0, twins=twins))
    assert "a and b: yes, beyond chance and untrained twins. By cka 0." in text
    # Untrained twins that are as alike.
    same = {m: model(m, 2.0, 100 * i + 30) for i, m in enumerate("ab")}
    text = read(compared(2.0, twins=same))
    assert "yes" not in text.split("##")[1]
    assert "the smallest difference that 80 images would have shown with 80 % power is" in text


def test_levels_with_their_draws_and_intervals_stand_in_the_table() -> None:
    several = {m: [model(m, 0, 7 + i), model(m, 0, 20 + i)] for i, m in enumerate("ab")}
    alignment = compared(2.0, twins=several, levels=["spectrum"])
    text = read(alignment)
    twins = alignment.cells[0].level("untrained twins")
    assert f"untrained twins: {twins.value:.3f} (sd {twins.spread:.3f} of 2)" in text
    assert f"{twins.difference:+.3f} [{twins.low:+.3f}, {twins.high:+.3f}]" in text
    assert f"- spectrum: {LEVELS['spectrum']}." in text


def test_what_was_not_searched_for_is_not_said_to_be() -> None:
    assert "strongest of many layer pairs" in read(compared(1.0, 3))
    assert "strongest of many layer pairs" not in read(compared(1.0))


def test_layers_of_one_half_scored_on_the_other_carry_the_verdict() -> None:
    models = {m: model(m, 2.0, 100 * i, 2) for i, m in enumerate("ab")}
    options = {"pixels": False, "measures": ("cka",), "n_folds": 10}
    twins = {m: model(m, 0, 7 + i, 2) for i, m in enumerate("ab")}
    choices = choose_and_score(models, twins=twins, **options)
    alignment = compare_layers(models, twins=twins, **options)
    judged = held_out_cases(alignment, choices)
    assert [one.half for one in judged] == [0, 1]
    # Any pairing at all: tested on all images.
    assert {one.p for one in judged} == {alignment.families[0].p_holm}
    assert {one.comparison.n for one in judged} == {N // 2}
    text = read(alignment, judged=judged)
    assert "do not profit from the search" in text
    assert f"| {judged[0].comparison.n} |" in text
    first, second = (one.comparison.value for one in judged)
    assert f"By cka {first:.3f} and {second:.3f} (by chance" in summary(judged)[0]


def test_halves_that_disagree_decide_nothing() -> None:
    halves = [case(0.01, ABOVE)._replace(half=0), case(0.01, OPEN)._replace(half=1)]
    (line,) = summary(halves)
    assert "a and b: undecided, for the two halves of the images disagree (half 0: yes" in line
    assert "half 1: beyond chance; not shown to be more than untrained twins" in line


def test_measures_with_the_same_verdict_share_a_line() -> None:
    other = case(0.01, ABOVE)
    other = other._replace(comparison=dataclasses.replace(other.comparison, measure="procrustes"))
    (line,) = summary([case(0.01, ABOVE), other])
    assert line.endswith("By cka 0.500 (by chance 0.100) and procrustes 0.500 (by chance 0.100).")


def test_leaks_and_what_nobody_recorded_are_named() -> None:
    models = {m: model(m, 1, 100 * i, leaks=("labels: glyphs",)) for i, m in enumerate("ab")}
    models["c"] = model("c", 1, 300, leaks=("network: transformers:c",))
    text = read(compare_layers(models, pixels=False, measures=("cka",)))
    assert "labels: glyphs: a and b. Their likeness may come from that." in text
    assert "Not recorded: what c was trained on" in text


def test_the_published_score_stands_beside_its_calibrated_value() -> None:
    models = {m: model(m, 0, 100 * i, 4) for i, m in enumerate("ab")}
    (score,) = score_models(models, twins=models, k=4)
    text = read(compared(0.0), scores=[score])
    assert f"| a, b | {score.value:.3f} | {4 / 79:.3f} | {score.null_mean:.3f} |" in text
    assert "a and b: no, the score is what the search finds by chance." in text
    found = dataclasses.replace(score, p_holm=0.005)
    assert "untrained networks score as high" in read(compared(0.0), scores=[found])


def test_problems_and_the_command_are_told() -> None:
    text = read(compared(1.0), problems=["the score: no"], made_by="interp compare x y")
    assert "- Not computed: the score: no" in text
    assert "Made by: `interp compare x y`" in text


def test_without_permutations_nothing_is_claimed() -> None:
    alignment = compared(2.0, n_permutations=0)
    assert cases(alignment) == []
    text = read(alignment)
    assert "Nothing was tested" in text
    assert "## The numbers" not in text


def test_a_measure_that_sees_no_pairing_says_so() -> None:
    alignment = dataclasses.replace(compared(2.0), families=(), measures=("gromov_wasserstein",))
    assert "gromov_wasserstein does not see the pairing of rows" in read(alignment)


def test_files_of_before_there_were_levels_are_read() -> None:
    cell = dataclasses.replace(
        compared(2.0).cells[0],
        twin_value=0.1,
        difference=0.5,
        difference_low=0.4,
        difference_high=0.6,
    )
    alignment = dataclasses.replace(compared(2.0), cells=(cell,))
    (one,) = cases(alignment)
    assert judge(one).word == "yes"
    assert one.levels[0].name == "untrained twins"


def test_every_level_has_words() -> None:
    (line,) = level_words(["mine/code"])
    assert line.startswith("- mine/code: given by you")
    assert all(next(iter(level_words([name]))).endswith(".") for name in LEVELS)


def test_a_measure_with_a_direction_shows_both_ways() -> None:
    alignment = compared(2.0, measures=("ridge_cv",))
    one = alignment.cells[0].comparison
    assert f"| a/block0 -> b/block0 | ridge_cv | 80 | {one.value:.3f} [" in read(alignment)
    assert f"; the other way {one.reverse:.3f} |" in read(alignment)


def test_halves_that_chose_the_other_direction_are_judged_too() -> None:
    models = {m: model(m, 1.0, 100 * i) for i, m in enumerate("ab")}
    given = {"pixels": False, "measures": ("r2",), "n_folds": 4}
    alignment, choices = compare_layers(models, **given), choose_and_score(models, **given)
    turned = dataclasses.replace(
        choices,
        choices=tuple(
            dataclasses.replace(one, model_a="b", model_b="a") if one.half else one
            for one in choices.choices
        ),
    )
    judged = held_out_cases(alignment, turned)
    assert [(case.models, case.half) for case in judged] == [(("a", "b"), 0), (("a", "b"), 1)]
