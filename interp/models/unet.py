"""Diffusion U-Nets: UNet2DModel, UNet2DConditionModel, UNet3D, SVD's and AnimateDiff's."""

import re
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

# Lists whose members are blocks: what a member returns is a residual stream.
BLOCKS = (
    "resnets",
    "attentions",
    "temp_convs",
    "temp_attentions",
    "motion_modules",
    "downsamplers",
    "upsamplers",
    "transformer_blocks",
    "temporal_transformer_blocks",
)
# In the order in which a layer of a down block runs them: the last one is pushed as the skip.
LAYER_ORDER = ("resnets", "temp_convs", "attentions", "temp_attentions", "motion_modules")
BRANCHES = ("attn1", "attn2", "ff", "ff_in")
HALVES_OF_RESNET = ("spatial_res_block", "temporal_res_block")
# Transformers over frames: space is folded into the batch, tokens are frames.
OVER_FRAMES = re.compile(
    r"(transformer_in|temp_attentions\.\d+|motion_modules\.\d+)\.transformer_blocks\."
    r"|\.temporal_transformer_blocks\.\d+\."
)
FRAMES = 3


@final
class UNet(Model):
    """A U-Net denoiser of diffusers with typed points for every block.

    Args:
        root: UNet2DModel, UNet2DConditionModel, UNet3DConditionModel,
            UNetSpatioTemporalConditionModel or UNetMotionModel.
        name: its spec.
        pipe: the pipeline around it, if any.
        scheduler, unshuffle, n_classes, null_class: for networks on pixels, see `Host`.
    """

    family = "unet"

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
        # Networks over video run frames as samples almost everywhere.
        self.video = type(root).__name__ in (
            "UNet3DConditionModel",
            "UNetSpatioTemporalConditionModel",
            "UNetMotionModel",
        )

    def list_sites(self) -> list[Site]:
        """Return every block, branch, sampler, skip, context and the input."""
        fold = "f" if self.video else ""
        # SVD's root takes frames before channels.
        layout = "bfchw" if "SpatioTemporal" in type(self.root).__name__ else ""
        sites = [*input_sites(layout=layout), Site("conv_in", "conv_in", fold=fold)]
        if hasattr(self.root, "transformer_in"):
            sites.append(Site("transformer_in", "transformer_in", fold=fold, delta=True))
        for path, module in self.root.named_modules():
            sites += self._block_sites(path, module, fold)
        sites.append(Site("conv_out", "conv_out", fold=fold))
        if self.skip_owners:
            sites += self._skip_sites(fold)
        return sites

    def _block_sites(self, path: str, module: nn.Module, fold: str) -> list[Site]:
        owner, _, leaf = path.rpartition(".")
        kind_of_list = owner.rpartition(".")[2]
        if leaf.isdigit() and kind_of_list in BLOCKS:
            tokens = kind_of_list in ("transformer_blocks", "temporal_transformer_blocks")
            over_frames = bool(OVER_FRAMES.search(path + ".")) and "temporal_tr" not in kind_of_list
            fold = "s" if tokens and over_frames else fold
            return [Site(path, path, fold=fold, square=tokens, delta="sampler" not in path)]
        if leaf in HALVES_OF_RESNET:
            video = leaf == "temporal_res_block"
            return [Site(path, path, fold="" if video else fold, delta=True)]
        in_block = owner.rpartition(".")[2].isdigit() and "transformer_blocks" in owner
        if leaf not in BRANCHES or not in_block:
            return []
        fold = "s" if OVER_FRAMES.search(path) else fold
        sites = [Site(path, path, fold=fold, square=True, kind="contrib")]
        if leaf == "attn2":
            layout = "bstc" if fold == "s" else ""
            sites.append(
                Site(
                    f"context.{path}",
                    path,
                    "input",
                    argument="encoder_hidden_states",
                    stream="context",
                    kind="entry",
                    fold=fold,
                    layout=layout,
                )
            )
        return sites

    @property
    def skip_owners(self) -> list[tuple[str, str]]:
        """Who pushes each skip and who reads the main path next: (module, next module)."""
        root: Any = self.root
        start = "transformer_in" if hasattr(root, "transformer_in") else "conv_in"
        chain = [start]
        for i, block in enumerate(root.down_blocks):
            path = f"down_blocks.{i}"
            for j in range(len(block.resnets)):
                lists = [name for name in LAYER_ORDER if len(getattr(block, name, None) or ()) > j]
                chain.append(f"{path}.{lists[-1]}.{j}")
            if getattr(block, "downsamplers", None):
                chain.append(f"{path}.downsamplers.0")
        return [(owner, self._reader_after(owner)) for owner in chain]

    def _reader_after(self, owner: str) -> str:
        """Return the module that takes the main path after a skip was pushed."""
        root: Any = self.root
        if not owner.startswith("down_blocks."):
            return "down_blocks.0"
        _, i, what, j = owner.split(".")
        block = root.down_blocks[int(i)]
        if what != "downsamplers" and int(j) + 1 < len(block.resnets):
            return f"down_blocks.{i}.resnets.{int(j) + 1}"
        if what != "downsamplers" and getattr(block, "downsamplers", None):
            return f"down_blocks.{i}.downsamplers.0"
        if int(i) + 1 < len(root.down_blocks):
            return f"down_blocks.{int(i) + 1}"
        return "mid_block" if root.mid_block is not None else "up_blocks.0"

    def _skip_sites(self, fold: str) -> list[Site]:
        root: Any = self.root
        owners = self.skip_owners
        sites = [
            Site(
                f"{owner}:main", reader, "input", argument=_first_argument(root, reader), fold=fold
            )
            for owner, reader in owners
        ]
        end = len(owners)
        for k, block in enumerate(root.up_blocks):
            start = end - len(block.resnets)
            for item, index in enumerate(range(start, end)):
                sites.append(
                    Site(
                        f"skip.{index}",
                        f"up_blocks.{k}",
                        "input",
                        item=item,
                        argument="res_hidden_states_tuple",
                        stream="skip",
                        fold=fold,
                    )
                )
            end = start
        return sites

    def run_reference(self) -> None:
        """Run once on zeros at the native resolution (videos: three frames)."""
        root: Any = self.root
        config = root.config
        like = next(root.parameters())
        size = config.get("sample_size") or 8 * 2 ** (len(config.block_out_channels) - 1)
        height, width = size if isinstance(size, (tuple, list)) else (size, size)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, device=like.device, dtype=like.dtype)

        shape: tuple[int, ...] = (1, config.in_channels, height, width)
        name = type(root).__name__
        arguments: dict[str, Any] = {}
        if name == "UNetSpatioTemporalConditionModel":
            shape = (1, FRAMES, *shape[1:])
            arguments["added_time_ids"] = zeros(1, _time_ids(root))
        elif self.video:
            shape = (1, config.in_channels, FRAMES, height, width)
        if "cross_attention_dim" in config:
            tokenizer: Any = getattr(self.host.pipe, "tokenizer", None)
            # 77 tokens are CLIP's; tokenizers without a limit name an astronomic one.
            tokens = min(77, getattr(tokenizer, "model_max_length", 77))
            arguments["encoder_hidden_states"] = zeros(*_context_shape(root, name, tokens))
        arguments |= _added(root, zeros)
        root(zeros(*shape), 1, **arguments)

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read batch, timestep and size from the root's own arguments."""
        sample = arguments["sample"]
        frame = (int(sample.shape[-2]), int(sample.shape[-1]))
        return Facts(sample.shape[0], timestep_of(arguments["timestep"]), frame)

    @property
    def capabilities(self) -> frozenset[str]:
        """What its pipeline or scheduler allows."""
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


