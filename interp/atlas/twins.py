"""Networks beside the one that is judged: untrained ones, and the same with its skips cut."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from interp.errors import InputError, InterpError
from interp.loading import load
from interp.models import Model

MakeTwin = Callable[[int], Model]


@dataclass(frozen=True)
class Untrained:
    """The library's own maker of twins: the same architecture with fresh weights."""

    source: Any
    options: dict[str, Any]

    def __call__(self, seed: int) -> Model:
        """Return the twin of an initialization seed."""
        return load(self.source, untrained=True, seed=seed, **self.options)


# Training seeds are small numbers: 0, 1, 2 ...
_MOST_SEEDS = 10


def twin_maker(model: Model, spec: str | None, make: MakeTwin | None) -> MakeTwin:
    """Return what makes the untrained twin of an initialization seed.

    spec: where the model came from, if it came from a spec. make: the user's own; it goes first.
    A network with an adapter gets fresh weights by its own `reset_parameters`.

    Raises InputError for a loaded model of neither kind.
    """
    if make is not None:
        return make
    if spec is not None:
        return Untrained(spec, {"device": model.device})
    adapter = getattr(model, "adapter", None)
    if adapter is not None:
        return Untrained(model.root, {"adapter": adapter})
    host = getattr(model, "host", None)
    whole = getattr(host, "pipe", None) or model.root
    if model.family in ("gan",) or whole is None:
        raise InputError(
            f"{model.name} is a loaded model: give its spec, or twin=, a function of a seed that "
            "returns an untrained one"
        )
    return Untrained(whole, {})


def find_skips(model: Model) -> list[str]:
    """Skips of a U-Net: what its wiring twin does without."""
    return [name for name in model.points_in("generate") if name.startswith("skip.")]


def list_training_seeds(spec: str) -> tuple[str, ...]:
    """Specs of every training seed of a zoo network that exists here; else the spec alone."""
    if not spec.startswith("zoo:"):
        return (spec,)
    from interp.zoo.nets import find_weights, parse_name

    name, own = parse_name(spec)
    found = []
    for seed in sorted({*range(_MOST_SEEDS), own}):
        with suppress(InterpError):
            find_weights(name, seed=seed)
            found.append(f"zoo:{name}" if seed == 0 else f"zoo:{name}/{seed}")
    return tuple(found) or (spec,)
