"""Diffusion transformers: DiT, PixArt, SD3, Flux; the image and the text stream of every block."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from interp.errors import PointError
from interp.models.clock import Facts, timestep_of
from interp.models.diffusion import Host
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation
from interp.models.model import Model
from interp.models.points import Site, input_sites

# (text, image) is what these blocks return; the others return the image stream alone.
JOINT = ("JointTransformerBlock", "FluxTransformerBlock", "FluxSingleTransformerBlock")
BRANCHES = ("attn1", "attn2", "attn", "ff", "ff_context")
EMBEDDERS = ("pos_embed", "x_embedder", "context_embedder", "caption_projection", "proj_out")


@final
class Transformer(Model):
    """A diffusion transformer; every block's image stream, and its text stream where it has one.

    "transformer_blocks.<l>" is the image stream after a block, "...:text" its text stream, and
    "...:delta" what the block added to the image stream.

    Args:
        root: DiTTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel or
            FluxTransformer2DModel.
        name: its spec.
        pipe: the pipeline around it, if any.
        scheduler, unshuffle, n_classes, null_class: for networks on pixels, see `Host`.
    """

    family = "transformer"

    def __init__(
        self,
        root: nn.Module,
        name: str,
        *,
        pipe: Any = None,
        scheduler: Any = None,
        unshuffle: int = 1,
        n_classes: int = 0,
        null_class: int | None = None,
        extra: Sequence[str] = (),
    ) -> None:
        super().__init__(root, name, extra=extra)
        self.host = Host(
            root,
            pipe=pipe,
            scheduler=scheduler,
            unshuffle=unshuffle,
            n_classes=n_classes,
            null_class=null_class,
        )
        self.n_classes = self.host.n_classes
        self.kind = type(root).__name__

    def list_sites(self) -> list[Site]:
        """Return the input, embedders, every block and its branches, and the output."""
        sites = input_sites(square=True)
        for path, module in self.root.named_modules():
            owner, _, leaf = path.rpartition(".")
            if leaf.isdigit() and owner in ("transformer_blocks", "single_transformer_blocks"):
                sites += _block_sites(path, module)
            if path in EMBEDDERS and not (path == "pos_embed" and self.kind.startswith("Flux")):
                text = path in ("context_embedder", "caption_projection")
                sites.append(Site(path, path, stream="text" if text else "image", square=not text))
        return sites

    def run_reference(self) -> None:
        """Run once on zeros at the native resolution."""
        like = next(self.root.parameters())
        config: Any = self.root.config

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=like.device, dtype=like.dtype)

        size = config.get("sample_size") or 8
        sample = zeros(1, config.in_channels, size, size)
        t = torch.ones(1, device=like.device)
        if self.kind == "DiTTransformer2DModel":
            label = torch.zeros(1, dtype=torch.long, device=like.device)
            self.root(sample, timestep=t.long(), class_labels=label)
        elif self.kind == "PixArtTransformer2DModel":
            # T5's context of PixArt-alpha; the widths do not depend on it.
            text = zeros(1, 120, config.caption_channels)
            added = {"resolution": zeros(1, 2), "aspect_ratio": zeros(1, 1)}
            self.root(sample, encoder_hidden_states=text, timestep=t, added_cond_kwargs=added)
        elif self.kind == "SD3Transformer2DModel":
            text = zeros(1, 77, config.joint_attention_dim)
            pooled = zeros(1, config.pooled_projection_dim)
            self.root(sample, encoder_hidden_states=text, pooled_projections=pooled, timestep=t)
        elif self.kind == "FluxTransformer2DModel":
            self._run_flux(zeros, t)
        else:
            raise PointError(f"{self.kind}: no reference input for this class; write an adapter")

    def _run_flux(self, zeros: Any, t: Tensor) -> None:
        config: Any = self.root.config
        # 512 pixels: 32 x 32 packed latents.
        side = 32
        ids = zeros(side, side, 3)
        ids[..., 1] += torch.arange(side, device=ids.device)[:, None]
        ids[..., 2] += torch.arange(side, device=ids.device)[None]
        self.root(
            hidden_states=zeros(1, side * side, config.in_channels),
            encoder_hidden_states=zeros(1, 77, config.joint_attention_dim),
            pooled_projections=zeros(1, config.pooled_projection_dim),
            timestep=t / 2,
            guidance=t if config.guidance_embeds else None,
            img_ids=ids.reshape(-1, 3),
            txt_ids=zeros(77, 3),
        )

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read batch, timestep and size from the root's own arguments."""
        x = arguments["hidden_states"]
        frame = (int(x.shape[-2]), int(x.shape[-1]))
        if x.ndim == 3:
            ids = arguments["img_ids"]
            ids = ids[0] if ids.ndim == 3 else ids
            fake = hasattr(ids, "fake_mode")
            frame = (1, 1) if fake else (int(ids[:, 1].max()) + 1, int(ids[:, 2].max()) + 1)
        return Facts(x.shape[0], timestep_of(arguments.get("timestep")), frame)

    @property
    def capabilities(self) -> frozenset[str]:
        """What its pipeline allows."""
        return self.host.capabilities

    @property
    def image_size(self) -> tuple[int, int]:
        """Native height and width in pixels."""
        return self.host.image_size

    @property
    def conditional_first(self) -> bool:
        """Order of the guidance halves."""
        return self.host.conditional_first

    def components(self) -> Mapping[str, nn.Module]:
        """The pipeline's networks."""
        return self.host.components()

    def clock_modules(self) -> dict[str, nn.Module]:
        """Count the root's calls."""
        return {"": self.root}

    def log_snr(self, t: float | None) -> float | None:
        """Log-SNR by the scheduler of the present run."""
        return self.host.log_snr(t)

    def _sources(self, recipe: Generation) -> dict[str, str]:
        return self.host.sources(recipe)

    def _draw_latents(self, batch: GenerateBatch) -> Tensor:
        return self.host.draw_latents(batch)

    def _generate(self, batch: GenerateBatch) -> Tensor:
        return self.host.generate(batch)

    def _encode(self, batch: EncodeBatch) -> None:
        self.host.encode(batch)


def _block_sites(path: str, module: nn.Module) -> list[Site]:
    joint = type(module).__name__ in JOINT
    image = Site(
        path,
        path,
        item=1 if joint else None,
        argument="hidden_states",
        delta=True,
        square=True,
    )
    sites = [image]
    if joint:
        text = Site(
            f"{path}:text",
            path,
            item=0,
            argument="encoder_hidden_states",
            stream="text",
            delta=True,
        )
        sites.append(text)
    for name, _ in module.named_children():
        branch = f"{path}.{name}"
        if name == "attn2" and not joint:
            taken = {"argument": "encoder_hidden_states", "stream": "context", "kind": "entry"}
            context: dict[str, Any] = taken
            sites.append(Site(f"context.{branch}", branch, "input", **context))
        # Single blocks run their branches on text and image in one sequence: no stream of its own.
        if name not in BRANCHES or "single" in path:
            continue
        both = joint and name == "attn"
        stream = "text" if name == "ff_context" else "image"
        more: dict[str, Any] = {"stream": stream, "kind": "contrib", "square": stream == "image"}
        sites.append(Site(branch, branch, item=0 if both else None, **more))
        if both:
            more = {"item": 1, "stream": "text", "kind": "contrib"}
            sites.append(Site(f"{branch}:text", branch, **more))
    return sites
