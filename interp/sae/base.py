"""What every sparse autoencoder is: a code, its losses, an abstract class."""

import abc
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from interp_kernels import sparse_decode
from jaxtyping import Bool, Float
from torch import Tensor, nn

from interp.errors import SAEError
from interp.sae.losses import exact
from interp.sae.options import NoOptions

if TYPE_CHECKING:
    from interp.sae.config import TrainConfig


class Code(NamedTuple):
    """Activations of the latents: sparse when `indices` is given, dense otherwise."""

    values: Tensor
    """[n, k] beside `indices`, else [n, m]; never negative."""
    indices: Tensor | None
    """[n, k] int32 or int64 latents of the values; a slot with value 0 is empty."""
    n_latents: int
    """m."""
    frame: Tensor | None = None
    """[n, 2] shift and scale of each row, of an SAE that normalizes rows by themselves."""

    def dense(self) -> Float[Tensor, "n m"]:
        """The same code as a dense [n, m] matrix."""
        if self.indices is None:
            return self.values
        zeros = self.values.new_zeros(self.values.shape[0], self.n_latents)
        return zeros.scatter_add(1, self.indices.long(), self.values)

    def fired(self) -> Bool[Tensor, " m"]:
        """[m] bool: latents with a positive value in some row."""
        if self.indices is None:
            return (self.values > 0).any(dim=0)
        fired = torch.zeros(self.n_latents, dtype=torch.bool, device=self.values.device)
        fired[self.indices[self.values > 0].long()] = True
        return fired


class Context(NamedTuple):
    """What a step knows besides its rows."""

    dead: Tensor
    """[m] bool, latents that AuxK has to revive."""
    progress: float = 0.0
    """Share of the run that is done, in [0, 1)."""
    groups: Tensor | None = None
    """[n] int64, the budget group of each row (its image, its timestep); None: all rows are one."""
    target: Tensor | None = None
    """[n, d_out] raw rows to reconstruct; None: the rows themselves."""


class Losses(NamedTuple):
    """Terms of one step's loss: reconstruction + penalty + aux_coefficient * aux."""

    reconstruction: Tensor
    """Mean squared error over the data's variance: the FVU of the batch."""
    penalty: Tensor
    """What else the variant minimizes (sparsity), weighted; 0 where it has none."""
    aux: Tensor
    """The unit of reconstruction, dead latents on the residual; 0 where none is dead."""
    code: Code
    """The code of the batch, for the dead-latent counters."""


