"""What the tests of models share: their own modules, and slow imports before any test."""

import sys
import warnings
from pathlib import Path

import pytest

PIPELINES = (
    "AnimateDiffPipeline",
    "DDPMPipeline",
    "DiTPipeline",
    "FluxPipeline",
    "PixArtAlphaPipeline",
    "StableDiffusion3Pipeline",
    "StableDiffusionPipeline",
    "StableDiffusionXLPipeline",
    "TextToVideoSDPipeline",
)

sys.path.insert(0, str(Path(__file__).parent))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let pass what diffusers and transformers say about their own calls."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.filterwarnings("ignore::FutureWarning"))
            # Schedulers hand tensors to np.array, whose protocol numpy 2 deprecates.
            item.add_marker(pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning"))


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> None:
    """Import what takes seconds before any test's clock runs."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import diffusers
        import transformers

        # Both import a module at the first use of its names.
        for name in PIPELINES:
            getattr(diffusers, name)
        _ = transformers.CLIPTextModelWithProjection, transformers.T5EncoderModel
