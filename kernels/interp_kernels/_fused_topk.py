"""The k largest of each row of x W^T + b, without the [n, m] matrix: shared by TopK and k-NN.

1. Matrix product by tiles of [BM, BN]; the epilogue keeps the `keep` largest of each row's BN
   entries. Tile t holds the latents t, t + T, t + 2 T, ... of T tiles, so that neighbors in the
   dictionary (nested prefixes, sorted rows) do not crowd one tile.
2. The k largest of the T keep candidates are the answer unless some tile's `keep` entries all rank
   among them: then that tile may hide more. This certificate is exact, not a probability.
3. Rows without certificate are computed again, densely, by a few programs with a scratch row each:
   bisection on the ordered bits for the k-th largest, then a scan that takes the lowest indices.

Entries travel as int64 keys, the ordered bits of the fp32 value above 2^31 - 1 - index: larger
value first, then lower index, in one comparison. NaN ranks above everything, -0 equals 0.
Memory: n T keep keys, in chunks of rows of at most `BUDGET` bytes, and PROGRAMS scratch rows of m:
independent of n m. Nothing waits for the device.
Source: two stages as in Samaga et al. 2025 (arXiv 2506.04165), made exact by the certificate.
"""

import math

import torch
from torch import Tensor

from interp_kernels import _backend
from interp_kernels._backend import AotCase, ceil_div, launch, power_of_two, tl, triton

# Bytes of candidates that exist at once.
BUDGET = 1 << 26
# Programs that recompute rows, half of a large GPU: rows without certificate are rare.
PROGRAMS = 64
# Columns of a tile.
WIDTH = 128
# A row needs the second computation with at most this probability where latents are in random
# order: 1e-6 of 8192 rows is one row in a hundred steps.
RARE = 1e-6

LOWEST = tl.constexpr(-(1 << 63)) if _backend.has_triton() else -(1 << 63)


@triton.jit
def _ordered(values):
    """int32 that sorts like the fp32 values: NaN first of all, -0 as 0."""
    bits = tl.where(values == 0.0, 0.0, values).to(tl.int32, bitcast=True)
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(values != values, 0x7FFFFFFF, bits)


@triton.jit
def _pack(ordered, columns):
    return (ordered.to(tl.int64) << 32) | (0x7FFFFFFF - columns).to(tl.int64)