class SAE(nn.Module, abc.ABC):
    """A sparse autoencoder that takes raw activations.

    z = (x - mean) / scale,   z_hat = decode of the code of z,   x_hat = mean + scale * z_hat

    `mean` [d] and `scale` [] are buffers, fitted once from the data (`fit`) so that z has mean 0
    and mean squared length 1, and saved with the weights. `encode` and `decode` are pure.

    Attributes:
        Options: frozen dataclass of the variant's own options.
        has_aux: whether `loss_terms` revives dead latents by AuxK.
        unit_dictionary: whether the dictionary's rows have norm 1.
        held: names of the parameters that `penalty` takes as constants somewhere.
        straight_through: whether gradients are estimates that no finite difference confirms.
        encoders: names of the [m, d] parameters that look at the input; they start tied to `W_dec`,
            and resampling sets their rows. Empty: neither applies.
        lacks: names of the common options that make no sense for the variant.
        d_in: d, width of the activations.
        joins: what joined sources (`interp.sae.join`) are to the variant: "" refuses them, "target"
            reconstructs the second site from the first, "sites" takes all as one row.
        d_out: width of what is reconstructed: d, but for transcoders.
        separate: whether what is reconstructed has a mean and scale of its own (`target_mean`
            [d_out], `target_scale` []).
        widths: of the parts of a row that are normalized each by itself; `scale` is [d] then. One
            part, the row, for all but crosscoders.
        W_skip: [d_out, d_in] linear map of the input that `forward` adds, or None.
        n_sample: rows of the data that `take_sample` wants before the first step.
        n_latents: m.
        provenance: what it was trained on: `point`, `model`, `store`, `recipe`, `split` (JSON
            values).
        trained_units: [u] int64 sorted hashes of the images and clusters whose rows it was trained
            on.
    """

    variant: ClassVar[str]
    Options: ClassVar[type] = NoOptions
    has_aux: ClassVar[bool] = True
    unit_dictionary: ClassVar[bool] = True
    held: ClassVar[tuple[str, ...]] = ()
    straight_through: ClassVar[bool] = False
    encoders: ClassVar[tuple[str, ...]] = ("W_enc",)
    lacks: ClassVar[tuple[str, ...]] = ()
    joins: ClassVar[str] = ""
    mean: Tensor
    scale: Tensor
    target_mean: Tensor
    target_scale: Tensor
    W_skip: nn.Parameter | None
    n_sample: int = 0
    framed: bool = False
    """Whether rows are normalized each by itself; codes then carry a `frame`."""

    def __init__(
        self, d_in: int, n_latents: int, d_out: int | None = None, widths: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        if d_in < 1 or n_latents < 1:
            raise SAEError(f"d_in and n_latents must be positive, got {d_in} and {n_latents}")
        self.widths = widths or (d_in,)
        if sum(self.widths) != d_in:
            raise SAEError(f"widths {self.widths} add up to {sum(self.widths)}, not to d_in {d_in}")
        self.d_in = d_in
        self.d_out = d_out or d_in
        self.n_latents = n_latents
        self.register_buffer("mean", torch.zeros(d_in))
        self.register_buffer("scale", torch.ones(()) if len(self.widths) == 1 else torch.ones(d_in))
        self.separate = d_out is not None
        if self.separate:
            self.register_buffer("target_mean", torch.zeros(self.d_out))
            self.register_buffer("target_scale", torch.ones(()))
        self.register_parameter("W_skip", None)
        self.provenance: dict[str, Any] = {}
        self.trained_units = torch.zeros(0, dtype=torch.int64)

    @classmethod
    @abc.abstractmethod
    def build(cls, d_in: int, config: "TrainConfig") -> "SAE":
        """A fresh SAE of width d_in from a training config."""

    @abc.abstractmethod
    def encode(self, x: Float[Tensor, "n d"]) -> Code:
        """Code of raw rows [n, d]; each row's code depends on that row alone."""

    @abc.abstractmethod
    def dictionary(self) -> Float[Tensor, "m d"]:
        """Decoder directions in normalized units, one row per latent."""

    @abc.abstractmethod
    def offset(self) -> Float[Tensor, " d"]:
        """Reconstruction of the empty code, in normalized units."""

    @abc.abstractmethod
    def loss_terms(self, x: Float[Tensor, "n d"], context: Context) -> Losses:
        """Losses of raw rows [n, d]; each is a mean over the rows."""

    @abc.abstractmethod
    def before_step(self) -> None:
        """Constrain the gradients in place, after backward and before the optimizer's step."""

    @abc.abstractmethod
    def after_step(self) -> None:
        """Restore the constraints on the weights in place, after the optimizer's step."""

    @abc.abstractmethod
    def spec(self) -> dict[str, Any]:
        """Keyword arguments (JSON values) that rebuild the same architecture."""

    def decode_normalized(self, code: Code) -> Float[Tensor, "n d"]:
        """Reconstruction z_hat of a code, in normalized units."""
        if code.n_latents != self.n_latents:
            raise SAEError(f"code has {code.n_latents} latents, the SAE {self.n_latents}")
        if code.indices is None:
            return code.values @ self.dictionary() + self.offset()
        with exact(code.values):
            decoded = sparse_decode(code.values, code.indices, self.dictionary())
        return decoded + self.offset()

    def decode(self, code: Code) -> Float[Tensor, "n d"]:
        """Reconstruction x_hat of a code, in raw units.

        Raises:
            SAEError: the SAE normalizes rows by themselves and the code has no `frame`.
        """
        z = self.decode_normalized(code)
        if self.framed:
            if code.frame is None:
                raise SAEError(
                    "this SAE normalizes each row by itself: decode a code of its own encode, "
                    "changed by code._replace(values=...)"
                )
            z = z * code.frame[:, 1:] + code.frame[:, :1]
        if self.separate:
            return z * self.target_scale + self.target_mean
        return z * self.scale + self.mean

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        """Reconstruct raw rows: decode(encode(x)), and the linear skip where there is one."""
        found = self.decode(self.encode(x))
        if self.W_skip is None:
            return found
        return found + self.normalize(x) @ self.W_skip.T * self.target_scale

    def take_sample(self, rows: Float[Tensor, "s d"]) -> None:
        """Set what the variant draws from the data; nothing for those with `n_sample` 0."""

    def normalize(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Rows in normalized units: (x - mean) / scale, in the dtype of the weights.

        Raises:
            SAEError: x is not [n, d_in].
        """
        if x.ndim != 2 or x.shape[1] != self.d_in:
            raise SAEError(
                f"activations of shape {tuple(x.shape)} do not fit d_in {self.d_in}"
                f"{self._where()}; pass rows [n, {self.d_in}] of the point that it was trained on"
            )
        return (x.to(self.mean.dtype) - self.mean).div_(self.scale)

    def normalize_target(self, y: Float[Tensor, "n e"]) -> Float[Tensor, "n e"]:
        """Rows to reconstruct in normalized units, of a variant that has targets.

        Raises:
            SAEError: y is not [n, d_out].
        """
        if y.ndim != 2 or y.shape[1] != self.d_out:
            raise SAEError(f"targets of shape {tuple(y.shape)} do not fit d_out {self.d_out}")
        return (y.to(self.target_mean.dtype) - self.target_mean).div_(self.target_scale)

    def fit(
        self,
        mean: Float[Tensor, " d"],
        variance: Float[Tensor, " d"],
        target_mean: Float[Tensor, " e"] | None = None,
        target_variance: Float[Tensor, " e"] | None = None,
    ) -> None:
        """Set the buffers from the data's moments: scale = sqrt(sum of variances).

        With several `widths`, each part's scale is sqrt(parts * sum of its variances), so that a
        row of z has mean squared length 1 and every part an equal share of it.

        Args:
            mean: [d] float64.
            variance: [d] float64.
            target_mean: [d_out] float64, of what is reconstructed where it is `separate`; None:
                that of the input.
            target_variance: [d_out] float64.

        Raises:
            SAEError: wrong width, a value that is not finite, or data without any variance.
        """
        scale = _find_scale(mean, variance, self.widths, "d_in")
        self.mean.copy_(mean)
        self.scale.copy_(scale)
        if self.separate:
            target_mean = mean if target_mean is None else target_mean
            variance = variance if target_variance is None else target_variance
            self.target_scale.copy_(_find_scale(target_mean, variance, (self.d_out,), "d_out"))
            self.target_mean.copy_(target_mean)

    def save(self, directory: str | Path) -> Path:
        """Write `config.json` and `sae.safetensors` into a directory, and return it."""
        from interp.sae.files import save_sae

        return save_sae(self, Path(directory))

    @staticmethod
    def load(directory: str | Path) -> "SAE":
        """Read an SAE of any variant from a directory that `save` wrote.

        Raises:
            SAEError: files are missing, truncated, altered or of another format.
        """
        from interp.sae.files import load_sae

        return load_sae(Path(directory))

    @staticmethod
    def from_pretrained(name: str | Path, **options: Any) -> "SAE":
        """Read an SAE of this or another library from a folder or the Hugging Face hub.

        Args:
            name: folder, file, or owner/name.
            options: as `interp.sae.load_sae`.

        Raises:
            SAEError: nothing there, of no known layout, damaged, or without an exact equivalent.
        """
        from interp.sae.formats import load_sae

        return load_sae(name, **options)

    @property
    def digest(self) -> str:
        """16 hex digits of the sha256 of architecture and weights."""
        from interp.sae.files import digest_of

        return digest_of(self)

    @property
    def point(self) -> dict[str, Any] | None:
        """The hook point that it was trained on, as a dict, or None."""
        return self.provenance.get("point")

    @property
    def model_hash(self) -> str:
        """Hash of the weights of the model that it was trained on, or ''."""
        return str((self.provenance.get("model") or {}).get("weights_sha256", ""))

    @property
    def recipe(self) -> dict[str, Any]:
        """The training configuration, or {}."""
        return self.provenance.get("recipe") or {}

    def _where(self) -> str:
        return f" of the SAE trained on {self.point['name']!r}" if self.point else ""


def _find_scale(mean: Tensor, variance: Tensor, widths: tuple[int, ...], name: str) -> Tensor:
    """Scale [] of moments of one part, [d] of several."""
    d = sum(widths)
    if tuple(mean.shape) != (d,) or tuple(variance.shape) != (d,):
        raise SAEError(
            f"statistics of shape {tuple(mean.shape)} and {tuple(variance.shape)} "
            f"do not fit {name} {d}"
        )
    sums = torch.stack([part.sum() for part in variance.double().split(list(widths))])
    scale = (len(widths) * sums).sqrt()
    what = "target's activations" if name == "d_out" else "activations"
    if not (bool(torch.isfinite(mean).all()) and bool(torch.isfinite(scale).all())):
        raise SAEError(f"the statistics of the {what} are not finite: run the store's verify")
    if bool((scale == 0).any()):
        part = f" of site {int((scale == 0).nonzero()[0])}" if len(widths) > 1 else ""
        raise SAEError(f"the {what}{part} are constant (variance 0): there is nothing to decompose")
    return scale[0] if len(widths) == 1 else scale.repeat_interleave(torch.tensor(widths))
