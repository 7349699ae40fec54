"""Figures are functions of data: contents, captions, escaping, wrong inputs."""

import urllib.error
import urllib.request
from dataclasses import replace

import numpy as np
import pytest

from interp.dashboards import (
    build_dashboard,
    comparison_figure,
    feature_figure,
    layer_profile_figure,
    make_server,
)
from interp.errors import InputError
from tests.dashboards.synthetic import HOSTILE, SyntheticStore, edited, features
from tests.dashboards.synthetic_alignment import alignment


@pytest.fixture(scope="module")
def one():
    return features(20, store=SyntheticStore(n=32, size=16), n_examples=12, grid=(4, 4))


def caption(figure) -> str:
    return figure.layout.annotations[-1].text


def test_a_latents_figure_shows_pictures_maps_and_charts(one):
    figure = feature_figure(one, 3, SyntheticStore(n=32, size=16))
    kinds = [trace.type for trace in figure.data]
    assert kinds.count("image") == kinds.count("heatmap") == 6
    assert kinds.count("bar") == 2
    np.testing.assert_array_equal(figure.data[-3].y, one.histogram[3])
    assert "n = 100,000 rows" in caption(figure)
    assert "no null" in caption(figure)


def test_known_leaks_stand_below_the_figures_that_they_touch():
    whole = alignment(n_blocks=3)
    told = {"zoo:ddpm": ("labels: <b>",), "zoo:vit": ("labels: <b>",)}
    layers = [replace(one, leaks=told.get(one.model, ())) for one in whole.layers]
    leaky = replace(whole, layers=tuple(layers))
    text = "known leaks: labels: &lt;b&gt; (zoo:ddpm, zoo:vit)"
    assert text in caption(comparison_figure(leaky))
    assert "leaks" not in caption(comparison_figure(whole))
    vit, vae = (
        next(i for i, one in enumerate(layers) if one.model == name)
        for name in ("zoo:vit", "zoo:vae")
    )
    assert text in caption(layer_profile_figure(leaky, "zoo:ddpm", vit))
    assert "leaks" not in caption(layer_profile_figure(leaky, "zoo:ddpm", vae))


def test_every_axis_with_numbers_has_a_title(one):
    figure = feature_figure(one, 3)
    titles = [axis.title.text for axis in figure.select_xaxes()]
    assert titles == [
        "activation (SAE units, log scale)",
        "log-SNR (nats)",
        "mean activation by category",
    ]


def test_maps_cover_the_whole_picture(one):
    figure = feature_figure(one, 3, SyntheticStore(n=32, size=16))
    heat = next(trace for trace in figure.data if trace.type == "heatmap")
    assert heat.x0 - heat.dx / 2 == -0.5
    assert heat.x0 + heat.dx * 3.5 == 15.5


def test_vector_points_have_no_maps():
    store = SyntheticStore(n=32, size=16)
    figure = feature_figure(features(20, store=store, grid=()), 3, store)
    assert "heatmap" not in [trace.type for trace in figure.data]


def test_an_unknown_latent_or_another_store_is_refused(one):
    with pytest.raises(InputError, match="latents 0 to 19"):
        feature_figure(one, 20)
    with pytest.raises(InputError, match="not feedbeef"):
        feature_figure(one, 0, SyntheticStore(hash="feedbeef"))


def test_names_become_text_not_markup(one):
    names = [HOSTILE, *one.categories[1:]]
    text = feature_figure(edited(one, categories=names), 0).to_json()
    assert "<img" not in text
    assert "onerror" not in text or "&lt;img" in text


def test_the_comparison_shows_value_null_interval_and_twins():
    aligned = alignment(n_blocks=3)
    figure = comparison_figure(aligned, "mutual_knn")
    heat = figure.data[0]
    np.testing.assert_allclose(heat.z, aligned.matrix("mutual_knn"))
    cell = aligned.cell(0, 8, "mutual_knn")
    hover = heat.text[0][8]
    assert f"{cell.comparison.value:.3f}" in hover
    assert "null 0.010 ± 0.020" in hover
    assert "minus untrained twins" in hover
    assert "n = 512 images; 200 permutations" in caption(figure)
    assert "seed 0" in caption(figure)


def test_unknown_measures_are_refused():
    with pytest.raises(InputError, match="there are cka, mutual_knn"):
        comparison_figure(alignment(n_blocks=3), "svcca")


def test_the_profile_has_interval_twins_and_null_for_each_noise_level():
    aligned = alignment(n_blocks=4)
    layer = aligned.index("zoo:vit/blocks.3")
    figure = layer_profile_figure(aligned, "zoo:ddpm", layer, "cka")
    named = {trace.name: trace for trace in figure.data if trace.name}
    assert set(named) == {
        "log-SNR 2",
        "log-SNR -2",
        "untrained twins, log-SNR 2",
        "untrained twins, log-SNR -2",
    }
    cell = aligned.cell(0, layer, "cka").comparison
    assert named["log-SNR 2"].y[0] == cell.value
    assert named["log-SNR 2"].error_y.array[0] == pytest.approx(cell.high - cell.value)


def test_a_profile_of_an_unknown_model_is_refused():
    with pytest.raises(InputError, match="models: zoo:ddpm, zoo:vae, zoo:vit, pixels"):
        layer_profile_figure(alignment(n_blocks=3), "gan", 0)


def test_the_server_listens_on_this_machine_only_and_lists_nothing(tmp_path):
    import threading

    build_dashboard(tmp_path, alignments=[alignment(n_blocks=2)])
    with make_server(tmp_path) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html") as answer:
            assert b"interp dashboard" in answer.read()
        with pytest.raises(urllib.error.HTTPError, match="No directory listing"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/bundle/").close()
        server.shutdown()
        thread.join()


def test_serving_a_folder_without_a_dashboard_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no index\.html"):
        make_server(tmp_path)
    build_dashboard(tmp_path, alignments=[alignment(n_blocks=2)])
    with pytest.raises(InputError, match="choose another port"):
        make_server(tmp_path, 70000)
