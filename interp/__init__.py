"""Mechanistic interpretability of generative vision models.

The public names live in the modules below and are imported on first use, so that `import interp`
stays as cheap as `import torch`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "ActivationStore": "interp.store",
    "Alignment": "interp.alignment",
    "Code": "interp.sae.base",
    "Comparison": "interp.alignment",
    "Encoding": "interp.models",
    "Features": "interp.features",
    "Generation": "interp.models",
    "HookPoint": "interp.models",
    "InterpError": "interp.errors",
    "Rows": "interp.models",
    "SAE": "interp.sae.base",
    "TrainConfig": "interp.sae.train",
    "build_dashboard": "interp.dashboards",
    "capture": "interp.harvest",
    "compare": "interp.alignment",
    "compare_layers": "interp.alignment",
    "comparison_figure": "interp.dashboards",
    "describe": "interp.features",
    "editing": "interp.models",
    "estimate": "interp.harvest",
    "evaluate": "interp.sae.evaluate",
    "feature_figure": "interp.dashboards",
    "load": "interp.loading",
    "open_store": "interp.store",
    "reading": "interp.models",
    "stream": "interp.harvest",
    "study": "interp.studies",
    "substitute": "interp.interventions.substitute",
    "train": "interp.sae.train",
}

if TYPE_CHECKING:
    from interp.alignment import Alignment, Comparison, compare, compare_layers
    from interp.dashboards import build_dashboard, comparison_figure, feature_figure
    from interp.errors import InterpError
    from interp.features import Features, describe
    from interp.harvest import capture, estimate, stream
    from interp.interventions.substitute import substitute
    from interp.loading import load
    from interp.models import Encoding, Generation, HookPoint, Rows, editing, reading
    from interp.sae.base import SAE, Code
    from interp.sae.evaluate import evaluate
    from interp.sae.train import TrainConfig, train
    from interp.store import ActivationStore, open_store
    from interp.studies import study

__all__ = [
    "SAE",
    "ActivationStore",
    "Alignment",
    "Code",
    "Comparison",
    "Encoding",
    "Features",
    "Generation",
    "HookPoint",
    "InterpError",
    "Rows",
    "TrainConfig",
    "__version__",
    "build_dashboard",
    "capture",
    "compare",
    "compare_layers",
    "comparison_figure",
    "describe",
    "editing",
    "estimate",
    "evaluate",
    "feature_figure",
    "load",
    "open_store",
    "reading",
    "stream",
    "study",
    "substitute",
    "train",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'interp' has no attribute {name!r}; it has {__all__}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
