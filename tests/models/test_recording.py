"""What a record keeps: places and outputs of one plain run, copied as kernels need them."""

from collections import OrderedDict
from typing import Any, ClassVar, NamedTuple

import pytest
import torch
from cases import CASES, batch_of, zoo
from torch import Tensor, nn

from interp.errors import InputError, PointError
from interp.loading import load
from interp.models import GenerateBatch, Model, editing, reading, recording, replaying
from interp.models.copies import Opaque, copied, n_bytes


def edited(model: Model, batch: GenerateBatch, name: str) -> Tensor:
    with editing(model, {name: lambda rows, call: rows.flip(2) + 0.5}):
        return model.generate(batch)


def test_a_recording_takes_one_plain_run() -> None:
    model = zoo("gan")
    batch = batch_of(CASES["zoo-gan"])
    with pytest.raises(InputError, match="nothing was recorded"), recording(model, ["w"]):
        pass
    with recording(model, ["w"]):
        model.generate(batch)
        with pytest.raises(InputError, match="a second run in recording"):
            model.generate(batch)
    with pytest.raises(InputError, match="w is edited in recording"), recording(model, ["w"]):
        edited(model, batch, "w")
    with pytest.raises(PointError, match="closest"), recording(model, ["v"]):
        pass


def test_the_fewer_places_the_smaller_the_record() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=3)
    sizes = []
    for points, calls in ((["mid_block.resnets.0"], [2]), (None, [2]), (None, None)):
        with recording(model, points, calls=calls) as record:
            model.generate(batch)
        sizes.append(record.nbytes)
    assert sizes[0] < sizes[1] < sizes[2]
    first = {page.runs[i].path for page in record.pages.values() for i in page.outputs}
    assert "conv_in" in first


def test_a_record_says_the_noise_level_of_each_call() -> None:
    model = zoo("ddpm")
    batch = batch_of(CASES["zoo-ddpm"], steps=3)
    with recording(model, ["x_t"], calls=[]) as record:
        model.generate(batch)
    with reading(model, ["x_t"]) as reader:
        model.generate(batch)
    pages = [record.pages[call] for call in sorted(record.pages) if call >= record.first]
    assert [(p.call, p.t, p.log_snr) for p in pages] == [
        (read.call, read.t, read.log_snr) for read in reader.calls
    ]


class Sneaky(nn.Module):
    """Writes into its argument, and returns two tensors of one memory."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Linear(4, 4), nn.Linear(4, 4)
        self.twice, self.inplace = Twice(), Inplace()

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.twice(self.inner(x))
        a += 1
        self.inplace(b)
        return self.last(a + b)


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x * 2
        return y, y[:, :]


class Inplace(nn.Module):
    def forward(self, x: Tensor) -> None:
        x *= 3


class Painter:
    """The adapter of `Sneaky`."""

    points: ClassVar = {"inner": "inner", "last": "last"}

    def reference(self) -> tuple[tuple, dict]:
        return (torch.zeros(1, 4),), {}

    def render(self, root: nn.Module, batch: GenerateBatch) -> Tensor:
        x = torch.tensor(batch.seeds)[:, None] / torch.arange(1.0, 5.0)
        return root(x).sigmoid()[:, None, None, :3]


def test_what_modules_write_in_place_is_written_again() -> None:
    with torch.random.fork_rng(devices=[]):
        model = load(Sneaky(), adapter=Painter())
    batch = GenerateBatch(seeds=(1, 2))
    expected = edited(model, batch, "last")
    with recording(model, ["last"]) as record:
        model.generate(batch)
    paths = {page.runs[i].path for page in record.pages.values() for i in page.outputs}
    assert paths == {"inner", "twice", "last"}
    for _ in range(2):
        with replaying(model, record):
            assert torch.equal(edited(model, batch, "last"), expected)


class Pair(NamedTuple):
    a: Tensor
    b: Tensor | None


def test_a_copy_has_the_strides_and_the_shared_memory_of_the_original() -> None:
    from diffusers.models.unets.unet_2d import UNet2DOutput

    base = torch.arange(48.0).reshape(2, 3, 2, 4)
    last = base.to(memory_format=torch.channels_last)
    value = {"pair": Pair(base[:, 1:], None), "list": [base, last, base.expand(2, 3, 2, 4)]}
    new: Any = copied(value)
    assert type(new["pair"]) is Pair
    assert new["pair"].b is None
    assert new["list"][1].stride() == last.stride()
    assert torch.equal(new["list"][1], last)
    base.zero_()
    new["list"][0].fill_(7.0)
    assert bool((new["pair"].a == 7).all())
    assert new["pair"].a.storage_offset() == value["pair"].a.storage_offset()
    assert n_bytes(new) == 2 * 48 * 4
    output = copied(UNet2DOutput(sample=last))
    assert type(output) is UNet2DOutput
    assert torch.equal(output.sample, last)
    assert list(copied(OrderedDict(b=1, a=None))) == ["b", "a"]


def test_what_cannot_be_copied_by_its_parts_is_not_kept() -> None:
    for value in (
        object(),
        [torch.eye(2).to_sparse()],
        {"a": torch.eye(2, dtype=torch.cfloat).conj()},
    ):
        with pytest.raises(Opaque):
            copied(value)
