"""Any network, through a short adapter of the user's."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, final

import torch
from torch import Tensor, nn

from interp.errors import InputError
from interp.models.clock import Facts
from interp.models.inputs import EncodeBatch, GenerateBatch, Generation
from interp.models.model import Model
from interp.models.points import Site


class Adapter(Protocol):
    """What the library must know about a network that it does not know.

    Only `points` and `reference` are needed; `generate` and `encode` make the network usable in
    `capture`, and `time` lets its rows carry a noise level. An example:

        class TwoLayers:
            points = {"hidden": "0", "out": "2"}     # point -> module path, or a `Site`
            image_size = (8, 8)

            def reference(self):
                return (torch.zeros(1, 192),), {}

            def encode(self, root, batch):
                root(batch.images.flatten(1).float() / 255)

        net = nn.Sequential(nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))
        model = interp.load(net, adapter=TwoLayers())

    Attributes:
        points: name -> dotted path of the module whose output it is, or a `Site`, which can also
            name inputs, deltas, elements of tuples, and other streams.
        reference: returns (args, kwargs) of one forward pass of batch 1.
        generate: (root, GenerateBatch) -> uint8 [b, h, w, 3]; optional.
        render: (root, GenerateBatch) -> float [b, h, w, 3] in [0, 1] with a gradient; optional, and
            then `generate` is not needed: it is this, rounded.
        draw_latents: (root, GenerateBatch) -> the latents of its seeds; optional, and then
            `generate` and `render` have to use `GenerateBatch.latents` where they are given.
        sources: name of a source -> field of `GenerateBatch`, as `Model.sources`; optional. Without
            it: "latents" where it can draw them, and "classes" where it has any.
        encode: (root, EncodeBatch) -> None; optional.
        time: (arguments by name) -> timestep; optional.
        log_snr: (timestep) -> log-SNR; optional.
        image_size: height and width in pixels; optional.
        n_classes: number of classes that condition it; optional.
    """

    @property
    def points(self) -> Mapping[str, str | Site]:
        """Name -> module path or `Site`; a plain attribute will do."""
        ...

    def reference(self) -> tuple[tuple, dict[str, Any]]:
        """Return the arguments of one forward pass of batch 1."""
        ...


@final
class Custom(Model):
    """A network with an `Adapter`.

    Args:
        root: the network; its calls are counted, and its first tensor argument has the batch.
        name: any name.
        adapter: see `Adapter`.
    """

    family = "custom"

    def __init__(
        self, root: nn.Module, name: str, *, adapter: Adapter, extra: Sequence[str] = ()
    ) -> None:
        super().__init__(root, name, extra=extra)
        for needed in ("points", "reference"):
            if not hasattr(adapter, needed):
                raise InputError(f"the adapter {type(adapter).__name__} has no {needed!r}")
        self.adapter: Any = adapter
        self.n_classes = getattr(adapter, "n_classes", 0)
        self.differentiable = hasattr(adapter, "render")

    def list_sites(self) -> list[Site]:
        """Return the adapter's points; a plain path is the output of that module."""
        paths = dict(self.root.named_modules())
        sites = []
        for name, where in self.adapter.points.items():
            site = where if isinstance(where, Site) else Site(name, where, delta=True)
            if site.module not in paths:
                raise InputError(f"point {name!r}: no module {site.module!r} in the network")
            if site.name != name:
                raise InputError(f"point {name!r} has a Site named {site.name!r}")
            sites.append(site)
        return sites

    def run_reference(self) -> None:
        """Run on the adapter's reference input."""
        args, kwargs = self.adapter.reference()
        like = next(self.root.parameters())

        def move(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return value.to(like) if value.is_floating_point() else value.to(like.device)

        self.root(*map(move, args), **{key: move(value) for key, value in kwargs.items()})

    def facts(self, module: str, arguments: dict[str, Any]) -> Facts:
        """Read the batch from the first tensor argument, the timestep through the adapter."""
        tensors = [v for v in _flat(arguments) if isinstance(v, Tensor)]
        if not tensors:
            raise InputError(f"{self.name}: the network was called without a tensor")
        x = tensors[0]
        frame = (int(x.shape[-2]), int(x.shape[-1])) if x.ndim == 4 else None
        time = getattr(self.adapter, "time", None)
        return Facts(x.shape[0], None if time is None else float(time(arguments)), frame)

    @property
    def capabilities(self) -> frozenset[str]:
        """What the adapter defines; `render` generates too."""
        defined = {m for m in ("generate", "encode") if hasattr(self.adapter, m)}
        return frozenset(defined | ({"generate"} if self.differentiable else set()))

    @property
    def image_size(self) -> tuple[int, int]:
        """The adapter's, else (0, 0)."""
        return getattr(self.adapter, "image_size", (0, 0))

    @property
    def conditional_first(self) -> bool:
        """Guidance halves are [uncond, cond] unless the adapter says otherwise."""
        return getattr(self.adapter, "conditional_first", False)

    def components(self) -> Mapping[str, nn.Module]:
        """The network alone."""
        return {"root": self.root}

    def clock_modules(self) -> dict[str, nn.Module]:
        """Count the root's calls."""
        return {"": self.root}

    def log_snr(self, t: float | None) -> float | None:
        """The adapter's, else None."""
        known = getattr(self.adapter, "log_snr", None)
        return None if t is None or known is None else float(known(t))

    def _sources(self, recipe: Generation) -> dict[str, str]:
        found = {"latents": "latents"} if hasattr(self.adapter, "draw_latents") else {}
        if self.n_classes or recipe.classes:
            found["classes"] = "classes"
        return dict(getattr(self.adapter, "sources", found))

    def _draw_latents(self, batch: GenerateBatch) -> Tensor:
        self._check_adapter("draw_latents")
        return self.adapter.draw_latents(self.root, batch)

    def _check_adapter(self, name: str) -> None:
        if not hasattr(self.adapter, name):
            raise InputError(
                f"the adapter {type(self.adapter).__name__} of {self.name} has no {name!r}"
            )

    def _generate(self, batch: GenerateBatch) -> Tensor:
        if batch.latents is not None:
            self._check_adapter("draw_latents")
        if batch.step_seeds and "step_seeds" not in getattr(self.adapter, "sources", {}).values():
            raise InputError(
                f"the adapter of {self.name} lists no source with the field step_seeds"
            )
        if self.differentiable:
            return self._rendered(batch)
        images = self.adapter.generate(self.root, batch)
        if images.dtype != torch.uint8 or images.ndim != 4 or len(images) != len(batch.seeds):
            raise InputError(
                f"{type(self.adapter).__name__}.generate returned {images.dtype} "
                f"{tuple(images.shape)}; uint8 [{len(batch.seeds)}, h, w, 3] is needed"
            )
        return images

    def _rendered(self, batch: GenerateBatch) -> Tensor:
        images = self.adapter.render(self.root, batch)
        if not images.is_floating_point() or images.ndim != 4 or len(images) != len(batch.seeds):
            raise InputError(
                f"{type(self.adapter).__name__}.render returned {images.dtype} "
                f"{tuple(images.shape)}; floats [{len(batch.seeds)}, h, w, 3] are needed"
            )
        return images.clamp(0, 1)

    def _encode(self, batch: EncodeBatch) -> Tensor | None:
        wanted, given = self.image_size, tuple(batch.images.shape[1:3])
        if wanted != (0, 0) and given != wanted:
            raise InputError(
                f"images of {given[0]} x {given[1]} pixels for a network of {wanted[0]} x "
                f"{wanted[1]}: fit them by Encoding(size={wanted[0]}), or --size {wanted[0]}"
            )
        return self.adapter.encode(self.root, batch)


def _flat(arguments: Mapping[str, Any]) -> list[Any]:
    """Return argument values, those of *args among them."""
    values: list[Any] = []
    for value in arguments.values():
        values += value if isinstance(value, tuple) else [value]
    return values