@triton.jit
def product_tile(
    x_ptr, weight_ptr, bias_ptr, rows, columns, N, M, D: tl.constexpr,
    UPCAST: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Entries [BM, BN] of x W^T + b in fp32: the same bits wherever they are computed again."""
    inner = tl.arange(0, BK)
    x_rows = x_ptr + rows.to(tl.int64)[:, None] * D
    w_rows = weight_ptr + columns.to(tl.int64)[:, None] * D
    total = tl.zeros([BM, BN], dtype=tl.float32)
    for start in range(0, D, BK):
        at = start + inner
        x = tl.load(x_rows + at[None, :], mask=(rows < N)[:, None] & (at < D)[None, :], other=0.0)
        mask = (columns < M)[:, None] & (at < D)[None, :]
        w = tl.load(w_rows + at[None, :], mask=mask, other=0.0)
        if UPCAST:
            x, w = x.to(tl.float32), w.to(tl.float32)
        total = tl.dot(x, tl.trans(w), total, input_precision="ieee")
    bias = tl.load(bias_ptr + columns, mask=columns < M, other=0.0).to(tl.float32)
    return total + bias[None, :]


@triton.jit
def _tile_kernel(
    x_ptr, weight_ptr, bias_ptr, own_ptr, other_ptr, keys_ptr, N, M, D: tl.constexpr, TILES,
    HAS_GROUPS: tl.constexpr, UPCAST: tl.constexpr, KEEP: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # Row blocks run fastest: programs in flight share a tile of W and sweep x, which fits L2.
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    columns = tl.program_id(1) + tl.arange(0, BN) * TILES
    scores = _ordered(
        product_tile(x_ptr, weight_ptr, bias_ptr, rows, columns, N, M, D, UPCAST, BM, BN, BK)
    )
    allowed = (columns < M)[None, :] & (rows < N)[:, None]
    if HAS_GROUPS:
        own = tl.load(own_ptr + rows, mask=rows < N, other=0)
        other = tl.load(other_ptr + columns, mask=columns < M, other=0)
        allowed = allowed & (own[:, None] != other[None, :])
    # No number has this score: it would be a NaN, and those are the largest.
    scores = tl.where(allowed, scores, -2147483648)
    place = keys_ptr + (rows.to(tl.int64) * TILES + tl.program_id(1)) * KEEP
    for i in range(KEEP):
        best = tl.max(scores, axis=1)
        hit = scores == best[:, None]  # type: ignore
        first = tl.where(hit, columns[None, :], 0x7FFFFFFF)
        column = tl.min(first, axis=1)
        key = tl.where(best == -2147483648, LOWEST, _pack(best, column))
        tl.store(place + i, key, mask=rows < N)
        taken = columns[None, :] == column[:, None]  # type: ignore
        scores = tl.where(taken, -2147483648, scores)


@triton.jit
def _row_scores(
    x_ptr, weight_ptr, bias_ptr, own_ptr, other_ptr, scratch_ptr, row, M, D: tl.constexpr,
    HAS_GROUPS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Ordered scores of one row, all M of them, into the scratch as int64 (LOWEST: not allowed)."""
    inner = tl.arange(0, BK)
    block = 0
    while block < M:
        columns = block + tl.arange(0, BN)
        total = tl.zeros([BN], dtype=tl.float32)
        w_rows = weight_ptr + columns.to(tl.int64)[:, None] * D
        for start in range(0, D, BK):
            at = start + inner
            x = tl.load(x_ptr + row * D + at, mask=at < D, other=0.0).to(tl.float32)
            mask = (columns < M)[:, None] & (at < D)[None, :]
            w = tl.load(w_rows + at[None, :], mask=mask, other=0.0).to(tl.float32)
            total += tl.sum(w * x[None, :], axis=1)
        total += tl.load(bias_ptr + columns, mask=columns < M, other=0.0).to(tl.float32)
        scores = _ordered(total).to(tl.int64)
        if HAS_GROUPS:
            other = tl.load(other_ptr + columns, mask=columns < M, other=0)
            scores = tl.where(tl.load(own_ptr + row) == other, LOWEST, scores)
        tl.store(scratch_ptr + columns, scores, mask=columns < M)
        block += BN


@triton.jit
def _count_above(scratch_ptr, bound, M, BN: tl.constexpr):
    """How many scores are >= bound."""
    found = tl.zeros([BN], dtype=tl.int32)
    block = 0
    while block < M:
        columns = block + tl.arange(0, BN)
        scores = tl.load(scratch_ptr + columns, mask=columns < M, other=LOWEST)
        found += (scores >= bound).to(tl.int32)
        block += BN
    return tl.sum(found, axis=0)


@triton.jit
def _kth_score(scratch_ptr, M, K, zero, BN: tl.constexpr):
    """The K-th largest score: the largest bound that at least K scores reach, bit by bit."""
    bound = zero - 2147483648
    step = zero + 2147483648
    while step > 0:
        if _count_above(scratch_ptr, bound + step, M, BN) >= K:
            bound += step
        step = step // 2
    return bound


@triton.jit
def _collect(scratch_ptr, out_ptr, bound, M, K, BN: tl.constexpr):
    """Keys of all scores above the bound and of the first that equal it, K in all, by column."""
    need = K - _count_above(scratch_ptr, bound + 1, M, BN)
    done = need * 0
    equals = need * 0
    block = 0
    while block < M:
        columns = block + tl.arange(0, BN)
        scores = tl.load(scratch_ptr + columns, mask=columns < M, other=LOWEST)
        equal = (scores == bound).to(tl.int32)
        rank = equals + tl.cumsum(equal, axis=0)
        take = (scores > bound) | ((equal > 0) & (rank <= need))
        place = done + tl.cumsum(take.to(tl.int32), axis=0) - 1
        tl.store(out_ptr + place, _pack(scores, columns), mask=take & (place < K))
        done += tl.sum(take.to(tl.int32), axis=0)
        equals += tl.sum(equal, axis=0)
        block += BN


@triton.jit
def _repair_kernel(
    x_ptr, weight_ptr, bias_ptr, own_ptr, other_ptr, failed_ptr, scratch_ptr, keys_ptr, N, M,
    D: tl.constexpr, K, HAS_GROUPS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    scratch = scratch_ptr + row * M
    while row < N:
        if tl.load(failed_ptr + row) != 0:
            _row_scores(
                x_ptr, weight_ptr, bias_ptr, own_ptr, other_ptr, scratch, row, M, D,
                HAS_GROUPS, BN, BK,
            )  # fmt: skip
            # Every thread of the program sees the whole scratch row.
            tl.debug_barrier()
            bound = _kth_score(scratch, M, K, row * 0, BN)
            _collect(scratch, keys_ptr + row * K, bound, M, K, BN)
            tl.debug_barrier()
        row += tl.num_programs(0)


def kept_per_tile(n_latents: int, k: int) -> int:
    """Candidates per tile, a power of two, for which a row fails with probability <= RARE.

    Union bound over T tiles of the Poisson tail with mean k / T: latents in random order.

    Args:
        n_latents: m.
        k: wanted per row.

    Returns:
        4 to 128.
    """
    tiles = ceil_div(n_latents, WIDTH)
    mean = k / tiles
    keep = 4
    while keep < min(WIDTH, k):
        below = sum(math.exp(i * math.log(mean) - mean - math.lgamma(i + 1)) for i in range(keep))
        if tiles * (1 - below) <= RARE:
            break
        keep *= 2
    return keep


def product_sides(dtype: torch.dtype, n: int) -> dict[str, int]:
    """Sides of a product tile, by dtype: 96 KB of shared memory at three stages."""
    if _backend.interpreting():
        return {"BM": power_of_two(n, low=16, high=64), "BN": WIDTH, "BK": 32}
    rows = power_of_two(n, low=16, high=64 if dtype == torch.float32 else 128)
    return {"BM": rows, "BN": WIDTH, "BK": 32 if dtype == torch.float32 else 64}


def fused_keys(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    k: int,
    groups: tuple[Tensor, Tensor] | None = None,
    keep: int | None = None,
) -> Tensor:
    """Keys of the k largest entries of each row of x W^T + b, descending.

    Args:
        x: [n, d] contiguous.
        weight: [m, d] contiguous.
        bias: [m] contiguous.
        k: 1 <= k <= m.
        groups: int32 [n] and [m]; an entry whose two groups are equal is not allowed.
        keep: candidates per tile; None asks `kept_per_tile`.

    Returns:
        [n, k] int64; the lowest int64 where a row has fewer than k allowed entries.
    """
    n, d = x.shape
    m = weight.shape[0]
    keep = kept_per_tile(m, k) if keep is None else keep
    tiles = ceil_div(m, WIDTH)
    out = torch.empty(n, k, dtype=torch.int64, device=x.device)
    rows = max(128, BUDGET // (8 * tiles * keep))
    own, other = (x, x) if groups is None else groups
    scratch = torch.empty(min(PROGRAMS, n), m, dtype=torch.int64, device=x.device)
    flag = {"HAS_GROUPS": groups is not None}
    for start in range(0, n, rows):
        part, units = x[start : start + rows], own[start : start + rows]
        size = len(part)
        keys = torch.empty(size, tiles * keep, dtype=torch.int64, device=x.device)
        sides = product_sides(x.dtype, size)
        launch(
            _tile_kernel, (ceil_div(size, sides["BM"]), tiles), part, weight, bias, units, other,
            keys, size, m, d, tiles, UPCAST=_backend.interpreting(), KEEP=keep, **flag, **sides,
            num_warps=8 if sides["BM"] == 128 else 4, num_stages=3,
        )  # fmt: skip
        best = _best(keys, k)
        if keep < min(WIDTH, k):
            failed = keys.view(size, tiles, keep)[:, :, -1].amax(dim=1) >= best[:, -1]
            best = torch.where(failed[:, None], -(1 << 63), best)
            launch(
                _repair_kernel, (min(PROGRAMS, size),), part, weight, bias, units, other,
                failed.to(torch.int32), scratch, best, size, m, d, k, **flag, BN=256, BK=32,
                num_warps=4,
            )  # fmt: skip
            best = best.sort(dim=1, descending=True).values
        out[start : start + rows] = best
    return out


def _best(keys: Tensor, k: int) -> Tensor:
    """The k largest keys of each row, filled up with the lowest where there are fewer."""
    lack = k - keys.shape[1]
    if lack > 0:
        keys = torch.nn.functional.pad(keys, (0, lack), value=-(1 << 63))
    return keys.topk(k, dim=1).values


def pack_keys(values: Tensor, columns: Tensor) -> Tensor:
    """Keys of values (fp32 or narrower) at their columns: larger first, then the lower column."""
    bits = (values.float() + 0.0).view(torch.int32)
    ordered = torch.where(values.isnan(), 0x7FFFFFFF, bits ^ ((bits >> 31) & 0x7FFFFFFF))
    return (ordered.long() << 32) | (0x7FFFFFFF - columns)


def unpack_keys(keys: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 values and int64 columns of keys."""
    ordered = (keys >> 32).to(torch.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(torch.float32), 0x7FFFFFFF - (keys & 0xFFFFFFFF)


def aot_cases(d: int) -> list[AotCase]:
    """The kernels at width d, for ahead-of-time compilation."""
    data = {"x_ptr": "*bf16", "weight_ptr": "*bf16", "bias_ptr": "*bf16"}
    groups = {"own_ptr": "*i32", "other_ptr": "*i32"}
    sizes = {"N": "i32", "M": "i32"}
    tile = {
        "D": d,
        "HAS_GROUPS": False,
        "UPCAST": False,
        "KEEP": 8,
        "BM": 128,
        "BN": WIDTH,
        "BK": 64,
    }
    single = {**tile, "HAS_GROUPS": True, "BM": 64, "BK": 32}
    repair = {"D": d, "HAS_GROUPS": False, "BN": 256, "BK": 32}
    return [
        AotCase(
            "encode_topk.tile", _tile_kernel,
            {**data, **groups, "keys_ptr": "*i64", **sizes, "TILES": "i32"}, tile, 8, 3, 255, True,
        ),
        AotCase(
            "knn_topk.tile", _tile_kernel,
            {**dict.fromkeys(data, "*fp32"), **groups, "keys_ptr": "*i64", **sizes,
             "TILES": "i32"}, single, 4, 3, 255,
        ),
        AotCase(
            "encode_topk.repair", _repair_kernel,
            {**data, **groups, "failed_ptr": "*i32", "scratch_ptr": "*i64", "keys_ptr": "*i64",
             **sizes, "K": "i32"}, repair, 4, 2, 255,
        ),
    ]  # fmt: skip