def _first_argument(root: nn.Module, path: str) -> str:
    return "hidden_states" if path.count(".") <= 1 else ""


def _time_ids(root: Any) -> int:
    return root.add_embedding.linear_1.in_features // root.config.addition_time_embed_dim


def _context_shape(root: Any, name: str, tokens: int) -> tuple[int, int, int]:
    width = root.config.cross_attention_dim
    if root.config.get("encoder_hid_dim"):
        width = root.config.encoder_hid_dim
    width = width[0] if isinstance(width, (tuple, list)) else width
    # UNetMotionModel takes the text of each frame; one token is SVD's image.
    frames = FRAMES if name == "UNetMotionModel" else 1
    return frames, 1 if name == "UNetSpatioTemporalConditionModel" else tokens, width


def _added(root: Any, zeros: Any) -> dict[str, Any]:
    """Return the optional conditions that the config asks for."""
    arguments: dict[str, Any] = {}
    config = root.config
    if getattr(root, "class_embedding", None) is not None:
        kind = config.get("class_embed_type")
        width = root.class_embedding
        labels = torch.zeros(1, dtype=torch.long, device=zeros(1).device)
        if kind == "projection":
            labels = zeros(1, config.projection_class_embeddings_input_dim)
        elif kind == "identity":
            labels = zeros(1, config.block_out_channels[0] * 4)
        elif kind == "simple_projection":
            labels = zeros(1, width.in_features)
        arguments["class_labels"] = labels
    kind = config.get("addition_embed_type")
    if kind not in (None, "text_time"):
        raise PointError(f"no reference input for addition_embed_type={kind!r}; write an adapter")
    if kind == "text_time":
        ids = 6  # SDXL, section 2.2: original size, crop and target size, two numbers each
        pooled = root.add_embedding.linear_1.in_features - ids * config.addition_time_embed_dim
        arguments["added_cond_kwargs"] = {
            "text_embeds": zeros(1, pooled),
            "time_ids": zeros(1, ids),
        }
    return arguments
