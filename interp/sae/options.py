"""Options of a training run beyond `TrainConfig`'s fields: common ones, and each variant's own.

`TrainConfig.options` holds both in one dict of JSON values; `split_options` sorts and checks them.
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

from interp.errors import SAEError

if TYPE_CHECKING:
    from interp.sae.base import SAE
    from interp.sae.config import TrainConfig


@dataclass(frozen=True)
class Common:
    """Options that every variant takes, unless its `has_aux`, `lacks` or `encoders` say otherwise.

    Raises:
        SAEError: a value out of range.
    """

    aux_k: int = 0
    """Dead latents per row in AuxK; 0 means d_in / 2 (Gao et al. 2024, appendix A.2)."""
    dead: Literal["auto", "auxk", "resample", "none"] = "auto"
    """What happens to dead latents. auto: AuxK where the variant has it, else resampling where it
    has encoder rows, else nothing. AuxK comes first: it recovers 99 % of planted atoms, "none" 90 %
    (benchmark config `small`)."""
    resample_every: int = 0
    """Steps between resamplings; 0 means steps / 8, as often as its source (25,000 of 200,000)."""
    center: Literal["mean", "median"] = "mean"
    """What b_dec starts at: the data's mean, or the geometric median of the first batch."""
    tied: bool = True
    """Encoder rows start along their decoder rows; otherwise in directions of their own."""
    accumulate: int = 1
    """Micro-batches per step, whose gradients are added: memory of a batch_size / accumulate. What
    looks at a whole batch (BatchTopK's budget, the L0 that JumpReLU aims at) looks at each part."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the products (autocast); weights, Adam's moments and losses stay in float32."""
    clip: float = 0.0
    """Largest norm of the gradient of all parameters together; 0 does not clip."""

    def __post_init__(self) -> None:
        for name, least in (("aux_k", 0), ("resample_every", 0), ("accumulate", 1), ("clip", 0)):
            if getattr(self, name) < least:
                raise SAEError(f"option {name} = {getattr(self, name)} must be at least {least}")


@dataclass(frozen=True)
class NoOptions:
    """A variant without options of its own."""


def split_options(variant: "type[SAE]", options: Mapping[str, Any]) -> tuple[Common, Any]:
    """Sort options into the common ones and a variant's own.

    Args:
        variant: the class; its `Options` is a frozen dataclass of ints, floats, strs, bools, tuples
            of them, and literals.
        options: name -> JSON value; lists stand for tuples.

    Returns:
        `Common`, in which `dead` is one of auxk, resample, none; and `variant.Options`.

    Raises:
        SAEError: a name that the variant does not have, a value of another type, or one that would
            have no effect.
    """
    common, own = names_of(variant)
    unknown = sorted(set(options) - set(common) - set(own))
    if unknown:
        raise SAEError(
            f"{variant.variant} has no option {', '.join(unknown)}; its own are "
            f"{', '.join(own) or '(none)'}, the common ones {', '.join(common)}"
        )
    shared = _build(Common, {name: options[name] for name in options if name in common})
    special = _build(variant.Options, {name: options[name] for name in options if name in own})
    dead = _policy(variant, shared.dead)
    for name, policy in (("aux_k", "auxk"), ("resample_every", "resample")):
        if getattr(shared, name) and dead != policy:
            raise SAEError(
                f"option {name} = {getattr(shared, name)} does nothing with dead = {dead!r}: give "
                f"dead = {policy!r}, or leave it out"
            )
    return dataclasses.replace(shared, dead=dead), special


def own_options(variant: "type[SAE]", values: Mapping[str, Any]) -> Any:
    """A variant's own options from values by name, with its defaults for the rest.

    Raises:
        SAEError: see `split_options`.
    """
    own = names_of(variant)[1]
    unknown = sorted(set(values) - set(own))
    if unknown:
        raise SAEError(f"{variant.variant} has no option {', '.join(unknown)}; its own are {own}")
    return _build(variant.Options, dict(values))


def names_of(variant: "type[SAE]") -> tuple[list[str], list[str]]:
    """Names of the common options that a variant takes, and of its own."""
    lacks = set(variant.lacks)
    if not variant.has_aux:
        lacks.add("aux_k")
    if not variant.encoders:
        lacks |= {"tied", "resample_every"}
    common = [field.name for field in dataclasses.fields(Common) if field.name not in lacks]
    return common, [field.name for field in dataclasses.fields(variant.Options)]


def options_of(config: "TrainConfig") -> tuple[Common, Any]:
    """`split_options` of a training config.

    Raises:
        SAEError: an unknown variant; see `split_options`.
    """
    from interp.sae import VARIANTS

    if config.variant not in VARIANTS:
        raise SAEError(f"unknown variant {config.variant!r}; known are {sorted(VARIANTS)}")
    return split_options(VARIANTS[config.variant], config.options)


def check_plain(common: Common) -> None:
    """Refuse options that the split step does not know.

    Raises:
        SAEError: anything but `aux_k` and `dead = "auxk"` differs from its default.
    """
    plain = dataclasses.replace(Common(), aux_k=common.aux_k, dead="auxk")
    other = [
        f"{name} = {value!r}"
        for name, value in dataclasses.asdict(common).items()
        if value != getattr(plain, name)
    ]
    if other:
        raise SAEError(
            f"a run split over ranks does not know {', '.join(other)}: leave it out, or use "
            "layout='each' with one run per rank"
        )


def budget_of(config: "TrainConfig") -> str:
    """Rows that share a budget of active latents: "batch", "image" or "timestep"."""
    return getattr(options_of(config)[1], "budget", "batch")


def _policy(variant: "type[SAE]", asked: str) -> Any:
    resamples = "resample_every" in names_of(variant)[0]
    there = ["auxk"] * variant.has_aux + ["resample"] * resamples + ["none"]
    if asked == "auto":
        return there[0]
    if asked not in there:
        raise SAEError(f"{variant.variant} has no dead = {asked!r}; there is {', '.join(there)}")
    return asked


def _build(kind: type, values: dict[str, Any]) -> Any:
    hints = get_type_hints(kind)
    return kind(**{name: _cast(name, value, hints[name]) for name, value in values.items()})


def _cast(name: str, value: Any, kind: Any) -> Any:
    """The value as the type of its field: no bool or 2.5 as a whole number."""
    if get_origin(kind) is tuple:
        if not isinstance(value, list | tuple):
            raise SAEError(f"option {name} = {value!r} must be a list, such as [16, 64]")
        return tuple(_cast(name, item, get_args(kind)[0]) for item in value)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            there = ", ".join(map(str, get_args(kind)))
            raise SAEError(f"option {name} = {value!r} is none of {there}")
        return value
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if type(value) is not kind or kind is float:
        words = {int: "a whole number", float: "a finite number", bool: "true or false"}
        raise SAEError(f"option {name} = {value!r} must be {words.get(kind, 'a word')}")
    return value
