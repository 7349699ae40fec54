"""Parts of a row that an interchange moves: latents of an SAE, or a linear subspace."""

import torch
from jaxtyping import Float
from torch import Tensor

from interp.errors import InputError
from interp.sae import SAE
from interp.sae.base import Code

# Rows that are encoded at once: 8192 rows of 8192 latents are 256 MB.
ROWS = 8192
# Rounding of a float32 basis.
_ORTHONORMAL = 1e-4


def move_subspace(
    rows: Float[Tensor, "*b d"], donor: Float[Tensor, "*b d"], subspace: Float[Tensor, "r d"]
) -> Float[Tensor, "*b d"]:
    """x + V'V (a - x): the donor's part in the subspace, the rest left; equal rows stay equal."""
    basis = subspace.to(rows.device, torch.float64)
    moved = (donor.double() - rows.double()) @ basis.T @ basis
    return (rows.double() + moved).to(rows.dtype)


def move_features(
    rows: Float[Tensor, "*b d"],
    donor: Float[Tensor, "*b d"],
    sae: SAE,
    features: tuple[int, ...],
) -> Float[Tensor, "*b d"]:
    """decode(c') + (x - decode(c)): c' has the donor's values of the features; x's error stays.

    A decoder is affine, so this is x + (c' - c) D, which leaves rows of equal codes as they are to
    the last bit. Of an SAE that normalizes each row, D has the recipient's scale.
    """
    flat, given = (x.reshape(-1, x.shape[-1]) for x in (rows, donor))
    parts = [
        _moved(x, a, sae, features)
        for x, a in zip(flat.split(ROWS), given.split(ROWS), strict=True)
    ]
    return (flat.double() + torch.cat(parts)).to(rows.dtype).reshape(rows.shape)


def _moved(rows: Tensor, donor: Tensor, sae: SAE, features: tuple[int, ...]) -> Tensor:
    place = sae.mean.device
    with torch.no_grad():
        code, other = (sae.encode(x.to(place, sae.mean.dtype)) for x in (rows, donor))
        change = (_values(other, features) - _values(code, features)).double()
        directions = sae.dictionary()[list(features)].double()
        moved = change @ directions
        if code.frame is not None:
            moved = moved * code.frame[:, 1:].double()
        scale = sae.target_scale if sae.separate else sae.scale
        return (moved * scale.double()).to(rows.device)


def _values(code: Code, features: tuple[int, ...]) -> Float[Tensor, "n f"]:
    """Values of some latents, without the dense code."""
    if code.indices is None:
        return code.values[:, list(features)]
    place = torch.full((code.n_latents,), len(features), device=code.values.device)
    place[list(features)] = torch.arange(len(features), device=place.device)
    # The last column takes what is not asked for.
    found = code.values.new_zeros(len(code.values), len(features) + 1)
    return found.scatter_add(1, place[code.indices.long()], code.values)[:, :-1]


def check_subspace(subspace: Tensor, width: int, label: str, where: str) -> None:
    """Refuse a basis that is not [r <= d, d] with orthonormal rows."""
    if subspace.ndim != 2 or subspace.shape[1] != width or not 0 < len(subspace) <= width:
        raise InputError(
            f"{label}: the subspace is {tuple(subspace.shape)}, {where} has width {width}: "
            f"[r, {width}] with 1 <= r <= {width} is needed"
        )
    basis = subspace.double()
    worst = float((basis @ basis.T - torch.eye(len(basis), device=basis.device)).abs().max())
    # Not "worst > limit", which lets NaN pass.
    if not worst <= _ORTHONORMAL:
        raise InputError(
            f"{label}: the {len(basis)} rows of the subspace are not orthonormal (off by "
            f"{worst:.2g}); take torch.linalg.qr(rows.T).Q.T"
        )
