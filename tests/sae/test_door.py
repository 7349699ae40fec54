"""What is not a store, a folder or a selection is refused with the way out."""

from pathlib import Path

import pytest

from interp.errors import InputError, SAEError
from interp.harvest import capture
from interp.models import Generation
from interp.sae.config import TrainConfig
from interp.sae.evaluate import evaluate
from interp.sae.train import train
from tests.sae.stores import make_pair

CONFIG = TrainConfig(n_latents=8, k=2, steps=2, batch_size=16)


def test_paths_and_names_are_refused_as_stores_and_models(tmp_path: Path) -> None:
    with pytest.raises(SAEError, match="is a path: train"):
        train("stores/one", CONFIG, point="early", out=tmp_path / "run")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match="'zoo:gan' is no model"):
        capture("zoo:gan", ["w"], Generation(n=2), out=tmp_path)  # pyright: ignore[reportArgumentType]


def test_a_file_is_no_run_directory_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    store = make_pair(tmp_path)
    with pytest.raises(SAEError, match="is a file; a run needs a folder"):
        train(store, CONFIG, point="early", out=file)
    assert file.read_text() == "mine"


def test_rows_that_select_nothing_are_refused(tmp_path: Path) -> None:
    store = make_pair(tmp_path)
    sae = train(store, CONFIG, point="early", out=tmp_path / "run", progress=False).sae
    with pytest.raises(SAEError, match=r"rows= selects none of the \d+ rows of early"):
        evaluate(sae, store, "early", rows=[], allow_train=True)  # pyright: ignore[reportArgumentType]
