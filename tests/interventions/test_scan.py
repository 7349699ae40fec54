"""The scan: exact effects, controls, resumption to the same bytes, shards, cost, bad input."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.interventions import (
    Carrier,
    interchange,
    list_carriers,
    measure_interchange,
    scan,
    split_calls,
)
from interp.interventions.scan_parts import find_rank, read_part
from interp.models import Generation, editing
from interp.sae import TopK
from tests.interventions import networks

DONOR = Generation(n=12, seed=0, steps=2, classes=(0, 1))
RECIPIENT = Generation(n=12, seed=100, steps=2, classes=(1, 2))
CODES = Generation(n=12, seed=0), Generation(n=12, seed=100)
ROOT = Path(__file__).resolve().parents[2]

ATTRIBUTES = {
    "pixels": lambda x: x.double().flatten(1)[:, ::7] / 255,
    "color": lambda x: x.double().mean((1, 2)) / 255,
}


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch):
    """What fsync adds only a power cut can show."""
    monkeypatch.setattr("os.fsync", lambda fd: None)


@pytest.fixture(scope="module")
def unet():
    return networks.unet()


@pytest.fixture(scope="module")
def gan():
    return networks.zoo("gan")


@pytest.fixture(scope="module")
def reference(unet):
    return unet.generate(replace(DONOR, seed=500).batch(0, 12))


@pytest.fixture(scope="module")
def carriers(unet):
    some = list_carriers(unet, DONOR)
    names = ("x_T", "classes", "mid_block.resnets.0:delta", "skip.1", "up_blocks.0.resnets.0")
    return [carrier for carrier in some if carrier.label in names]


def _scan(model, carriers, reference, **options):
    options = {"batch_size": 8, "n_resamples": 30, "images": 9, **options}
    sides = (DONOR, RECIPIENT)
    return scan(model, carriers, *sides, ATTRIBUTES, reference, **options)


@pytest.fixture(scope="module")
def made(unet, carriers, reference, tmp_path_factory):
    """The folder of a finished scan, to copy, and its record."""
    folder = tmp_path_factory.mktemp("scan")
    return folder, _scan(unet, carriers, reference, out=folder)


@pytest.fixture
def done(made, tmp_path):
    """A finished scan's folder of one's own."""
    return Path(shutil.copytree(made[0], tmp_path / "done"))


def _files(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.iterdir())
    }


def test_a_scan_is_the_interchange_of_each_carrier(unet, carriers, reference):
    carriers = [carriers[0], carriers[-1]]
    whole = _scan(unet, carriers, reference)
    assert whole.complete
    assert whole.images is not None
    assert list(whole.effects) == [carrier.label for carrier in carriers]
    singles = interchange(unet, carriers, DONOR, RECIPIENT, batch_size=8)
    roles = [found.role for found in singles]
    for found, carrier in zip(singles, carriers, strict=True):
        label = carrier.label
        tests = roles.count(found.role)
        effect, random = measure_interchange(
            found, ATTRIBUTES, reference, n_tests=tests, n_resamples=30
        )
        assert whole.effects[label] == effect
        assert whole.random[label] == random
        assert torch.equal(whole.images.swapped[label], found.swapped[:9])
        assert torch.equal(whole.images.recipient, found.recipient[:9])
    assert whole.random["x_T"] is None
    assert whole.effects["x_T"].role == "source"


def test_prefix_reuse_changes_nothing(unet, carriers, reference, monkeypatch):
    some = carriers[2:]
    late = split_calls(unet, DONOR, some, 2)[1]
    runs = []
    first = unet.root.get_submodule("conv_in")
    own = first.forward
    monkeypatch.setattr(first, "forward", lambda *a: runs.append(1) or own(*a))
    reused = _scan(unet, [*some, *late], reference, batch_size=12)
    n_reused = len(runs)
    # Without it every run goes from its start.
    monkeypatch.setattr("interp.interventions.reuse.replaying", lambda *_: nullcontext())
    plain = _scan(unet, [*some, *late], reference, batch_size=12)
    # Six carriers of points with two runs each, of which three edit the second call
    # alone and so run no first layer at all, and three the first too, whose second is run again;
    # so is that of the check of reuse.
    assert (len(runs) - n_reused) - n_reused == 3 * 2 * 2 + (3 * 2 + 1) * 1
    for label, values in plain.swapped.items():
        for name, rows in values.items():
            assert np.array_equal(rows, reused.swapped[label][name])
    assert plain.effects == reused.effects
    assert plain.random == reused.random


def test_all_sources_together_are_the_donor_and_tau_says_so(gan):
    reference = gan.generate(replace(CODES[0], seed=500).batch(0, 12))
    full = [Carrier(fields=("z", "noise"), name="all"), Carrier(("w_plus.0",))]
    found = scan(gan, full, *CODES, ATTRIBUTES, reference, n_resamples=20, images=2)
    row = found.effects["all"].attributes["pixels"]
    assert (row.alpha, row.beta) == (1, 0)
    assert found.tau["all"]["pixels"] == pytest.approx(1)
    assert 0 < (found.tau["w_plus.0"]["pixels"] or 0) < 1
    assert found.images is not None
    assert torch.equal(found.images.swapped["all"], found.images.donor)


def test_a_scan_that_stops_goes_on_to_the_same_bytes(unet, carriers, reference, made, tmp_path):
    folder, whole = made
    seen = []

    def stop(done, total, what):
        seen.append((done, total, what))
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _scan(unet, carriers, reference, out=tmp_path / "cut", progress=stop)
    assert len(_files(tmp_path / "cut")) == 5
    assert seen[0][:2] == (0, 12)
    assert "5 carriers x 12 pairs: 24 runs of a batch" in seen[0][2]
    assert seen[1][2] == "donors and recipients, batch 1 of 2"
    again = _scan(unet, carriers, reference, out=tmp_path / "cut")
    assert _files(tmp_path / "cut") == _files(folder)
    assert again.effects == whole.effects
    assert again.recomputed == ()


def test_a_complete_folder_is_read_without_running_the_model(
    unet, carriers, reference, made, monkeypatch
):
    def run(*_):
        raise AssertionError("the model ran")

    monkeypatch.setattr(unet.root, "forward", run)
    assert _scan(unet, carriers, reference, out=made[0]).effects == made[1].effects


@pytest.mark.parametrize("damage", ["truncated", "flipped", "of another shape", "empty"])
def test_a_damaged_part_is_made_again_and_named(unet, carriers, reference, done, damage):
    before = _files(done)
    path = done / "part-000003.npz"
    data = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        path.write_bytes((done / "part-000000.npz").read_bytes())
    found = _scan(unet, carriers, reference, out=done)
    assert found.recomputed == ("part-000003.npz",)
    assert _files(done) == before


CHANGES = {
    "recipe": ({}, {"seed": 200}, {}, "donor.seed was 0, is 200"),
    "carriers": ({"drop": True}, {}, {}, "carrier 4 was .* is null"),
    "options": ({}, {}, {"batch_size": 6}, "batch_size was 8, is 6"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_folder_of_another_scan_is_refused_with_what_differs(
    unet, carriers, reference, done, case
):
    change, recipe, options, message = CHANGES[case]
    chosen = carriers[:4] if change else carriers[:5]
    sides = (replace(DONOR, **recipe), replace(RECIPIENT))
    options = {"batch_size": 8, "images": 9, "out": done, **options}
    with pytest.raises(InputError, match=message):
        scan(unet, chosen, *sides, ATTRIBUTES, reference, **options)


def test_other_weights_and_other_attributes_are_another_scan(
    unet, carriers, reference, done, monkeypatch
):
    known = unet.identity()
    other = {**known, "components": {"root": "0" * 64}}
    with monkeypatch.context() as patch:
        patch.setattr(unet, "identity", lambda: other)
        with pytest.raises(InputError, match=r"model\.weights was"):
            _scan(unet, carriers, reference, out=done)
    brighter = {**ATTRIBUTES, "color": lambda x: x.double().mean((1, 2)) / 100}
    sides, options = (DONOR, RECIPIENT), {"batch_size": 8, "images": 9, "out": done}
    with pytest.raises(InputError, match="attribute color was"):
        scan(unet, carriers, *sides, brighter, reference, **options)


def _work(rank, world, folder, kill_after=0):
    """One process of a sharded scan, as a program; it kills itself after some parts."""
    code = f"""
