"""The abstract model: a network, its hook points, and how to make it run."""

import abc
import dataclasses
import fnmatch
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from interp.errors import InputError, PointError
from interp.models.clock import Clock, Facts
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation
from interp.models.pixels import to_bytes
from interp.models.points import HookPoint, Site, unknown


class Model(abc.ABC):
    """A network whose every block can be read and edited; one final subclass per family.

    Attributes:
        name: the spec that loads it ("zoo:ddpm", "diffusers:<path>#unet").
        root: the network; its calls are counted.
        sites: how each point is reached.
        clock: counts calls while somebody reads or edits.
        provenance: what `loading` knows: revision, untrained, seed.
        n_classes: number of classes that condition it, 0 for none.
        differentiable: whether its images come as floats with a gradient, as `render` needs.
    """

    family: ClassVar[str]

    def __init__(self, root: nn.Module, name: str, *, extra: Sequence[str] = ()) -> None:
        # Any: what a host has beyond nn.Module is its own business.
        self.root: Any = root.eval()
        self.name = name
        self.clock = Clock()
        self.provenance: dict[str, Any] = {}
        self.n_classes = 0
        self.differentiable = True
        self.extra = tuple(extra)
        self.sites: dict[str, Site] = {}

    # What a family says about itself.

    @abc.abstractmethod
    def list_sites(self) -> list[Site]:
        """Return every site that may exist; the probe drops those that never fire."""

    @abc.abstractmethod
    def run_reference(self) -> None:
        """Run the network once on its reference input (batch 1, native resolution, zeros)."""

    @abc.abstractmethod
    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Return batch, timestep and frame from the arguments of a clock module's call."""

    @property
    @abc.abstractmethod
    def capabilities(self) -> frozenset[str]:
        """Which of "generate" and "encode" work."""

    @abc.abstractmethod
    def _sources(self, recipe: Generation) -> dict[str, str]: ...

    @abc.abstractmethod
    def _draw_latents(self, batch: GenerateBatch) -> Tensor: ...

    @abc.abstractmethod
    def _generate(self, batch: GenerateBatch) -> Tensor: ...

    @abc.abstractmethod
    def _encode(self, batch: EncodeBatch) -> Tensor | None: ...

    @abc.abstractmethod
    def components(self) -> Mapping[str, nn.Module]:
        """Return the networks that decide the activations, by name, the root among them."""

    @abc.abstractmethod
    def clock_modules(self) -> dict[str, nn.Module]:
        """Return the modules whose runs are counted, by dotted path."""

    @abc.abstractmethod
    def log_snr(self, t: float | None) -> float | None:
        """Return the log signal-to-noise ratio at a timestep; None where it is not known."""

    @property
    @abc.abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Native height and width of its images in pixels; (0, 0) where it has none."""

    @property
    @abc.abstractmethod
    def conditional_first(self) -> bool:
        """Whether the host orders guidance halves [cond, uncond] instead of [uncond, cond]."""

    # What every model does.

    @cached_property
    def points(self) -> dict[str, HookPoint]:
        """The hook points by name, in order of execution."""
        from interp.models.probe import discover

        sites, points = discover(self)
        self.sites = sites
        return points

    def points_in(self, mode: str) -> tuple[str, ...]:
        """Return the names of the points that fire in `mode`, "generate" or "encode"."""
        if mode not in ("generate", "encode"):
            raise InputError(f"mode {mode!r} is neither 'generate' nor 'encode'")
        return tuple(name for name in self.points if mode in self.sites[name].modes)

    def select(self, patterns: Sequence[str], mode: str) -> tuple[str, ...]:
        """Return the points that names and globs pick among those that fire in `mode`, in order.

        "all" is every block output and entry, once: no ":main", which repeats a block's output.

        Raises:
            PointError: a name does not exist, or a glob picks nothing.
        """
        names = self.points_in(mode)
        chosen: set[str] = set()
        for pattern in patterns:
            found = fnmatch.filter(names, pattern)
            if pattern == "all":
                whole = (n for n in names if self.points[n].kind in ("resid", "entry"))
                found = [n for n in whole if not n.endswith(":main")]
            if not found and pattern in self.points:
                raise PointError(f"{pattern} of {self.name} does not fire in {mode}")
            if not found:
                raise unknown(pattern, names, f"{self.name} in {mode}")
            chosen.update(found)
        return tuple(n for n in names if n in chosen)

    def point(self, name: str) -> HookPoint:
        """Return a hook point, or raise `PointError` with the closest names."""
        if name in self.points:
            return self.points[name]
        base = name.removesuffix(":delta")
        if base != name and base in self.points:
            raise PointError(
                f"{name} is undefined: {base} does not add to its input (the shapes differ, or it "
                "is not a block of a residual stream)"
            )
        raise unknown(name, self.points, self.name)

    def generate(self, batch: GenerateBatch | Generation) -> UInt8[Tensor, "b h w 3"]:
        """Make one image per seed under whatever hooks are active.

        Sample i depends on its own seed, prompt and class alone.

        Args:
            batch: samples to make; or a recipe, of which all samples are made, `batch_size` at a
                time, with a class each where the model has classes and the recipe names none. (The
                batches that `Generation.batch` gives have classes by default only with n_classes=.)

        Raises:
            InputError: the model cannot generate, or the batch does not suit it.
        """
        self.require("generate")
        if isinstance(batch, Generation):
            ends = [*range(0, batch.n, batch.batch_size), batch.n]
            parts = (batch.batch(a, b, n_classes=self.n_classes) for a, b in pairwise(ends))
            return torch.cat([self.generate(part) for part in parts])
        with self.clock.making(batch, len(batch.seeds)), torch.no_grad():
            images = self._generate(batch)
        return images if images.dtype == torch.uint8 else to_bytes(images)

    def render(self, batch: GenerateBatch) -> Float[Tensor, "b h w 3"]:
        """Make the images of `generate` unrounded, in [0, 1], on the model's device.

        generate(batch) = round(255 render(batch)). Differentiable in `batch.latents` and in what
        edits return, except where a pixel is clipped; the caller decides whether gradients are
        recorded (`torch.no_grad`), and all calls of the network stay in memory for them.

        Raises:
            InputError: as `generate`, or the model gives bytes alone.
        """
        self.require("generate")
        if not self.differentiable:
            raise InputError(
                f"{self.name} makes bytes, which have no gradient: give its adapter a `render`"
            )
        with self.clock.making(batch, len(batch.seeds)):
            return self._generate(batch)

    def draw_latents(self, batch: GenerateBatch) -> Float[Tensor, "b ..."]:
        """Return the latents that a batch's seeds give, in the form of `GenerateBatch.latents`.

        generate(replace(batch, latents=draw_latents(batch))) is generate(batch) to the last bit.

        Raises:
            InputError: the model cannot generate, or the batch does not suit it.
        """
        self.require("generate")
        with torch.no_grad():
            return self._draw_latents(dataclasses.replace(batch, latents=None, step_seeds=()))

    def sources(self, recipe: Generation) -> dict[str, str]:
        """Return what a generation is a function of: name of a source -> field of `GenerateBatch`.

        The sources are independent of each other, and together they decide the image: "z" and
        "noise" of a GAN, "code" of an autoencoder, "x_T" of a diffusion model, its "step_noise"
        where the recipe's sampler adds any, "prompts" and "classes" where the model takes them.

        Raises:
            InputError: the model cannot generate.
        """
        self.require("generate")
        return self._sources(recipe)

    def encode(self, batch: EncodeBatch) -> UInt8[Tensor, "b h w 3"] | None:
        """Run one forward pass on images, at one noise level for diffusion models.

        Returns:
            the reconstruction where the model makes one, else None.

        Raises:
            InputError: the model cannot encode, or the batch does not suit it.
        """
        self.require("encode")
        with self.clock.making(batch, len(batch.images), batch.call), torch.no_grad():
            return self._encode(batch)

    def require(self, mode: str) -> None:
        """Raise `InputError` where the model cannot "generate" or "encode"."""
        if mode not in self.capabilities:
            can = ", ".join(sorted(self.capabilities)) or "only run under hooks by its own caller"
            raise InputError(f"{self.name} cannot {mode}; it can {can}")

    @contextmanager
    def watching(self, batch: int | None = None) -> Iterator[Clock]:
        """Count calls for the length of the context; `batch` says how many samples are made."""
        self.refuse_compiled()
        if batch is not None:
            self.clock.begin(batch)
        with self.clock.watch(self.clock_modules(), self.facts, self.log_snr):
            yield self.clock

    def refuse_compiled(self) -> None:
        """Raise `PointError` where hooks would be ignored: a part is compiled, without guards."""
        compiled = [
            name or "the root"
            for name, module in self.root.named_modules()
            if getattr(module, "_compiled_call_impl", None) is not None
            or hasattr(module, "_orig_mod")
        ]
        if compiled and torch._dynamo.config.skip_nnmodule_hook_guards:
            raise PointError(
                f"{self.name}: {compiled[0]} is compiled, and compiled modules ignore hooks that "
                "come after their first call; set torch._dynamo.config.skip_nnmodule_hook_guards "
                "= False before that call, or read the uncompiled module"
            )

    @property
    def device(self) -> torch.device:
        """Where the root's parameters are."""
        return next(self.root.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the root's parameters."""
        return next(self.root.parameters()).dtype

    def identity(self) -> dict[str, Any]:
        """Return what a store records about the model: plain JSON values.

        `weights_sha256` is the root's; `components` has one digest per network that takes part.
        """
        digests = {name: weights_sha256(module) for name, module in self.components().items()}
        return {
            "spec": self.name,
            "family": self.family,
            "class": type(self.root).__name__,
            "revision": None,
            "untrained": False,
            "weights_sha256": weights_sha256(self.root),
            "components": digests,
            "dtype": str(self.dtype).removeprefix("torch."),
            "versions": versions(),
            **self.provenance,
        }


def weights_sha256(module: nn.Module) -> str:
    """Return the sha256 over names, types, shapes and bytes of a state dict in sorted order."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        if not isinstance(tensor, Tensor):
            continue
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(data.view(torch.uint8).numpy().data if data.numel() else b"")
    return digest.hexdigest()


def versions() -> dict[str, str]:
    """Return the versions of the libraries that decide what a model computes."""
    from importlib import metadata

    return {name: metadata.version(name) for name in ("torch", "diffusers", "transformers")}
