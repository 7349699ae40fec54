"""Autoencoders of diffusers: AutoencoderKL, VQModel, AutoencoderTiny; both halves and the code."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.clock import Facts
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation, check_latents
from interp.models.model import Model
from interp.models.noise import normal
from interp.models.pixels import to_image, to_uint8, to_unit
from interp.models.points import Site

BLOCKS = ("resnets", "attentions", "downsamplers", "upsamplers")
ENDS = ("conv_in", "conv_out", "fc")


@final
class VAE(Model):
    """An autoencoder with typed points for every block of both halves and for the code.

    "code" is what the decoder is given (for VQModel after quantization). Encoding takes the mean
    of the posterior, so it is a function of the image alone; generation decodes standard normal
    codes divided by the scaling factor, one seed each: "code" is then a draw from the prior.
    Autoencoders with a module `posterior` (of `mean` and `logvar`) show both as points.

    Args:
        root: AutoencoderKL, VQModel, AutoencoderTiny, or a module with their `encoder`, `decoder`,
            `encode`, `decode` and `config`.
        name: its spec.
        shift, scale: a code is (z - shift) * scale where z is of unit variance; None reads them
            from the config.
    """

    family = "vae"

    def __init__(
        self,
        root: nn.Module,
        name: str,
        *,
        shift: float | None = None,
        scale: float | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(root, name, extra=extra)
        config: Any = root.config
        self.kind = type(root).__name__
        self.shift = config.get("shift_factor") or 0.0 if shift is None else shift
        self.scale = config.get("scaling_factor") or 1.0 if scale is None else scale

    def list_sites(self) -> list[Site]:
        """Return every block of the encoder, the code, and every block of the decoder."""
        sites = []
        for half in ("encoder", "decoder"):
            modes = ("encode",) if half == "encoder" else ("generate", "encode")
            part = self.root.get_submodule(half)
            for path, _ in part.named_modules():
                owner, _, leaf = path.rpartition(".")
                flat = self.kind == "AutoencoderTiny" and owner == "layers"
                listed = leaf.isdigit() and owner.rpartition(".")[2] in BLOCKS
                if flat or listed or path in ENDS:
                    delta = (listed and "sampler" not in path) or flat
                    sites.append(Site(f"{half}.{path}", f"{half}.{path}", delta=delta, modes=modes))
        both = ("generate", "encode")
        if getattr(self.root, "posterior", None) is not None:
            entry = {"stream": "entry", "kind": "entry", "modes": ("encode",)}
            names = ("posterior.mean", "posterior.logvar")
            sites += [Site(name, name, **entry) for name in names]
        if getattr(self.root, "quant_conv", None) is not None:
            sites.append(Site("quant_conv", "quant_conv", modes=("encode",)))
        if getattr(self.root, "quantize", None) is not None:
            sites.append(Site("quantize", "quantize", item=0, modes=both))
        entrance = "decoder"
        if getattr(self.root, "post_quant_conv", None) is not None:
            entrance = "post_quant_conv"
            sites.append(Site(entrance, entrance, modes=both))
        return [*sites, Site("code", entrance, "input", stream="entry", kind="entry", modes=both)]

    def run_reference(self) -> None:
        """Encode and decode a black image of native size."""
        like = next(self.root.parameters())
        height, width = self.image_size
        channels = self.root.config["in_channels"]
        image = torch.zeros(1, channels, height, width, device=like.device, dtype=like.dtype)
        self._decode(self._code(image))

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read the batch and the size from what the encoder or decoder is given."""
        x = next(value for value in arguments.values() if isinstance(value, Tensor))
        # A code may be one vector.
        frame = (int(x.shape[-2]), int(x.shape[-1])) if x.ndim == 4 else None
        return Facts(x.shape[0], None, frame)

    @property
    def capabilities(self) -> frozenset[str]:
        """Both."""
        return frozenset(("generate", "encode"))

    @property
    def image_size(self) -> tuple[int, int]:
        """The config's sample size (32 for AutoencoderTiny, which has none)."""
        size = self.root.config.get("sample_size") or 32
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def conditional_first(self) -> bool:
        """There is no guidance."""
        return False

    def components(self) -> Mapping[str, nn.Module]:
        """The autoencoder alone."""
        return {"root": self.root}

    def clock_modules(self) -> dict[str, nn.Module]:
        """Count runs of the halves: component-level `encode` and `decode` are no `forward`."""
        return {name: self.root.get_submodule(name) for name in ("encoder", self.entrance)}

    @property
    def entrance(self) -> str:
        """The first module of the decoding half."""
        names = ("quantize", "post_quant_conv")
        return next((n for n in names if getattr(self.root, n, None) is not None), "decoder")

    def log_snr(self, t: float | None) -> None:
        """There is no noise level."""
        return None

    def _code(self, pixels: Tensor) -> Tensor:
        output = self.root.encode(pixels)
        if hasattr(output, "latent_dist"):
            return output.latent_dist.mean
        return output.latents

    def _decode(self, code: Tensor) -> Tensor:
        return self.root.decode(code).sample

    def _sources(self, recipe: Generation) -> dict[str, str]:
        return {"code": "latents"}

    def _draw_latents(self, batch: GenerateBatch) -> Tensor:
        return normal(batch.seeds, self._shape(batch), torch.empty(0, device=self.device))

    def _shape(self, batch: GenerateBatch) -> tuple[int, ...]:
        """Width and size of the code of one image."""
        native = self.points["code"].grid
        height, width = self.image_size
        asked = (batch.height or height, batch.width or width)
        if not native and asked != (height, width):
            raise InputError(f"{self.name} makes images of {self.image_size} pixels only")
        size = tuple(a * n // s for a, n, s in zip(asked, native, (height, width), strict=False))
        return self.points["code"].width, *size

    def _generate(self, batch: GenerateBatch) -> Tensor:
        if batch.prompts or batch.classes:
            raise InputError("an autoencoder takes neither prompts nor classes")
        like = next(self.root.parameters())
        shape = self._shape(batch)
        if batch.latents is None:
            z = normal(batch.seeds, shape, like)
        else:
            given = check_latents(
                batch.latents, (len(batch.seeds), *shape), f"codes of {self.name}"
            )
            z = given.to(like)
        return to_image(self._decode(z / self.scale + self.shift))

    def _encode(self, batch: EncodeBatch) -> Tensor:
        like = next(self.root.parameters())
        return to_uint8(self._decode(self._code(to_unit(batch.images, self.image_size, like))))
