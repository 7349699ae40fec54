"""Style-based generators: z, w, W+, the styles S, noise inputs, every map and toRGB."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.clock import Facts
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation, check_latents
from interp.models.model import Model
from interp.models.pixels import to_image
from interp.models.points import Site

ONLY = ("generate",)


@final
class GAN(Model):
    """A StyleGAN2-like generator.

    The generator is any module that is called as root(z, noise=[...], truncation=psi) and returns
    images in [-1, 1], with `mapping` (z -> w), `layers.<l>` (called with x, w, noise; with
    `affine` and `noise` inside) and `rgbs.<r>` (called with x, w; with `affine` inside), where
    layer l takes entry l of W+ and rgbs.<r> entry 2r + 1.

    Points: "z", "w" (before truncation), "w_plus.<l>", "s.<l>" and "s_rgb.<r>" (outputs of the
    affines), "noise.<l>" (the raw noise map), "layers.<l>" (maps), "layers.<l>.noise" (noise times
    its learned strength), "rgbs.<r>" (each resolution's part of the image).

    Args:
        root: the generator.
        name: its spec.
        z_width: length of z.
        noise_sizes: side of each layer's noise map.
    """

    family = "gan"

    def __init__(
        self,
        root: nn.Module,
        name: str,
        *,
        z_width: int,
        noise_sizes: Sequence[int],
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(root, name, extra=extra)
        self.z_width, self.noise_sizes = z_width, tuple(noise_sizes)

    def list_sites(self) -> list[Site]:
        """Return entries, styles, noise, maps and image parts."""
        root: Any = self.root

        def entry(name: str, module: str, port: str = "output", **more: Any) -> Site:
            return Site(name, module, port, stream="entry", kind="entry", modes=ONLY, **more)

        sites = [entry("z", "mapping", "input"), entry("w", "mapping")]
        takers: dict[int, list[str]] = {i: [f"layers.{i}"] for i in range(len(root.layers))}
        for r in range(len(root.rgbs)):
            takers.setdefault(2 * r + 1, []).append(f"rgbs.{r}")
        for i, (first, *others) in sorted(takers.items()):
            also = tuple(others)
            sites.append(entry(f"w_plus.{i}", first, "input", argument="w", also=also))
        for i in range(len(root.layers)):
            path = f"layers.{i}"
            sites += [
                entry(f"s.{i}", f"{path}.affine"),
                entry(f"noise.{i}", f"{path}.noise", "input"),
                Site(f"{path}.noise", f"{path}.noise", kind="contrib", modes=ONLY),
                Site(path, path, modes=ONLY),
            ]
        for r in range(len(root.rgbs)):
            path = f"rgbs.{r}"
            sites.append(entry(f"s_rgb.{r}", f"{path}.affine"))
            sites.append(Site(path, path, kind="contrib", modes=ONLY))
        return sites

    def run_reference(self) -> None:
        """Make one image from zeros."""
        like = next(self.root.parameters())
        z = torch.ones(1, self.z_width, device=like.device, dtype=like.dtype)
        self.root(z, noise=[like.new_zeros(1, 1, h, h) for h in self.noise_sizes])

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read the batch from z, w or w_plus."""
        codes = (arguments.get(key) for key in ("z", "w", "w_plus"))
        code = next(c for c in codes if c is not None)
        return Facts(code.shape[0], None, self.image_size)

    @property
    def capabilities(self) -> frozenset[str]:
        """It makes images; it has no encoder."""
        return frozenset(ONLY)

    @property
    def image_size(self) -> tuple[int, int]:
        """The side of the last noise map."""
        return self.noise_sizes[-1], self.noise_sizes[-1]

    @property
    def conditional_first(self) -> bool:
        """There is no guidance."""
        return False

    def components(self) -> Mapping[str, nn.Module]:
        """The generator alone."""
        return {"root": self.root}

    def clock_modules(self) -> dict[str, nn.Module]:
        """Count the root's calls."""
        return {"": self.root}

    def log_snr(self, t: float | None) -> None:
        """There is no noise level."""
        return None

    def inputs(self, seeds: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Return z [b, z_width] and one noise map [b, 1, h, h] per layer, on the CPU.

        One generator per seed draws z first and then the maps, so that no two share a number.
        """
        drawn = []
        for seed in seeds:
            g = torch.Generator().manual_seed(seed)
            z = torch.randn(self.z_width, generator=g)
            drawn.append((z, *(torch.randn(1, h, h, generator=g) for h in self.noise_sizes)))
        z, *noise = (torch.stack(parts) for parts in zip(*drawn, strict=True))
        return z, noise

    def _sources(self, recipe: Generation) -> dict[str, str]:
        return {"z": "latents", "noise": "step_seeds"}

    def _draw_latents(self, batch: GenerateBatch) -> Tensor:
        return self.inputs(batch.seeds)[0].to(self.device)

    def _generate(self, batch: GenerateBatch) -> Tensor:
        if batch.prompts or batch.classes:
            raise InputError(f"{self.name} takes neither prompts nor classes")
        if (batch.height or batch.width) and (batch.height, batch.width) != self.image_size:
            raise InputError(f"{self.name} makes images of {self.image_size} pixels only")
        like = next(self.root.parameters())
        z, noise = self.inputs(batch.step_seeds or batch.seeds)
        if batch.latents is not None:
            z = check_latents(batch.latents, z.shape, f"z of {self.name}")
        elif batch.step_seeds:
            z, _ = self.inputs(batch.seeds)
        maps = [m.to(like) for m in noise]
        return to_image(self.root(z.to(like), noise=maps, truncation=batch.truncation))

    def _encode(self, batch: EncodeBatch) -> None:
        raise InputError(f"{self.name} has no encoder")
