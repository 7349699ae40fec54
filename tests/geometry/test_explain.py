"""Every measure explains itself: direction, null, what it is blind to."""

import pytest

from interp.errors import InputError
from interp.geometry import MEASURES
from interp.geometry.explain import CHANGES, explain, measure_rows, measures_markdown


@pytest.mark.parametrize("name", sorted(MEASURES))
def test_a_measure_says_what_it_is_and_what_it_cannot_show(name: str) -> None:
    text, one = explain(name), MEASURES[name]
    assert text.startswith(f"**{name}**: {one.definition} ({one.source}).")
    assert ("Smaller is more alike" in text) == one.distance
    assert one.null in text
    assert one.bias in text
    assert ("from the first to the second" in text) == (not one.symmetric)
    assert ("who is near whom" in text) == one.uses_neighbors
    assert ("every two representations span" in text) == ("linear" in one.invariances)


def test_the_table_has_every_measure_once() -> None:
    head, *rows = measure_rows()
    assert [row[0] for row in rows] == sorted(MEASURES)
    assert {len(row) for row in rows} == {len(head)}
    assert all(all(row) for row in rows)
    page = measures_markdown()
    assert all(f"\n| {name} | " in page for name in MEASURES)


def test_every_invariance_has_words() -> None:
    known = set().union(*(one.invariances for one in MEASURES.values()))
    assert known <= set(CHANGES)


def test_an_unknown_measure_is_refused_with_the_names() -> None:
    with pytest.raises(InputError, match="no measure 'ckaa'; there are"):
        explain("ckaa")
