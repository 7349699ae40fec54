"""Transcoders and crosscoders on the command line."""

import json

import pytest

from interp.cli.main import main
from interp.cli.saes import site_of
from interp.errors import InterpError
from interp.sae import SAE
from tests.sae.stores import make_pair

SIZES = ["--n-latents", "24", "--k", "3", "--batch-size", "32", "--steps", "5"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_pair(tmp_path_factory.mktemp("pair"))


def test_target_trains_a_transcoder_that_evaluate_judges(store, tmp_path, capsys):
    words = ["train", str(store.path), "early", "--target", "late", "--out", str(tmp_path)]
    assert main([*words, "--variant", "transcoder", *SIZES]) == 0
    sae = SAE.load(tmp_path / "sae")
    assert (sae.variant, sae.d_in, sae.d_out) == ("transcoder", 6, 4)
    capsys.readouterr()
    assert main(["evaluate", str(tmp_path), str(store.path)]) == 0
    assert capsys.readouterr().out.startswith("transcoder: ")
    assert main(["evaluate", str(tmp_path), str(store.path), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["sites"][0]["name"] == "late"


def test_sites_train_a_crosscoder_over_points_and_calls(store, tmp_path):
    points = ["early@0", "early@1", "late@1"]
    words = ["train", str(store.path), *points, "--sites", "--out", str(tmp_path)]
    assert main([*words, "--variant", "crosscoder", *SIZES]) == 0
    sae = SAE.load(tmp_path / "sae")
    assert sae.widths == (6, 6, 4)
    again = ["train", str(store.path), "--config", str(tmp_path), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    assert SAE.load(tmp_path / "again/sae").digest == sae.digest
    assert [site["call"] for site in sae.provenance["sites"]] == [0, 1, 1]


def test_target_takes_one_point(store, tmp_path, capsys):
    words = ["train", str(store.path), "early", "late", "--target", "late", "--out", str(tmp_path)]
    assert main([*words, "--variant", "transcoder", *SIZES]) == 2
    assert "--target takes one POINT" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--target", "late"], "--variant topk takes neither --target nor --sites"),
        (["--variant", "transcoder"], "--variant transcoder takes --target OTHER_POINT"),
        (["--variant", "crosscoder"], "--variant crosscoder takes --sites"),
    ],
)
def test_a_variant_without_its_sites_is_told_the_option(store, tmp_path, capsys, more, message):
    words = ["train", str(store.path), "early", "--out", str(tmp_path / "run"), *more, *SIZES]
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_a_site_is_a_point_a_call_or_a_point_of_another_store(store):
    assert site_of("up.0:delta", store) == (store, "up.0:delta", None)
    assert site_of("up.0:delta@12", store) == (store, "up.0:delta", 12)
    other, point, call = site_of(f"{store.path}::late@3", None)
    assert (other.path, point, call) == (store.path, "late", 3)
    with pytest.raises(InterpError, match="call after @ must be a whole number"):
        site_of("late@end", store)
