"""Vision encoders: the zoo's ViT and the vision models of transformers."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from interp.errors import InputError, PointError
from interp.models.clock import Facts
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation
from interp.models.model import Model
from interp.models.pixels import to_unit
from interp.models.points import Site

ONLY = ("encode",)
# Names that transformers and the zoo give to a block's two branches.
BRANCHES = ("attn", "attention", "self_attn", "mlp")


@final
class Encoder(Model):
    """A vision encoder; its points are the residual stream before and after every block.

    "embed" is the stream before the first block, "<list>.<i>" after block i, and each block's
    attention and MLP, where they are modules of their own, are contributions.

    Args:
        root: a module whose forward takes images [b, 3, h, w] first.
        name: its spec.
        mean, std: pixels are (x - mean) / std with x in [0, 1], per channel.
        size: height and width of its images.
    """

    family = "encoder"

    def __init__(
        self,
        root: nn.Module,
        name: str,
        *,
        size: tuple[int, int],
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(root, name, extra=extra)
        self.size, self.mean, self.std = size, tuple(mean), tuple(std)
        self.blocks = find_blocks(root)

    def list_sites(self) -> list[Site]:
        """Return the stream at every block and the branches."""
        first = self.blocks[0]
        sites = [Site("embed", first, "input", modes=ONLY, square=True)]
        for path in self.blocks:
            sites.append(Site(path, path, item=0, delta=True, modes=ONLY, square=True))
            for name, _ in self.root.get_submodule(path).named_children():
                if name in BRANCHES:
                    branch = f"{path}.{name}"
                    more = {"item": 0, "kind": "contrib", "modes": ONLY, "square": True}
                    sites.append(Site(branch, branch, **more))
        return sites

    def run_reference(self) -> None:
        """Look at a grey image."""
        like = next(self.root.parameters())
        self.root(torch.zeros(1, 3, *self.size, device=like.device, dtype=like.dtype))

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read the batch and the size from the images."""
        x = next(value for value in arguments.values() if isinstance(value, Tensor))
        return Facts(x.shape[0], None, (int(x.shape[-2]), int(x.shape[-1])))

    @property
    def capabilities(self) -> frozenset[str]:
        """It looks at images."""
        return frozenset(ONLY)

    @property
    def image_size(self) -> tuple[int, int]:
        """Native size in pixels."""
        return self.size

    @property
    def conditional_first(self) -> bool:
        """There is no guidance."""
        return False

    def components(self) -> Mapping[str, nn.Module]:
        """The encoder alone."""
        return {"root": self.root}

    def clock_modules(self) -> dict[str, nn.Module]:
        """Count the root's calls."""
        return {"": self.root}

    def log_snr(self, t: float | None) -> None:
        """There is no noise level."""
        return None

    def _sources(self, recipe: Generation) -> dict[str, str]:
        raise InputError(f"{self.name} makes no images")

    def _draw_latents(self, batch: GenerateBatch) -> Tensor:
        raise InputError(f"{self.name} makes no images")

    def _generate(self, batch: GenerateBatch) -> Tensor:
        raise InputError(f"{self.name} makes no images")

    def _encode(self, batch: EncodeBatch) -> None:
        like = next(self.root.parameters())
        x = to_unit(batch.images, self.size, torch.empty(0, device=like.device))
        mean, std = (like.new_tensor(v).float()[:, None, None] for v in (self.mean, self.std))
        self.root((((x + 1) / 2 - mean) / std).to(like.dtype))


def find_blocks(root: nn.Module) -> list[str]:
    """Return the paths of the blocks: the members of the longest list of equal modules.

    Raises:
        PointError: there is no list of two or more modules of one class.
    """
    best: list[str] = []
    for path, module in root.named_modules():
        members = list(module) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        if len(members) > len(best) and len({type(m) for m in members}) == 1:
            best = [f"{path}.{i}" for i in range(len(members))]
    if not best:
        raise PointError(f"{type(root).__name__} has no list of blocks; write an adapter for it")
    return best
