"""Networks whose modules leave more behind than an output: reuse changes no image of theirs."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from interp import load
from interp.interventions import Carrier, interchange, play_carriers, scan
from interp.interventions.swapping import read_carriers, swap_carriers
from interp.models import Generation, recording

DONOR, RECIPIENT = Generation(n=12, seed=0), Generation(n=12, seed=1000)
CARRIERS = [Carrier(("pre",)), Carrier(("b",)), Carrier(("c",))]
PIXELS = {"pixels": lambda images: images.flatten(1).double()}


class Step(nn.Module):
    """A linear map that draws noise, or keeps its output for a later one, in one of two ways."""

    def __init__(self, kind: str, first: "Step | None" = None) -> None:
        super().__init__()
        self.map = nn.Linear(12, 12, bias=False)
        self.kind = kind
        self.first = [first]
        self.boxes: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.map(x)
        if self.kind == "draws":
            return y + torch.randn(y.shape)
        if self.kind == "attribute":
            self.kept = y
        if self.kind == "list":
            self.boxes[:] = [y]
        first = self.first[0]
        if first is None:
            return y
        return y + (first.kept if first.kind == "attribute" else first.boxes[0])


class Net(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.pre, self.a, self.b = Step(""), Step(kind), Step("")
        self.c = Step("draws" if kind == "draws" else "", None if kind == "draws" else self.a)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.b(self.a(self.pre(x))))


class Adapter:
    points: ClassVar = {"pre": "pre", "b": "b", "c": "c"}
    image_size = (2, 2)

    def reference(self):
        return (torch.zeros(1, 12),), {}

    def draw_latents(self, root, batch):
        draws = [torch.Generator().manual_seed(seed) for seed in batch.seeds]
        return torch.stack([torch.randn(12, generator=one) for one in draws])

    def generate(self, root, batch):
        z = batch.latents if batch.latents is not None else self.draw_latents(root, batch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(batch.seeds[0])
            made = root(z)
        return ((made * 0.1 + 0.5).clamp(0, 1) * 255).round().byte().reshape(-1, 2, 2, 3)


def _model(kind):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load(Net(kind), adapter=Adapter())


def _truth(model):
    batches = DONOR.batch(0, 12), RECIPIENT.batch(0, 12)
    _, cache = read_carriers(model, ("pre", "b", "c"), batches[0])
    return [swap_carriers(model, [carrier], cache, batches[1]) for carrier in CARRIERS]


@pytest.mark.parametrize("kind", ["draws", "attribute", "list"])
def test_a_swap_with_reuse_is_that_without_it(kind):
    model = _model(kind)
    # The carrier at which reuse is checked is the one that it would change.
    found = interchange(model, [CARRIERS[1], CARRIERS[0], CARRIERS[2]], DONOR, RECIPIENT)
    for one, other in zip([found[1], found[0], found[2]], _truth(model), strict=True):
        assert torch.equal(one.swapped, other)
        assert one.rerender == 0
        assert one.in_full == (kind == "list")


@pytest.mark.parametrize("kind", ["draws", "attribute"])
def test_what_leaves_more_than_an_output_is_not_recorded(kind):
    model = _model(kind)
    with recording(model, ["pre", "b", "c"]) as record:
        model.generate(RECIPIENT.batch(0, 12))
    paths = {page.runs[i].path for page in record.pages.values() for i in page.outputs}
    assert paths == ({"pre", "b"} if kind == "draws" else {"pre", "b", "c"})


@pytest.mark.parametrize("kind", ["attribute", "list"])
def test_the_order_of_carriers_changes_no_effect(kind):
    model = _model(kind)
    reference = model.generate(Generation(n=12, seed=5000).batch(0, 12))
    b, pre = CARRIERS[1], CARRIERS[0]
    rest = (DONOR, RECIPIENT, PIXELS, reference)
    found = [scan(model, some, *rest, n_resamples=20) for some in ([b], [b, pre])]
    assert found[0].swapped["b"]["pixels"].tolist() == found[1].swapped["b"]["pixels"].tolist()
    assert [one.in_full for one in found] == [int(kind == "list")] * 2
    games = [play_carriers(model, some, *rest, batch_size=6) for some in ([pre, b], [b, pre])]
    places = zip(games, (1, 0), strict=True)
    moments = [game.moments[game.subsets.index(frozenset([i]))] for game, i in places]
    assert moments[0].tolist() == moments[1].tolist()