import os, signal, sys, warnings
warnings.simplefilter("ignore")
sys.path.insert(0, {str(ROOT)!r})
import torch
torch.set_num_threads(1)
from tests.interventions import networks, test_scan as t
def report(done, total, what):
    if {kill_after} and done == {kill_after}:
        os.kill(os.getpid(), signal.SIGKILL)
model = networks.unet()
reference = model.generate(t.replace(t.DONOR, seed=500).batch(0, 12))
some = t.list_carriers(model, t.DONOR)[:4]
found = t._scan(model, some, reference, out={str(folder)!r}, progress=report)
print(found.missing, found.n_parts)
"""
    places = {} if world == 1 else {"RANK": str(rank), "WORLD_SIZE": str(world)}
    environment = {**os.environ, **places, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_killed_process_and_two_ranks_end_in_the_bytes_of_one(unet, tmp_path):
    alone = _work(0, 1, tmp_path / "one")
    killed = _work(0, 2, tmp_path / "two", kill_after=2)
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    other = _work(1, 2, tmp_path / "two")
    assert alone.communicate()[0].split() == ["0", "10"]
    left = int(other.communicate()[0].split()[0])
    # Even parts are those of rank 0, which made two before it was killed.
    assert left == 3
    assert _work(0, 2, tmp_path / "two").communicate()[0].split() == ["0", "10"]
    assert _files(tmp_path / "two") == _files(tmp_path / "one")


def test_the_last_of_two_ranks_gathers(unet, carriers, reference, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    some = carriers[:2]
    first = _scan(unet, some, reference, out=tmp_path)
    assert (first.missing, first.n_parts, first.effects) == (3, 6, {})
    assert not first.complete
    monkeypatch.setenv("RANK", "0")
    last = _scan(unet, some, reference, out=tmp_path)
    assert last.complete
    monkeypatch.delenv("RANK")
    assert _scan(unet, some, reference).effects == last.effects
    monkeypatch.setenv("RANK", "2")
    with pytest.raises(InputError, match="RANK='2' and WORLD_SIZE='2'"):
        find_rank()
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="2 processes share a scan through a folder"):
        _scan(unet, carriers, reference)


def test_runs_that_do_not_repeat_are_refused(unet, carriers, reference, monkeypatch):
    counter = iter(range(10**6))
    block = unet.root.get_submodule("mid_block.resnets.0")
    handle = block.register_forward_hook(lambda m, a, out: out + 1e-3 * next(counter))
    try:
        with pytest.raises(InputError, match=r"changes a pixel by \d+ and the rows at mid"):
            _scan(unet, carriers, reference)
    finally:
        handle.remove()


def test_what_cannot_be_scanned_is_refused_before_anything_runs(
    unet, carriers, reference, monkeypatch
):
    def run(*_):
        raise AssertionError("the model ran")

    monkeypatch.setattr(unet.root, "forward", run)
    few = (replace(DONOR, n=9), replace(RECIPIENT, n=9))
    with pytest.raises(InputError, match="9 disjoint pairs: intervals need 10"):
        scan(unet, carriers, *few, ATTRIBUTES, reference)
    with pytest.raises(InputError, match="6 disjoint pairs"):
        _scan(unet, carriers, reference, pair=[i // 2 for i in range(12)])
    with pytest.raises(InputError, match=r"carriers of one name: \['skip.1'\]"):
        _scan(unet, [*carriers, Carrier(("skip.1",))], reference)
    with pytest.raises(InputError, match="no attribute"):
        scan(unet, carriers, DONOR, RECIPIENT, {}, reference)
    with pytest.raises(InputError, match="batch_size 0"):
        _scan(unet, carriers, reference, batch_size=0)
    with pytest.raises(InputError, match="pair has 11 entries for 12 rows"):
        _scan(unet, carriers, reference, pair=list(range(11)))


def test_reference_images_of_another_size_are_refused_after_the_first_donors(
    unet, gan, carriers, monkeypatch
):
    large = gan.generate(CODES[0].batch(0, 12))
    with pytest.raises(InputError, match=r"pixels of the reference images has 439 numbers, .* 28"):
        _scan(unet, carriers, large)


def test_reconstructed_images_are_scanned_too(tmp_path):
    model = networks.vae()
    shape = (12, 16, 16, 3)
    draws = [
        torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(i))
        for i in range(3)
    ]
    some = [c for c in list_carriers(model, draws[0]) if c.label in ("code", "decoder.conv_in")]
    options = {"n_resamples": 20, "out": tmp_path, "batch_size": 8}
    found = scan(model, some, draws[0], draws[1], ATTRIBUTES, draws[2], **options)
    assert [effect.attributes["pixels"].alpha for effect in found.effects.values()] == [1, 1]
    assert [effect.role for effect in found.effects.values()] == ["source", "descendant"]
    assert all(effect is not None for effect in found.random.values())
    with pytest.raises(InputError, match=r"donor\.images was"):
        scan(model, some, draws[2], draws[1], ATTRIBUTES, draws[0], **options)


def test_features_and_subspaces_are_scanned_and_told_apart(gan, tmp_path):
    reference = gan.generate(replace(CODES[0], seed=500).batch(0, 12))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        sae = TopK(128, 16, 4)
    basis = torch.linalg.qr(torch.randn(128, 5, generator=torch.Generator().manual_seed(0)))[0].T
    some = [
        Carrier(("w",), name="features", sae=sae, features=(1, 2)),
        Carrier(("w",), name="subspace", subspace=basis),
        Carrier(fields=("z",), name="part of z", subspace=basis),
    ]
    options = {"n_resamples": 20, "out": tmp_path}
    found = scan(gan, some, *CODES, ATTRIBUTES, reference, **options)
    alphas = [effect.attributes["pixels"].alpha for effect in found.effects.values()]
    assert all(0 < alpha < 1 for alpha in alphas)
    other = [*some[:1], replace(some[1], subspace=basis.flip(0)[:4]), *some[2:]]
    with pytest.raises(InputError, match=r"\(1 differences\): carrier 1 was"):
        scan(gan, other, *CODES, ATTRIBUTES, reference, **options)


def test_a_scan_of_a_model_that_is_edited_already_starts_every_run_anew(unet, carriers, reference):
    with editing(unet, {"skip.1": lambda rows, call: torch.zeros_like(rows)}):
        found = _scan(unet, carriers[-2:], reference)
    # A silent skip has nothing to swap.
    assert [row.alpha for row in found.effects["skip.1"].attributes.values()] == [0, 0]
    assert found.effects["up_blocks.0.resnets.0"].attributes["pixels"].alpha != 0


def test_folders_that_cannot_be_used_are_refused(unet, carriers, reference, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot use"):
        _scan(unet, carriers, reference, out=tmp_path / "file")
    (tmp_path / "scan.json").write_text('{"format": 1')
    with pytest.raises(InputError, match="is damaged"):
        _scan(unet, carriers, reference, out=tmp_path)


def test_parts_hold_float64_and_the_first_images(done):
    part = read_part(done, 9)
    assert part is not None
    assert part["swapped.0"].dtype == np.float64
    # Two batches of 8 and 4 rows, of which 9 keep their images.
    names = ("swapped.1", "swapped.images", "random.images")
    assert [len(part[name]) for name in names] == [4, 1, 1]
