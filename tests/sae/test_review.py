"""What a hostile reader of the autoencoders has found: each test is a rule that was broken."""

import json

import pytest
import torch

from interp.cli import main
from interp.errors import SAEError
from interp.interventions.end_to_end import check_rows
from interp.sae import (
    SAE,
    VARIANTS,
    TrainConfig,
    evaluate,
    evaluate_joined,
    join,
    load_sae,
    many,
    save_sae,
    train,
)
from interp.sae.batches import Batch
from interp.sae.cards import model_card
from interp.sae.jumprelu import JumpReLU
from interp.sae.log import Log
from interp.sae.many import Job, train_many
from interp.sae.metrics import recovery
from interp.sae.options import Common, split_options
from interp.sae.relu import ReLU
from interp.sae.resample import resample_, starts_of
from interp.sae.step import BETAS
from interp.sae.sweep import sweep
from interp.sae.synthetic.bench import synth_sae_bench
from interp.sae.transcoder import Transcoder
from tests.sae.formats.made import rows, trained
from tests.sae.stores import make_store

CONFIG = TrainConfig(n_latents=12, k=2, batch_size=8, steps=20, checkpoint_every=0)


def batches(count=20, d=6):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(8, d, generator=generator) for _ in range(count)]


def test_resampling_leaves_the_decoders_bias_alone_where_it_is_as_long_as_there_are_latents():
    sae = ReLU(6, 6, l1=0.1)
    starts = starts_of(sae)
    assert set(starts) == {"b_enc"}
    optimizer = torch.optim.Adam(sae.parameters(), betas=BETAS)
    torch.stack([p.sum() for p in sae.parameters()]).sum().backward()
    optimizer.step()
    with torch.no_grad():
        sae.b_dec.fill_(0.5)
    dead = torch.tensor([True, True, False, False, False, False])
    assert len(resample_(sae, optimizer, dead, batches()[0], starts, seed=0)) == 2
    assert torch.equal(sae.b_dec, torch.full((6,), 0.5))


@pytest.mark.parametrize("variant", ["topk", "relu", "batchtopk"])
def test_an_empty_batch_is_refused_by_its_step(variant, tmp_path):
    source = batches()
    source[17] = torch.zeros(0, 6)
    config = TrainConfig(**{**CONFIG.as_dict(), "variant": variant})
    with pytest.raises(SAEError, match="batch of step 17 has no rows"):
        train(source, config, out=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.zeros(1, 6), r"step 17 has a target of shape \(1, 6\) .* for 8 rows"),
        (torch.zeros(8, 6, dtype=torch.int64), "dtype torch.int64 for 8 rows"),
        (torch.full((8, 6), torch.nan), "step 17: 8 of 8 rows have a target of NaN"),
        (None, "batch of step 17 has no target, the first batch has one"),
    ],
)
def test_targets_that_are_no_rows_of_the_batch_are_refused(target, message, tmp_path):
    source = [Batch(x, None, None, x + 1) for x in batches()]
    source[17] = source[17]._replace(target=target)
    config = TrainConfig(**{**CONFIG.as_dict(), "variant": "transcoder"})
    with pytest.raises(SAEError, match=message):
        train(source, config, out=tmp_path, progress=False)


def test_whole_numbers_in_place_of_real_ones_are_saved_and_loaded(tmp_path):
    sae = JumpReLU(6, 12, 2, coefficient=1)
    sae.save(tmp_path)
    assert SAE.load(tmp_path).digest == sae.digest


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"aux_k": 3, "dead": "none"}, "aux_k = 3 does nothing with dead = 'none': give .*'auxk'"),
        ({"resample_every": 3}, "resample_every = 3 does nothing with dead = 'auxk'"),
        ({"l1": 10**400}, "l1 = 1000.* must be a finite number"),
    ],
)
def test_options_without_an_effect_are_refused(options, message):
    with pytest.raises(SAEError, match=message):
        split_options(ReLU, options)
    assert split_options(ReLU, {"aux_k": 3})[0] == Common(aux_k=3, dead="auxk")


def test_the_pre_activation_loss_without_dead_latents_is_refused():
    config = TrainConfig("jumprelu", 12, 2, options={"pre_act": 3e-6, "dead": "none"})
    with pytest.raises(SAEError, match="pre_act = 3e-06 acts on the latents that dead = 'auxk'"):
        JumpReLU.build(6, config)


@pytest.mark.parametrize("text", ["no json", "[" * 9000, "[1, 2]", "\xff"])
def test_a_strangers_config_beside_an_sae_does_not_stop_its_reading(text, tmp_path):
    folder = tmp_path / "inner"
    path = save_sae(trained("relu"), folder / "sae.pt", "openai")
    (tmp_path / "config.json").write_text(text, encoding="latin-1")
    sae = load_sae(path)
    assert sae.provenance["source"]["config"] == {}
    assert sae.encode(rows()).values.shape[0] == len(rows())


def test_a_log_that_cannot_be_written_anew_stays_whole(tmp_path, monkeypatch):
    Log(tmp_path, 0).write({"step": 1, "fvu": 0.5})
    before = (tmp_path / "log.jsonl").read_bytes()

    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(SAEError, match="No space left"):
        Log(tmp_path, 1)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_card_does_not_show_the_numbers_of_another_sae():
    sae = trained("topk")
    record = {"point": "mid", "fvu": 0.25, "l0": 3.0, "dead": 0.1, "sae": sae.digest}
    assert "0.25" in model_card(sae, evaluation=record)
    with pytest.raises(SAEError, match=r"evaluation is of the SAE .*, this one is .*: evaluate it"):
        model_card(trained("relu"), evaluation=record)


