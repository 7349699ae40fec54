import json
import tarfile

import pytest
import torch

from interp.errors import InputError, InterpError
from interp.zoo import recipes, train_all, training
from interp.zoo.nets import NAMES, load_net
from interp.zoo.recipes import make_job
from interp.zoo.training import Box, read_checkpoint, run, state, write_checkpoint

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (12, 3, 32, 32), generator=GENERATOR, dtype=torch.uint8)
LABELS = torch.randint(0, 3, (12,), generator=GENERATOR)


def inputs(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What a training draws from: images, tokens, or codes and hidden states."""
    g = torch.Generator().manual_seed(1)
    if name == "text":
        return torch.randint(0, 9, (12, 2, 96), generator=g), LABELS
    if name == "ldm":
        codes = torch.rand(12, 2, 4, 8, 8, generator=g)
        return codes, torch.randn(12, 3, 32, 96, generator=g).half()
    return IMAGES, LABELS


def job(name: str, *, seed: int = 0) -> training.Job:
    return make_job(name, n_classes=3, seed=seed, batch_size=2)


def equal(a, b) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b, strict=True))
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def without_clock(saved: dict) -> dict:
    return {key: x for key, x in saved.items() if key != "elapsed"}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_killed_training_resumes_bit_for_bit(name, tmp_path, monkeypatch):
    whole = job(name)
    run(whole, *inputs(name), Box(steps=4), tmp_path / "whole")

    # A checkpoint after every step; the kill comes in the third, after its random draws.
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", -1.0)
    killed = job(name)
    step = killed.step

    def dying(job, *arguments):
        losses = step(job, *arguments)
        if job.step_count == 2:
            raise KeyboardInterrupt
        return losses

    killed.step = dying
    with pytest.raises(KeyboardInterrupt):
        run(killed, *inputs(name), Box(steps=4), tmp_path / "part")
    resumed = job(name, seed=9)
    run(resumed, *inputs(name), Box(steps=4), tmp_path / "part")
    assert equal(without_clock(state(whole)), without_clock(state(resumed)))


def test_a_training_moves_the_weights_and_their_running_mean(tmp_path):
    trained = job("vit")
    first = {key: x.clone() for key, x in trained.nets["vit"].state_dict().items()}
    run(trained, IMAGES, LABELS, Box(steps=2), tmp_path)
    now, mean = trained.nets["vit"].state_dict(), trained.ema.state_dict()
    assert any(not torch.equal(first[key], now[key]) for key in first)
    assert any(not torch.equal(first[key], mean[key]) for key in first)
    assert {p.name for p in tmp_path.iterdir()} >= {
        "at-010.pt",
        "at-030.pt",
        "at-100.pt",
        "log.jsonl",
    }
    assert json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] == 2


def test_a_kill_while_writing_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path, trained = tmp_path / "last.pt", job("vit")
    write_checkpoint(trained, path)
    old = path.read_bytes()
    trained.step_count = 5

    def half(saved, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(trained, path)
    assert path.read_bytes() == old


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "last.pt"
    write_checkpoint(job("vit"), path)
    with pytest.raises(InterpError, match="does not fit this recipe"):
        read_checkpoint(make_job("vit", n_classes=4, batch_size=2), path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InterpError, match="does not fit this recipe"):
        read_checkpoint(job("vit"), path)


def test_the_box_ends_at_whichever_is_first():
    trained = job("vit")
    trained.step_count, trained.elapsed = 30, 60.0
    assert Box(steps=100, minutes=2).progress(trained) == 0.5
    assert Box(steps=40).progress(trained) == 0.75
    assert Box(minutes=0.5).progress(trained) == 1.0
    with pytest.raises(InputError, match="give steps, minutes or both"):
        Box()


def test_a_frozen_process_does_not_train(tmp_path, monkeypatch):
    frozen, clock = job("vit"), [0.0]
    step = frozen.step

    def slow(job, *arguments):
        # A second each; at the 21st the process stands still for an hour.
        clock[0] += 3600.0 if job.step_count == 20 else 1.0
        return step(job, *arguments)

    frozen.step = slow
    monkeypatch.setattr(training.time, "monotonic", lambda: clock[0])
    run(frozen, IMAGES, LABELS, Box(steps=22), tmp_path)
    assert frozen.elapsed == 21 + training.FROZEN_STEPS


def test_learning_rates_warm_up_and_fall_to_nothing():
    trained = job("vit")
    group = trained.optimizers["vit"].param_groups[0]
    peak = group["lr"]
    training._set_rates(trained, 0.0)
    assert group["lr"] == pytest.approx(peak / trained.warmup)
    trained.step_count = 10 * trained.warmup
    training._set_rates(trained, 0.0)
    assert group["lr"] == pytest.approx(peak)
    training._set_rates(trained, 1.0)
    assert group["lr"] <= peak / 1000


def test_an_unknown_recipe_is_refused():
    with pytest.raises(InputError, match="no zoo network 'cow'"):
        make_job("cow", n_classes=2)


@pytest.mark.slow
def test_train_zoo_writes_files_that_load_and_pack(tmp_path):
    path = recipes.train_zoo("vit", out=tmp_path, steps=2, seed=1, batch_size=2, progress=False)
    assert path == tmp_path / "vit-1.safetensors"
    net, card = load_net("vit", seed=1, folder=tmp_path)
    assert card["name"] == "zoo:vit/1"
    assert card["training"]["steps"] == 2
    assert card["quality"] is None
    assert next(net.parameters()).isfinite().all()
    (packed,) = train_all.pack(tmp_path, ["vit-1"])
    with tarfile.open(packed) as tar:
        assert tar.getnames() == ["vit-1.safetensors", "vit-1.json", "vit-1/log.jsonl"]


def test_every_network_is_trained_once_and_further_seeds_of_some():
    assert train_all.list_trainings(NAMES, (0,)) == [(name, 0) for name in NAMES]
    chosen = train_all.list_trainings(NAMES, (0, 1, 2))
    assert len(chosen) == len(set(chosen)) == len(NAMES) + 2 * len(train_all.SEEDED)
    assert all(set(needed) <= set(NAMES) for needed in train_all.NEEDS.values())
    assert set(train_all.GPU_BATCH) == set(NAMES)


def test_what_does_not_fit_one_tar_goes_into_a_second(tmp_path, monkeypatch):
    for stem in ("gan", "vae"):
        (tmp_path / stem).mkdir()
        (tmp_path / f"{stem}.safetensors").write_bytes(bytes(9000))
        (tmp_path / f"{stem}.json").write_bytes(b"{}")
        (tmp_path / stem / "log.jsonl").write_bytes(b"x")
    monkeypatch.setattr(train_all, "TAR_BYTES", 20_480)
    paths = train_all.pack(tmp_path, ["gan", "vae"])
    assert [path.name for path in paths] == ["zoo.tar", "zoo-2.tar"]
    for path, stem in zip(paths, ("gan", "vae"), strict=True):
        with tarfile.open(path) as tar:
            files = [tmp_path / name for name in tar.getnames()]
        assert files[0].name == f"{stem}.safetensors"
        assert path.stat().st_size == train_all._tar_bytes(files)


def test_a_tar_above_the_limit_is_refused(tmp_path, monkeypatch):
    (tmp_path / "gan").mkdir()
    for name in ("gan.safetensors", "gan.json", "gan/log.jsonl"):
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.setattr(train_all, "TAR_BYTES", 100)
    with pytest.raises(InterpError, match="more than 100"):
        train_all.pack(tmp_path, ["gan"])
