"""The cases train and kernels: clocks, gates and crossovers, at tiny sizes."""

from pathlib import Path

import pytest
import torch

from benchmarks import clock, kernels, memory, ops, report, run, train
from benchmarks.dense import Dense, Shape

TINY = Shape(13, 40, 3, 21)


def test_a_step_of_ours_is_timed_between_two_requests() -> None:
    batches = [torch.ones(1, 1) * i for i in range(train.FIT + 3)]
    seen: list[float] = []
    source = train.Alternating(batches, {"other": lambda x: seen.append(float(x))}, seen.append, "")
    source.device = "cpu"
    handed = [float(x) for x in source]
    assert handed == [float(x) for x in batches]
    assert len(source.times["ours"]) == len(source.times["other"]) == 3
    assert [float(x) for x in seen] == handed


def test_every_other_work_leads_once_in_turn() -> None:
    names = {name: lambda x: None for name in "abc"}
    source = train.Alternating([], names, lambda x: None, "cpu")
    assert [source._order(i)[0] for i in range(4)] == ["a", "b", "c", "a"]


def test_loss_curves_part_where_one_step_differs() -> None:
    assert train.disagreement([1.0, 0.5], [1.0, 0.5]) == 0
    assert train.disagreement([1.0, 0.55], [1.0, 0.5]) == pytest.approx(0.1)


def test_a_curve_that_parts_gives_no_figures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_run", lambda *_, **__: ({}, [1.0, 2.0], [1.0, 1.0]))
    with pytest.raises(AssertionError, match="differ by 100"):
        train.measure(TINY, tmp_path, 3, "cpu")


def test_the_dense_step_keeps_unit_rows_and_counts_silent_latents() -> None:
    dense = Dense(TINY, lambda step: 1e-2, mean=torch.zeros(13), scale=1.0)
    x = torch.randn(21, 13, generator=torch.Generator().manual_seed(0))
    first = float(dense(x))
    for _ in range(20):
        last = float(dense(x))
    assert last < 0.9 * first
    torch.testing.assert_close(dense.decoder.detach().norm(dim=1), torch.ones(40))
    assert 0 <= int(dense.silent.min()) < int(dense.silent.max()) <= 21


def test_a_ratio_has_an_interval_around_its_median() -> None:
    found = clock.ratio([4.0, 6.0, 8.0], [2.0, 2.0, 2.0])
    assert found == {"median": 3.0, "low": 2.0, "high": 4.0}


def test_interleaved_times_every_call_in_every_round() -> None:
    calls: list[str] = []
    works = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = clock.interleaved(works, 2, warm=1)
    assert calls == ["a", "b", "b", "a", "a", "b"]
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}


@pytest.mark.parametrize("backend", kernels.BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("latents", ["zipf", "real"])
def test_every_op_and_gradient_equals_its_twin_in_double_precision(
    backend: str, dtype: torch.dtype, latents: str
) -> None:
    ops.gate(ops.draw(TINY, dtype=dtype, latents=latents), backend)


def test_a_wrong_gradient_turns_the_gate_red(monkeypatch: pytest.MonkeyPatch) -> None:
    op, reference, names = ops.OPS["sparse_decode_bwd"]
    wrong = {
        **ops.OPS,
        "sparse_decode_bwd": (lambda c, b: [op(c, b)[0] * 1.01, op(c, b)[1]], reference, names),
    }
    monkeypatch.setattr(ops, "OPS", wrong)
    with pytest.raises(AssertionError, match=r"sparse_decode_bwd.dvalues: 1.0*e-02"):
        ops.gate(ops.draw(TINY), "eager", ("sparse_decode_bwd",))


def test_a_latent_that_is_not_among_the_largest_is_misplaced() -> None:
    drawn = ops.draw(TINY)
    pre = drawn.x @ drawn.encoder.T + drawn.bias
    assert ops.misplaced(drawn, pre.topk(3, dim=1).indices) == 0
    assert ops.misplaced(drawn, pre.topk(4, dim=1).indices[:, 1:]) > 0


def test_fused_and_unfused_steps_leave_the_same_weights() -> None:
    drawn = ops.draw(TINY)
    found = []
    for fused in (True, False):
        copy = drawn.converted(torch.clone)
        loss = ops.step(copy, "eager", fused=fused)
        found.append([loss, *copy.weights, *copy.moments[0], *copy.moments[1], copy.silent])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", ["zipf", "real"])
def test_skewed_latents_are_skewed_and_do_not_repeat_in_a_row(kind: str) -> None:
    even, skewed = (
        ops.draw(Shape(4, 200, 8, 300), latents=s).indices.flatten() for s in ("even", kind)
    )
    assert all(len(set(row)) == 8 for row in skewed.view(300, 8).tolist())
    assert skewed.bincount(minlength=200).max() > 5 * even.bincount(minlength=200).max()


def test_the_dense_step_takes_more_memory_than_ours() -> None:
    sizes = memory.Sizes(16, 2, 512, (2048,), 2)
    found = memory.peak("ours", Shape(16, 2048, 2, 512), 2)
    assert 0 <= found < 200
    shown = memory.figures([{"m": 2048, "ours": 10.0, "dense": 25.0}], sizes)
    assert [one["value"] for one in shown] == [10, 2.5]


def test_the_crossover_lies_where_the_speed_up_passes_one() -> None:
    assert kernels.crossover([(8, 0.5), (32, 2.0)]) == 16.0
    assert kernels.crossover([(8, 1.5), (32, 2.0)]) == 8.0
    assert kernels.crossover([(8, 0.5), (32, 0.9)]) == 32.0


def test_two_origins_are_refused(tmp_path: Path) -> None:
    checkout, site = tmp_path / "checkout", tmp_path / "site-packages"
    ours = checkout / "interp" / "__init__.py"
    run.check_origins(ours, checkout / "kernels" / "interp_kernels" / "__init__.py")
    run.check_origins(site / "interp" / "__init__.py", site / "interp_kernels" / "__init__.py")
    with pytest.raises(run.GateError, match="two origins"):
        run.check_origins(ours, site / "interp_kernels" / "__init__.py")


def test_the_device_reaches_only_a_case_that_takes_it() -> None:
    assert run._call(lambda device: device, False, "cuda") == "cuda"
    assert run._call(lambda quick: quick, True, "cuda") is True
    assert run._call(lambda: 1, True, "cuda") == 1


@pytest.mark.slow
def test_train_gives_ratios_with_targets_and_both_loss_curves() -> None:
    result = train.run(quick=True)
    shown = report.figures(result)
    assert {f.limit for f in shown} == {"", ">= 3.8", ">= 0.75"}
    assert {one["clock"] for one in result["measured"]} == {"cpu", "wall"}
    assert all(one["losses"]["apart"] < train.TOLERANCE for one in result["measured"])
