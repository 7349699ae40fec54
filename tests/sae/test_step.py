"""The fused step against the step by autograd, its backend on record, and what it asks of a GPU."""

import json

import pytest
import torch
from interp_kernels import resolve, using_backend

from interp.errors import SAEError
from interp.sae import TopK, TrainConfig, train
from interp.sae.step import autograd_step, can_fuse, fused_step, open_stack
from interp.sae.synthetic import PlantedDictionary

# Decays and dies: AuxK works from step 3 on.
CONFIG = TrainConfig(
    n_latents=40, k=4, batch_size=32, steps=25, dead_window=2, lr=2e-2, options={"aux_k": 5}
)


def _sae(seed=0, dtype=torch.float32, d=12):
    sae = TopK(d, CONFIG.n_latents, CONFIG.k, seed=seed, aux_k=CONFIG.options["aux_k"])
    sae.fit(torch.linspace(-1, 1, d).double(), torch.ones(d).double())
    return sae.to(dtype)


def _optimizer(sae):
    return torch.optim.Adam(sae.parameters(), lr=CONFIG.peak_lr, betas=(0.9, 0.99), fused=True)


def _open(*saes, dtype=None):
    counters = [torch.zeros(CONFIG.n_latents, dtype=torch.int64) for _ in saes]
    return open_stack(saes, [_optimizer(sae) for sae in saes], counters, dtype=dtype)


def _data(steps=25, dtype=torch.float32):
    return [x.to(dtype) for x in PlantedDictionary(30, 12, 3, batch_size=32, steps=steps)]


@pytest.mark.parametrize("backend", ["eager", "dense"])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-6), (torch.float32, 2e-3)])
def test_the_loss_curve_and_the_weights_are_those_of_the_autograd_step(dtype, bound, backend):
    fused, slow = _sae(dtype=dtype), _sae(dtype=dtype)
    stack, optimizer = _open(fused), _optimizer(slow)
    silent = torch.zeros(CONFIG.n_latents, dtype=torch.int64)
    with using_backend(backend):
        for step, x in enumerate(_data(dtype=dtype)):
            mine = fused_step(stack, [x], CONFIG, step)
            theirs = autograd_step(slow, optimizer, silent, x, CONFIG, step)
            torch.testing.assert_close(mine, theirs, rtol=bound, atol=bound)
            assert dtype == torch.float32 or (stack.silent == silent).all()
    assert theirs[0, 1] > 0, "no latent died"
    for mine, theirs in zip(fused.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=20 * bound)


def test_a_stack_steps_as_its_members_apart():
    saes, alone = [_sae(seed) for seed in range(3)], [_sae(seed) for seed in range(3)]
    stack, singles = _open(*saes), [_open(sae) for sae in alone]
    batches = [x + torch.arange(3)[:, None, None] / 9 for x in _data(10)]
    for step, rows in enumerate(batches):
        together = fused_step(stack, list(rows), CONFIG, step)
        apart = [fused_step(s, [x], CONFIG, step) for s, x in zip(singles, rows, strict=True)]
        torch.testing.assert_close(together, torch.cat(apart), rtol=1e-4, atol=1e-5)
    for mine, theirs in zip(saes, alone, strict=True):
        for one, other in zip(mine.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_working_copies_in_16_bits_train_nearly_as_well():
    losses = {}
    for dtype in (None, torch.bfloat16):
        sae = _sae()
        stack = _open(sae, dtype=dtype)
        losses[dtype] = [
            float(fused_step(stack, [x], CONFIG, s)[0, 0]) for s, x in enumerate(_data())
        ]
        assert sae.W_enc.dtype == torch.float32
    assert losses[torch.bfloat16][-1] < 0.7 * losses[None][0]
    assert losses[torch.bfloat16][-1] == pytest.approx(losses[None][-1], rel=0.15)


def test_the_optimizer_of_torch_goes_on_where_the_fused_step_stopped():
    sae, twin = _sae(), _sae()
    optimizer, plain = _optimizer(sae), _optimizer(twin)
    silent = [torch.zeros(CONFIG.n_latents, dtype=torch.int64) for _ in range(2)]
    stack = open_stack([sae], [optimizer], silent[:1])
    for step, x in enumerate(_data(6)):
        if step < 3:
            fused_step(stack, [x], CONFIG, step)
        else:
            autograd_step(sae, optimizer, stack.silent, x, CONFIG, step)
        # As after a restore: step counts of their own.
        for state in optimizer.state.values():
            state["step"] = state["step"].clone() if step == 2 else state["step"]
        autograd_step(twin, plain, silent[1], x, CONFIG, step)
    torch.testing.assert_close(sae.W_enc, twin.W_enc, rtol=0, atol=1e-5)


@pytest.mark.parametrize("backend", ["eager", "dense"])
@pytest.mark.parametrize("members", [1, 3])
def test_a_step_off_the_cpu_asks_for_no_number(members, backend):
    # Tensors of the meta device have no numbers: whatever asks for one fails.
    saes = [_sae().to("meta") for _ in range(members)]
    silent = [torch.zeros(CONFIG.n_latents, dtype=torch.int64, device="meta") for _ in saes]
    stack = open_stack(saes, [_optimizer(sae) for sae in saes], silent)
    x = torch.empty(32, 12, device="meta")
    with pytest.raises(RuntimeError):
        bool(x.sum() > 0)
    with using_backend(backend):
        assert fused_step(stack, [x] * members, CONFIG, 3).shape == (members, 4)


def test_the_rate_may_be_filled_in_from_outside():
    mine, theirs = _sae(), _sae()
    stack, other = _open(mine), _open(theirs)
    for step, x in enumerate(_data(3)):
        stack.lr.fill_(CONFIG.lr_at(step))
        fused_step(stack, [x], CONFIG, None)
        fused_step(other, [x], CONFIG, step)
    assert (mine.W_enc == theirs.W_enc).all()


def test_only_topk_goes_by_the_fused_step():
    class Other(TopK):
        pass

    assert can_fuse(_sae())
    assert not can_fuse(Other(4, 8, 2))
    assert not can_fuse(_sae(dtype=torch.float16))


def _recorded(path):
    return json.loads((path / "config.json").read_text())["backend"]


def test_the_resolved_backend_is_on_record_and_kept(tmp_path):
    data = PlantedDictionary(30, 12, 3, batch_size=32, steps=25)
    train(data, CONFIG, out=tmp_path / "auto")
    chosen = resolve(
        None,
        device=torch.device("cpu"),
        n_latents=CONFIG.n_latents,
        k=CONFIG.k,
        dtype=torch.float32,
    )
    assert _recorded(tmp_path / "auto") == chosen
    train(data, CONFIG, out=tmp_path / "run", backend="eager")
    assert _recorded(tmp_path / "run") == "eager"
    train(data, CONFIG, out=tmp_path / "run")
    assert _recorded(tmp_path / "run") == "eager"
    with pytest.raises(SAEError, match="backend: 'eager' there, 'dense' asked"):
        train(data, CONFIG, out=tmp_path / "run", backend="dense")


def test_a_backend_that_cannot_run_here_is_refused(tmp_path):
    with pytest.raises(SAEError, match='backend "triton" needs a GPU'):
        train([torch.eye(6)], CONFIG, out=tmp_path, backend="triton")
    with pytest.raises(SAEError, match="backend 'fast' is none of"):
        train([torch.eye(6)], CONFIG, out=tmp_path, backend="fast")
