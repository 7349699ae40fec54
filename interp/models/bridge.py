"""Language models through a TransformerBridge: the residual stream of every block."""

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.clock import Facts
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation
from interp.models.model import Model
from interp.models.points import Site

ONLY = ("encode",)


@final
class Bridge(Model):
    """A TransformerBridge; its points have the bridge's own hook names.

    "blocks.0.hook_in" is the stream before the first block, "blocks.<l>.hook_out" after block l,
    "blocks.<l>.attn.hook_out" and "blocks.<l>.mlp.hook_out" are what the branches add. `encode`
    reads the prompts of a batch (captions of images), not its images. The token that some
    tokenizers put before every text has a norm far above the others' and says nothing of the text:
    means over positions leave it out.

    Args:
        root: the bridge (it stays whole: the library adds hooks and renames nothing).
        name: its spec.
    """

    family = "bridge"

    def __init__(self, root: nn.Module, name: str, *, extra: Sequence[str] = ()) -> None:
        super().__init__(root, name, extra=extra)
        lead = _count_lead(self.root.tokenizer)
        if lead:
            # Part of what a store knows: means over tokens leave these out.
            self.provenance["lead_tokens"] = lead

    def list_sites(self) -> list[Site]:
        """Return the stream at every block and the branches."""
        text = {"stream": "text", "modes": ONLY}
        sites = [Site("blocks.0.hook_in", "blocks.0.hook_in", **text)]
        hooks: Any = self.root
        for layer in range(hooks.cfg.n_layers):
            path = f"blocks.{layer}"
            for branch in (f"{path}.attn.hook_out", f"{path}.mlp.hook_out"):
                if branch in hooks.hook_dict:
                    sites.append(Site(branch, branch, kind="contrib", **text))
            sites.append(Site(f"{path}.hook_out", f"{path}.hook_out", **text))
        return sites

    def run_reference(self) -> None:
        """Read eight times the first token."""
        config: Any = self.root.cfg
        n = min(8, config.n_ctx or 8)
        self.root(torch.zeros(1, n, dtype=torch.long, device=self.device))

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read the batch from the tokens or texts."""
        tokens = arguments["input"]
        return Facts(1 if isinstance(tokens, str) else len(tokens))

    @property
    def capabilities(self) -> frozenset[str]:
        """It reads texts where it has a tokenizer."""
        return frozenset(ONLY if self.root.tokenizer is not None else ())

    @property
    def image_size(self) -> tuple[int, int]:
        """It has no images."""
        return (0, 0)

    @property
    def conditional_first(self) -> bool:
        """There is no guidance."""
        return False

    def components(self) -> Mapping[str, nn.Module]:
        """The bridge alone."""
        return {"root": self.root}

    def clock_modules(self) -> dict[str, nn.Module]:
        """Count the bridge's calls."""
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
        if not batch.prompts:
            raise InputError(
                f"{self.name} reads texts of differing lengths: condition='caption', batch_size=1 "
                "and Rows(positions='mean'), on the command line --condition caption "
                "--batch-size 1 --rows.positions mean"
            )
        bridge: Any = self.root
        rows = [bridge.tokenizer(text, return_tensors="pt")["input_ids"] for text in batch.prompts]
        lengths = sorted({row.shape[1] for row in rows})
        if len(lengths) > 1:
            raise InputError(
                f"prompts of {lengths[0]} to {lengths[-1]} tokens in one batch; padding would "
                "become rows: use batch_size=1 (--batch-size 1)"
            )
        self.root(torch.cat(rows).to(self.device))


def _count_lead(tokenizer: Any) -> int:
    """Tokens that a tokenizer puts before every text (BOS)."""
    if tokenizer is None:
        return 0
    ids, special = tokenizer("a")["input_ids"], set(tokenizer.all_special_ids)
    return next((i for i, one in enumerate(ids) if one not in special), 0)
