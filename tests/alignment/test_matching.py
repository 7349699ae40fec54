"""Matched features: planted ones are found, independent ones are chance, fast paths agree."""

import dataclasses

import numpy as np
import pytest
import torch

from interp.alignment.matching.latents import Latents, as_latents, line_up
from interp.alignment.matching.match import match_features
from interp.alignment.matching.pairs import (
    Halves,
    find_pairs,
    fold_scores,
    make_columns,
    make_orders,
    make_sides,
    match_null,
    match_sides,
)
from interp.alignment.matching.records import FeatureMatches
from interp.errors import InputError
from interp.stats import permutation_p

N, M = 120, 12


def codes(rng: np.random.Generator, n: int = N, m: int = M, p: int = 1) -> np.ndarray:
    """Sparse non-negative activations [n, p, m]."""
    active = rng.random((n, p, m)) < 0.25
    return (active * rng.exponential(1, active.shape)).astype(np.float32)


def pair(shared: bool, seed: int = 0, **more) -> tuple[Latents, Latents]:
    rng = np.random.default_rng(seed)
    a, order = codes(rng), rng.permutation(M)
    b = 3 * a[..., order] + 0.02 * codes(rng) if shared else codes(rng)
    return as_latents("a", a, **more), as_latents("b", b, **more)


def quick(first: Latents, second: Latents, **more) -> FeatureMatches:
    return match_features(first, second, **{"n_permutations": 200, "n_folds": 10, **more})


@pytest.mark.parametrize("method", ["best", "mutual", "hungarian"])
def test_features_that_are_shared_are_matched_with_universality_near_one(method: str) -> None:
    first, second = pair(shared=True)
    order = np.random.default_rng(0)
    codes(order)
    truth = order.permutation(M)
    found = quick(first, second, method=method)
    assert found.n_pairs == found.n_shared == M
    assert (truth[list(found.latent_second)] == found.latent_first).all()
    assert min(found.universality) > 0.95
    assert found.p_mean == 1 / 201


@pytest.mark.parametrize("method", ["best", "mutual", "hungarian"])
def test_independent_features_give_nothing_beyond_the_null(method: str) -> None:
    found = quick(*pair(shared=False), method=method)
    assert found.n_shared == 0
    assert max(found.universality) == 0
    assert found.p_mean is not None
    assert found.p_mean > 0.05


def false_positives(seed: int, count: int, labels: dict) -> bool:
    first, second = pair(shared=False, seed=seed, **labels)
    if "strata" in labels:
        # Both answer to the source of the image, and to nothing else in common.
        source = np.array([float(s) for s in labels["strata"]])[:, None]
        first, second = (
            as_latents(s.model, s.x.toarray() + source, **labels) for s in (first, second)
        )
    halves = Halves(np.arange(0, N, 2), np.arange(1, N, 2))
    sides = make_sides(first, second, halves, 5)
    null = match_null(sides, "best", make_orders(second, halves, count, seed))
    _, r = (match := match_sides(sides, "best")).per_first(match.r)
    return bool(permutation_p(r.max(), null.largest) <= 0.05)


