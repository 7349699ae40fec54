"""Figures of an atlas are functions of its record: numbers, titles, captions, wrong inputs."""

import dataclasses

import pytest

from interp.atlas.record import Interval
from interp.dashboards import (
    atlas_figure,
    compactness_figure,
    interactions_figure,
    kinds_figure,
    shares_figure,
    specialization_figure,
    step_map_figure,
)
from interp.errors import InputError
from tests.atlas.made import make_atlas
from tests.dashboards.synthetic import HOSTILE

FIGURES = {
    "overview": atlas_figure,
    "steps": lambda a: step_map_figure(a, "content"),
    "shares": lambda a: shares_figure(a, "surface"),
    "interactions": lambda a: interactions_figure(a, "content"),
    "specialization": specialization_figure,
    "compactness": compactness_figure,
    "kinds": lambda a: kinds_figure(a, "content"),
}


@pytest.fixture(scope="module")
def made():
    return make_atlas()


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_axis_titles_and_a_caption_with_n_seeds_and_null(made, name):
    figure = FIGURES[name](made)
    # Further panels of a row share the first one's vertical axis.
    vertical = [axis.title.text for axis in figure.select_yaxes() if not axis.matches]
    assert all(vertical)
    assert all(axis.title.text for axis in figure.select_xaxes())
    caption = figure.layout.annotations[-1].text
    assert "n = 40 pairs" in caption
    assert "first seeds: donor 0, recipient 1000" in caption
    assert len(caption.split(";")) >= 3


def test_the_overview_shows_pictures_shares_and_random_pushes(made):
    figure = atlas_figure(made)
    assert "compact: undecided, specialized: undecided" in figure.layout.title.text
    # Donors, recipients, x_T and mid_block, two pairs each.
    assert len(figure.layout.images) == 8
    rows = [row for row in made.carriers if row.arm == "independent"]
    names = list(figure.layout.yaxis.ticktext)
    assert names[:4] == ["A donor", "B recipient", "x_T", "mid_block"]
    assert sorted(names[2:]) == sorted(row.name for row in rows)
    drawn = [x for trace in figure.data for x in trace.x if x is not None]
    for row in rows:
        assert row.effects["surface"].alpha.value in drawn
    assert made.carriers[3].random["surface"].alpha.value in drawn


def test_rows_that_are_left_out_are_counted(made):
    assert "2 further carriers" in atlas_figure(made, most_rows=2).layout.annotations[-1].text


def test_the_map_has_a_row_per_layer_and_a_column_per_window(made):
    (heat,) = step_map_figure(made, "content").data
    alpha = made.maps[0].alpha["content"]
    assert [list(row) for row in heat.z] == [[cells[j].value for cells in alpha] for j in range(3)]
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert "damage" in heat.customdata[0][0]


def test_shares_that_do_not_add_up_are_gray(made):
    plain, gray = (shares_figure(made, name) for name in ("content", "surface"))
    assert plain.layout.title.text.endswith("additive")
    assert gray.layout.title.text.endswith("redundant")
    for trace in gray.data:
        red, green, blue = (int(trace.marker.color[i : i + 2], 16) for i in (1, 3, 5))
        assert max(red, green, blue) - min(red, green, blue) < 24
    assert {t.marker.color for t in plain.data}.isdisjoint(t.marker.color for t in gray.data)
    assert plain.layout.xaxis.range == gray.layout.xaxis.range
    assert list(plain.data[2].error_x.array) == pytest.approx([0.05] * 3)


def test_a_layer_has_no_interaction_with_itself(made):
    (heat,) = interactions_figure(made, "content").data
    assert [row[i] for i, row in enumerate(heat.z)] == [None] * 3
    assert heat.zmax == -heat.zmin == 0.1


def test_twins_stand_beside_the_model_and_undefined_ones_are_left_out(made):
    figure = specialization_figure(made)
    twins, bands = [trace for trace in figure.data if trace.marker.symbol == "line-ns-open"]
    assert list(twins.x) == [0.2, 0.25, 0.3, 0.22, 0.28]
    assert list(bands.x) == [0.1, 0.12, 0.11, 0.15, 0.09]
    assert "5 band twins" in figure.layout.yaxis.ticktext
    assert "5 of 6<br>untrained twins" in figure.layout.yaxis.ticktext
    assert figure.layout.xaxis.range[0] <= -0.1
    assert figure.layout.xaxis.range[1] >= 0.5


def test_both_bases_and_the_images_are_drawn_with_their_counts(made):
    names = [trace.name for trace in compactness_figure(made).data]
    assert names == ["PCA basis: d* 150", "Jacobian basis: d* 20", "images (d_img): 30"]
    one = made.compactness[0]
    empty = dataclasses.replace(one.pca, d_star=None, kept=())
    none = dataclasses.replace(one, pca=empty, jacobian=empty)
    with pytest.raises(InputError, match="no directions were counted"):
        compactness_figure(dataclasses.replace(made, compactness=(none,)))


def test_undefined_numbers_are_gaps_not_errors(made):
    gone = Interval(None)
    study = dataclasses.replace(made.layers[0], specialization=gone, excess=gone)
    holed = dataclasses.replace(made, layers=(study,))
    assert specialization_figure(holed).data[0].x == (None,)
    cells = tuple(tuple(gone for _ in row) for row in made.maps[0].alpha["content"])
    one = dataclasses.replace(made.maps[0], alpha={"content": cells}, damage={})
    (heat,) = step_map_figure(dataclasses.replace(made, maps=(one,)), "content").data
    assert {value for row in heat.z for value in row} == {None}
    assert "not measured" in heat.customdata[0][0]


@pytest.mark.parametrize(
    ("draw", "said"),
    [
        (lambda a: step_map_figure(a, "taste"), "no attribute 'taste'"),
        (lambda a: step_map_figure(a, "content", 3), "no map of steps 3: this atlas has 1"),
        (lambda a: shares_figure(a, "content", 9), "no study of layers 9"),
        (lambda a: compactness_figure(a, -1), "no source -1"),
        (lambda a: atlas_figure(a, 5), "no arm 5: this atlas has 2"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_does(made, draw, said):
    with pytest.raises(InputError, match=said):
        draw(made)


def test_names_are_escaped_for_plotly(made):
    model = dataclasses.replace(made.model, spec=HOSTILE)
    rows = tuple(dataclasses.replace(row, name=HOSTILE) for row in made.carriers)
    figure = atlas_figure(dataclasses.replace(made, model=model, carriers=rows))
    texts = [figure.layout.title.text, *figure.layout.yaxis.ticktext]
    texts += [text for trace in figure.data for text in trace.text or ()]
    assert not any("<b>" in text or "<img" in text for text in texts)
