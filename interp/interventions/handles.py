"""Handles of steering: a direction, and how far it moves each row at a strength."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError, SAEError
from interp.interventions.clean import Change, Clean
from interp.interventions.steering_record import MODES
from interp.models import Call, Model
from interp.sae import SAE
from interp.sae.match import check_match

# The strength at which nothing changes.
NEUTRAL: dict[str, float | None] = {"add": 0.0, "suppress": 0.0, "scale": 1.0, "clamp": None}
UNITS = {
    "add": "length added to each row, in root mean squared deviations of clean rows from their "
    "mean: at 1 a row moves as far as rows are from their mean",
    "clamp": "length of the feature's part of each row, in root mean squared deviations of clean "
    "rows from their mean",
    "suppress": "share of the feature's activation that is removed: 1 removes all of it",
    "scale": "factor on the feature's activation: 0 removes it, 1 leaves it",
}
# 1 moves a row as far as it is from the mean of all: what lies beyond is no longer a row of this
# model. The steps halve, since responses saturate.
STRENGTHS: dict[str, tuple[float, ...]] = {
    "add": (-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0),
    "clamp": (0.0, 0.25, 0.5, 1.0),
    "suppress": (0.0, 0.5, 1.0),
    "scale": (0.0, 1.0, 2.0, 4.0),
}


@dataclass(frozen=True, eq=False)
class Handle:
    """What steers: row -> row + amount(row, strength) * direction, the amount a length."""

    direction: Float[Tensor, " d"]
    """float64, norm 1."""
    mode: str
    sae: SAE | None = None
    feature: int | None = None

    @property
    def digest(self) -> str:
        """First 16 digits of the sha256 of the direction in float32."""
        data = self.direction.float().cpu().numpy().tobytes()
        return hashlib.sha256(data).hexdigest()[:16]

    @property
    def label(self) -> str:
        """The handle in words."""
        if self.sae is None:
            return f"direction {self.digest[:6]}"
        return f"feature {self.feature} of {self.sae.digest[:6]}"


def make_handle(
    model: Model,
    point: str,
    *,
    direction: Tensor | np.ndarray | None = None,
    sae: SAE | None = None,
    feature: int | None = None,
    mode: str = "add",
) -> Handle:
    """Check and build a handle: a plain direction, or a feature of an SAE of this point.

    Args:
        model: the model. point: name of the hook point.
        direction: [d], of any length but 0. sae, feature: in its place, a feature's decoder
            direction.
        mode: "add" the direction; or, of a feature, "clamp" its activation to a value, "suppress"
            a share of it, "scale" it. What the SAE does not reconstruct stays in all of them.

    Raises:
        InputError: neither or both are given, a mode that needs a feature, a wrong width, a
            direction without length or not finite, a feature that does not exist.
        SAEError: the SAE belongs to another point or model.
        PointError: the model has no such point.
    """
    width = model.point(point).width
    if mode not in MODES:
        raise InputError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    if (direction is None) == (sae is None) or (sae is None) != (feature is None):
        raise InputError("give a direction, or an SAE and the number of its feature")
    if sae is not None and feature is not None:
        check_match(sae, model.point(point), model.identity())
        return feature_handle(copy.deepcopy(sae).to(model.device), feature, mode)
    if mode != "add":
        raise InputError(f"mode {mode!r} needs an SAE and a feature; a direction can be added only")
    given = torch.as_tensor(direction).detach().double().cpu()
    if tuple(given.shape) != (width,):
        raise InputError(f"a direction of shape {tuple(given.shape)} at {point} of width {width}")
    return Handle(_unit(given, "the direction"), mode)


def feature_handle(sae: SAE, feature: int, mode: str) -> Handle:
    """The handle of a feature of an SAE that is known to fit; it is not copied.

    Raises InputError for a feature that does not exist or has no decoder direction.
    """
    if not 0 <= feature < sae.n_latents:
        raise InputError(f"feature {feature} does not exist: the SAE has {sae.n_latents} latents")
    raw = (sae.dictionary()[feature] * sae.scale).detach().double().cpu()
    return Handle(_unit(raw, f"the decoder direction of feature {feature}"), mode, sae, feature)


def _unit(direction: Tensor, name: str) -> Tensor:
    length = direction.norm()
    if not bool(torch.isfinite(length)) or float(length) == 0:
        raise InputError(f"{name} has the length {float(length)}: it has to be finite and not 0")
    return direction / length


def check_strengths(mode: str, strengths: Sequence[float] | None) -> tuple[float, ...]:
    """Return strengths in ascending order; None: the defaults of the mode.

    Raises InputError for none, repeats, values that are not finite or outside of what a mode means.
    """
    found = STRENGTHS[mode] if strengths is None else tuple(map(float, strengths))
    if not found or len(set(found)) != len(found) or not np.isfinite(found).all():
        raise InputError(f"strengths {found}: finite numbers, each once, at least one")
    if mode != "add" and min(found) < 0:
        raise InputError(f"strength {min(found)} of {mode}: activations are never negative")
    if mode == "suppress" and max(found) > 1:
        raise InputError(f"strength {max(found)} of suppress is a share: at most 1")
    if found == (NEUTRAL[mode],):
        raise InputError(f"the strength {found[0]} of {mode} changes nothing: add another")
    return tuple(sorted(found))


def find_amounts(
    handle: Handle, rows: Float[Tensor, "n d"], strength: float, unit: float
) -> Float[Tensor, " n"]:
    """How far each row moves along the direction, float64.

    With a = the feature's activation times the length of its decoder direction in raw units, the
    length of the feature's part of the row: add strength * unit; clamp strength * unit - a;
    suppress - strength * a; scale (strength - 1) a. All are 0 exactly at the neutral strength.
    """
    if handle.mode == "add":
        return torch.full((len(rows),), strength * unit, dtype=torch.float64, device=rows.device)
    part = feature_lengths(handle, rows)
    if handle.mode == "clamp":
        return strength * unit - part
    return part * (-strength if handle.mode == "suppress" else strength - 1)


def feature_lengths(handle: Handle, rows: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
    """Length of the feature's part of each row, float64: activation times decoder length.

    Raises SAEError for a handle without an SAE.
    """
    sae, feature = handle.sae, handle.feature
    if sae is None or feature is None:
        raise SAEError("a plain direction has no activation")
    code = sae.encode(rows.float().to(sae.mean.device))
    values = code.values
    if code.indices is None:
        values = values[:, feature]
    else:
        values = (values * (code.indices == feature)).sum(1)
    length = (sae.dictionary()[feature] * sae.scale).double().norm()
    found = values.detach().double() * length.detach()
    if code.frame is not None:
        found = found * code.frame[:, 1].double()
    return found.to(rows.device)


def make_change(
    handle: Handle, strength: float, unit: float, along: Tensor | None = None
) -> Change:
    """An edit that moves rows along the handle's direction, or by as much along another one.

    along: [d] unit direction, such as a random one; None: the handle's own.
    """
    direction = handle.direction if along is None else along

    def change(rows: Tensor, call: Call) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1])
        with torch.no_grad():
            amounts = find_amounts(handle, flat, strength, unit)
        moved = flat.double() + amounts[:, None] * direction.to(flat.device)
        return moved.to(rows.dtype).reshape(rows.shape)

    return change


def keep_same(rows: Tensor, call: Call) -> Tensor:
    """The edit that changes nothing."""
    return rows


def draw_directions(clean: Clean, count: int, kind: str, seed: int) -> Float[Tensor, "r d"]:
    """Random unit directions, float64.

    "isotropic": g / |g|, g standard normal; the expected squared projection on any unit vector is
    1 / d. "matched": X' g / |X' g| with the centered clean rows X and standard normal g, so that
    before scaling the direction has the covariance of the rows.

    Raises InputError for another kind.
    """
    if kind not in ("isotropic", "matched"):
        raise InputError(f"directions of kind {kind!r}: isotropic or matched")
    rng = np.random.default_rng([seed, len(kind), len(clean.mean)])
    if kind == "isotropic":
        found = torch.from_numpy(rng.standard_normal((count, len(clean.mean))))
    else:
        centered = clean.rows - clean.rows.mean(0)
        found = torch.from_numpy(rng.standard_normal((count, len(centered)))) @ centered
    return found / found.norm(dim=1, keepdim=True)