@pytest.mark.slow
@pytest.mark.parametrize("design", ["free", "strata"])
def test_some_feature_is_called_shared_by_chance_in_one_case_of_twenty(design: str) -> None:
    repeats, labels = 200, {}
    if design == "strata":
        labels = {"strata": tuple(str(i // 2 % 2) for i in range(N))}
    wrong = sum(false_positives(seed, 19, labels) for seed in range(repeats))
    # 99.9 % binomial bound on either side of 1 / 20.
    assert abs(wrong / repeats - 0.05) <= 3.3 * (0.05 * 0.95 / repeats) ** 0.5


def test_a_shared_source_alone_is_in_the_null() -> None:
    strata = tuple("ab"[i // 2 % 2] for i in range(N))
    source = np.array([s == "b" for s in strata], dtype=np.float32)[:, None, None]
    rng = np.random.default_rng(3)
    first, second = (
        as_latents(name, codes(rng) + 3 * source, strata=strata) for name in ("a", "b")
    )
    found = quick(first, second)
    assert found.mean > 0.8
    assert found.n_shared == 0
    assert found.strata == "within strata"
    loose = [dataclasses.replace(one, strata=()) for one in (first, second)]
    assert quick(loose[0], loose[1]).n_shared == found.n_pairs


def test_sparse_and_dense_products_are_the_definition() -> None:
    rng = np.random.default_rng(1)
    first, second = (as_latents(name, codes(rng, p=4)) for name in "ab")
    images, latents = np.arange(3, 80), np.arange(1, M)
    order = rng.permutation(len(images))
    x, y = (one.x.toarray().reshape(N, 4, M)[images][..., latents] for one in (first, second))
    x, y = x - x.mean(0), (y - y.mean(0))[order]
    plain = np.einsum("npi,npj->ij", x, y)
    plain /= np.sqrt(np.square(x).sum((0, 1))[:, None] * np.square(y).sum((0, 1)))
    for dense in (False, True):
        a, b = (make_columns(one, images, latents, dense) for one in (first, second))
        blocks = list(a.blocks(b.permuted(order), size=5))
        assert [start for start, _ in blocks] == [0, 5, 10]
        np.testing.assert_allclose(np.concatenate([c for _, c in blocks]), plain, atol=1e-6)
        pairs = find_pairs(iter([(0, plain)]), plain.shape, "best")
        r = a.scores(b.permuted(order), pairs)
        np.testing.assert_allclose(r, plain[pairs.first, pairs.second], atol=1e-6)


def test_left_out_folds_are_recomputed() -> None:
    rng = np.random.default_rng(2)
    first, second = (as_latents(name, codes(rng, p=2)) for name in "ab")
    folds = rng.integers(-1, 5, N)
    ids = np.array([0, 3, 3]), np.array([5, 1, 2])
    found = fold_scores((first, second), ids, folds)
    for fold in range(5):
        images = np.flatnonzero((folds >= 0) & (folds != fold))
        x, y = (make_columns(one, images, np.arange(M), True) for one in (first, second))
        whole = np.concatenate([c for _, c in x.blocks(y)])
        np.testing.assert_allclose(found[fold], whole[ids[0], ids[1]], atol=1e-6)


def test_blocks_of_rows_change_no_match_and_ties_go_to_the_lower_number() -> None:
    rng = np.random.default_rng(4)
    similarity = np.round(rng.random((9, 7)), 1)
    blocks = [(0, similarity[:4]), (4, similarity[4:])]
    for method in ("best", "mutual"):
        whole = find_pairs(iter([(0, similarity)]), (9, 7), method)
        parts = find_pairs(iter(blocks), (9, 7), method)
        assert [list(a) for a in whole] == [list(b) for b in parts]
    best = find_pairs(iter([(0, similarity)]), (9, 7), "best")
    assert list(best.second) == [int(np.flatnonzero(row == row.max())[0]) for row in similarity]
    mutual = find_pairs(iter(blocks), (9, 7), "mutual")
    for i, j in zip(mutual.first, mutual.second, strict=True):
        assert similarity[i, j] == similarity[i].max() == similarity[:, j].max()


def test_soft_matches_share_the_weight_of_a_split_feature() -> None:
    rng = np.random.default_rng(6)
    similarity = rng.random((4, 6)) / 10
    for row, columns in enumerate(([0], [1, 2], [3], [4, 5])):
        similarity[row, columns] = 1
    pairs = find_pairs(iter([(0, similarity)]), (4, 6), "soft")
    weight = np.zeros((4, 6))
    weight[pairs.first, pairs.second] = pairs.weight
    np.testing.assert_allclose(weight.sum(1), 1)
    # A row gives 1 / 4 and a column takes 1 / 6: whole columns first.
    np.testing.assert_allclose(weight[[0, 1, 1, 2], [0, 1, 2, 3]], 2 / 3, atol=0.34)
    shared = quick(*pair(shared=True), method="soft")
    assert shared.n_shared == M
    with pytest.raises(InputError, match="soft matches score the features of the first SAE"):
        shared.scores("second")


def test_a_match_stands_beside_its_ceiling_and_its_twins() -> None:
    first, second = pair(shared=True)
    rng = np.random.default_rng(9)
    seed = as_latents("a", first.x.toarray()[:, ::-1] + 0.3 * codes(rng)[:, 0])
    twins = as_latents("a", codes(rng)), as_latents("b", codes(rng))
    found = quick(first, second, seconds=(seed, None), twins=[twins])
    assert [level.name for level in found.levels] == ["second seed of a/latents", "untrained twins"]
    ceiling, twin = found.levels
    assert ceiling.share == 1
    assert ceiling.difference < 0.2
    assert twin.share == 0
    assert twin.low is not None
    assert twin.low > 0.5
    assert all(0.8 < one < 1 for one in found.ceiling_first if one is not None)
    assert set(found.ceiling_second) == {None}


def test_rare_features_have_no_score_and_unmatched_ones_zero() -> None:
    first, second = pair(shared=True)
    x = first.x.toarray()
    x[:, 2] = 0
    x[:3, 2] = 1
    # Latent 4 is a weaker copy of latent 5: only one of them is the best of its partner.
    x[:, 4] = x[:, 5] + 0.5 * codes(np.random.default_rng(5))[:, 0, 4]
    found = quick(as_latents("a", x), second)
    scores = found.scores()
    assert np.isnan(scores[2])
    assert scores[4] == 0
    assert (np.delete(scores, [2, 4]) > 0.9).all()
    assert 2 not in found.first.counted


def test_decoders_are_compared_in_one_space_only() -> None:
    first, second = pair(shared=True)
    rows = torch.eye(M)
    apart = [dataclasses.replace(one, dictionary=rows) for one in (first, second)]
    with pytest.raises(InputError, match="a/latents and b/latents are not one space"):
        quick(*apart, by="decoder")
    assert set(quick(*apart).cosine) == {None}
    same = [dataclasses.replace(one, space="w p") for one in apart]
    found = quick(*same, by="decoder")
    # Latents of equal number have equal decoders, and nothing in common on images.
    assert found.latent_first == found.latent_second or sorted(found.latent_first) == [*range(M)]
    assert set(found.cosine) == {1.0}
    assert found.n_shared < M


def test_a_match_is_saved_and_read_whole(tmp_path) -> None:
    found = quick(*pair(shared=True))
    path = found.save(tmp_path / "matches" / "a-b.json")
    again = FeatureMatches.load(path)
    assert again.as_dict() == found.as_dict()
    assert again.table(2)[0]["latent_first"] == found.latent_first[0]
    path.write_text(path.read_text().replace('"interp-matches 1"', '"interp-matches 9"'))
    with pytest.raises(InputError, match="another format"):
        FeatureMatches.load(path)


def test_other_images_are_refused() -> None:
    first, second = pair(shared=True)
    other = dataclasses.replace(second, ids=tuple(f"x{i}" for i in range(N)))
    with pytest.raises(InputError, match="not on the same images: b/latents lacks 120"):
        match_features(first, other)
    trained = dataclasses.replace(first, left_out=("0", "1"))
    assert line_up([first, second])[0].ids == tuple(sorted(map(str, range(N))))
    assert len(line_up([trained, second])[1].ids) == N - 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "greedy"}, "method 'greedy' is one of"),
        ({"n_permutations": 50}, "n_permutations=200"),
        ({"min_images": 50}, "no latent of a/latents is active on 50 images of each half"),
        ({"n_folds": 80}, "80 folds from 60 clusters"),
    ],
)
def test_impossible_settings_are_refused(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_features(*pair(shared=True), **options)


def test_negative_activations_and_wrong_ids_are_refused() -> None:
    with pytest.raises(InputError, match="negative or not finite"):
        as_latents("a", -np.ones((4, 2)))
    with pytest.raises(InputError, match=r"\(4, 2\) for 3 image ids x 1 positions"):
        as_latents("a", np.ones((4, 2)), ids=("x", "y", "z"))
    with pytest.raises(InputError, match="positions do not correspond"):
        line_up([as_latents("a", np.ones((4, 2, 3))), as_latents("b", np.ones((4, 3)))])