def test_the_card_of_a_transcoder_shows_its_evaluation(tmp_path, capsys):
    sae = Transcoder(6, 12, 2, d_out=5)
    sae.save(tmp_path / "run" / "sae")
    sites = [{"name": "late", "fvu": 0.375, "private": None}]
    record = {"variant": "transcoder", "sites": sites, "n_rows": 7, "l0": 2.0, "dead": 0.25}
    record |= {"sae": sae.digest, "trained_rows": False}
    (tmp_path / "run" / "evaluation.json").write_text(json.dumps(record))
    assert main(["sae", "card", str(tmp_path / "run")]) == 0
    text = capsys.readouterr().out
    assert "On late: 7 rows" in text
    assert "| 0.375 |" in text


def test_an_sae_does_not_start_at_the_atoms_that_it_is_to_find(tmp_path):
    planted = synth_sae_bench(64, 16, p_min=5e-3, roots=4, rank=2, steps=20, batch_size=8)
    start = VARIANTS["topk"].build(16, TrainConfig(n_latents=64, k=2, seed=42)).dictionary()
    assert recovery(start.detach(), planted.atoms).mmcs > 0.9
    config = TrainConfig(n_latents=64, k=2, steps=2, batch_size=8, seed=42)
    with pytest.raises(SAEError, match="seed = 42 is that of the source's atoms"):
        train(planted, config, out=tmp_path / "a", progress=False)
    with pytest.raises(SAEError, match="seed = 42 is that of the source's atoms"):
        train_many(planted, {"one": Job(config)}, out=tmp_path / "b", order_seed=0, progress=False)


def test_a_transcoder_without_provenance_is_not_judged_on_its_input(tmp_path):
    store = make_store(tmp_path)
    foreign = Transcoder(6, 12, 2, d_out=6)
    with pytest.raises(SAEError, match="a transcoder does not reconstruct mid from itself"):
        evaluate(foreign, store, "mid", allow_train=True)


def test_the_skip_of_an_autoencoder_counts_in_its_evaluation(tmp_path):
    store = make_store(tmp_path)
    sae = Transcoder(6, 12, 2, skip=True)
    assert sae.W_skip is not None
    with torch.no_grad():
        sae.W_skip.copy_(torch.eye(6))
        sae.b_enc.fill_(-100)
    assert evaluate(sae, store, "mid", allow_train=True, baselines=False).fvu < 1e-9
    with pytest.raises(SAEError, match="end-to-end training takes SAEs of one point"):
        check_rows(sae)


def test_an_image_of_a_trained_cluster_in_any_store_is_not_judged(tmp_path):
    first = make_store(tmp_path / "a")
    second = make_store(tmp_path / "b", seed=1, cluster=[f"pair{i % 2}" for i in range(20)])
    pair = join([(first, "mid"), (second, "mid")])
    config = TrainConfig("crosscoder", 12, 2, batch_size=16, steps=2)
    sae = train(pair, config, out=tmp_path / "run", progress=False).sae
    with pytest.raises(SAEError, match="no row to judge"):
        evaluate_joined(sae, pair)


def test_a_variant_of_several_points_is_refused_beside_others_too(tmp_path):
    jobs = {
        name: Job(TrainConfig(name, 12, 2, batch_size=16, steps=2), "mid")
        for name in ("topk", "transcoder")
    }
    with pytest.raises(SAEError, match="transcoder reads two points"):
        train_many(make_store(tmp_path / "s"), jobs, out=tmp_path / "runs", progress=False)


def test_an_unknown_device_is_refused(tmp_path):
    with pytest.raises(SAEError, match=r"device = 'tpu' cannot be used here: .*; take cpu"):
        train(batches(), CONFIG, out=tmp_path, device="tpu", progress=False)


def test_a_sweep_that_was_killed_while_its_runs_were_saved_goes_on(tmp_path, monkeypatch):
    config = TrainConfig(n_latents=12, k=2, batch_size=8, steps=6, checkpoint_every=3, log_every=3)
    source, saved = batches(), []
    finish = many._finish

    def killed(training, out):
        if saved:
            raise KeyboardInterrupt
        saved.append(training.name)
        return finish(training, out)

    monkeypatch.setattr(many, "_finish", killed)
    with pytest.raises(KeyboardInterrupt):
        sweep(source, {"k": [2, 3]}, config, out=tmp_path / "a", progress=False)
    monkeypatch.undo()
    found = sweep(source, {"k": [2, 3]}, config, out=tmp_path / "a", progress=False)
    whole = sweep(source, {"k": [2, 3]}, config, out=tmp_path / "b", progress=False)
    assert [one.fvu for one in found] == [one.fvu for one in whole]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sites": [1]}, "'sites' has a site without a point: 1"),
        ({"sites": [{"point": {"name": 3}}]}, "'sites' has a site without a point"),
        ({"sites": "x"}, "'sites' is 'x', not a list"),
        ({"source": 5}, "'source' is 5, not a dict"),
    ],
)
def test_provenance_of_other_types_is_refused(wrong, message, tmp_path):
    sae = ReLU(6, 12, l1=0.1)
    sae.provenance = wrong
    sae.save(tmp_path)
    with pytest.raises(SAEError, match=message):
        SAE.load(tmp_path)
