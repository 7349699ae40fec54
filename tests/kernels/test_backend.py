"""The choice of a backend: argument over context over the table; impossible choices are refused."""

import threading

import pytest
import torch
from interp_kernels import KernelError, using_backend
from interp_kernels._backend import CROSSOVER, check_finite, interpreting, resolve

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def _resolve(backend=None, device=CPU, n_latents=4096, k=32, dtype=torch.float32):
    return resolve(backend, device=device, n_latents=n_latents, k=k, dtype=dtype)


def test_an_argument_wins_over_the_context_and_that_over_the_table():
    assert _resolve() == "eager"
    with using_backend("dense"):
        assert _resolve() == "dense"
        assert _resolve("eager") == "eager"
        with using_backend("auto"):
            assert _resolve() == "eager"
        assert _resolve() == "dense"
    assert _resolve() == "eager"


def test_a_context_is_left_behind_by_an_error_and_unseen_by_other_threads():
    seen = []
    with using_backend("dense"):
        thread = threading.Thread(target=lambda: seen.append(_resolve()))
        thread.start()
        thread.join()
    assert seen == ["eager"]
    with pytest.raises(KernelError, match="'fast' is none of"), using_backend("dense"):
        _resolve("fast")
    assert _resolve() == "eager"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_auto_crosses_at_the_table(device):
    sparse = {"cpu": "eager", "cuda": "triton"}[device]
    edge = int(CROSSOVER[device][torch.bfloat16])
    for k in (1, 3):
        given = {"device": torch.device(device), "k": k, "dtype": torch.bfloat16}
        assert _resolve(n_latents=edge * k, **given) == sparse
        assert _resolve(n_latents=edge * k - 1, **given) == "dense"


def test_auto_never_gives_float64_to_triton():
    assert _resolve(device=GPU, dtype=torch.float64) == "eager"
    with pytest.raises(KernelError, match="takes float32, bfloat16, float16, not float64"):
        _resolve("triton", device=GPU, dtype=torch.float64)


def test_triton_on_a_cpu_is_refused_outside_the_interpreter():
    assert not interpreting()
    with pytest.raises(KernelError, match="needs a GPU and the tensors are on cpu"):
        _resolve("triton")


def test_rows_that_are_not_finite_are_counted():
    values = torch.ones(5, 2)
    check_finite("op", values, "x")
    values[3, 1] = torch.nan
    with pytest.raises(KernelError, match="1 of 5 rows are NaN or inf, the first is row 3"):
        check_finite("op", values, "x")


def test_compiled_code_follows_the_context():
    @torch.compile(fullgraph=True, backend="eager")
    def chosen(x):
        return x + (1 if _resolve() == "dense" else 2)

    assert chosen(torch.zeros(1)) == 2
    with using_backend("dense"):
        assert chosen(torch.zeros(1)) == 1


def test_the_package_imports_and_runs_without_triton(python):
    code = """
import sys
sys.modules["triton"] = None
import torch, interp_kernels as k
out = k.sparse_decode(torch.ones(1, 1), torch.zeros(1, 1).int(), torch.ones(2, 3))
try:
    k.sparse_decode(torch.ones(1, 1), torch.zeros(1, 1).int(), torch.ones(2, 3), backend="triton")
except k.KernelError as error:
    print(out.tolist(), error)
"""
    assert "[[1.0, 1.0, 1.0]] backend" in python(code, PYTHONPATH="kernels")
