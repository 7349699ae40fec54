"""Labels of neighbors and linear probes: exact nulls, agreement with scikit-learn, controls."""

import itertools

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.geometry import knn_label_overlap, linear_probe
from interp.geometry.neighbors import edge_sums, prepare_knn
from interp.geometry.probes import PENALTIES, _label_moments, _ridge
from interp.geometry.search import nearest, tie_order


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def blobs(n: int, apart: float, n_labels: int = 3, seed: int = 0) -> tuple[torch.Tensor, list[str]]:
    codes = np.random.default_rng(seed).integers(n_labels, size=n)
    x = draw(n, 5, seed=seed) + apart * torch.eye(n_labels, 5, dtype=torch.float64)[codes]
    return x, [f"label {c}" for c in codes]


def test_the_overlap_is_the_share_of_neighbors_with_the_own_label() -> None:
    x, labels = blobs(40, 2.0)
    ids = nearest(x, 4, ties=tie_order(40, "x")).tolist()
    expected = np.mean([labels[j] == labels[i] for i in range(40) for j in ids[i]])
    found = knn_label_overlap(x, labels, 0.1, n_permutations=0)
    assert found.value == pytest.approx(expected, abs=1e-12)
    assert (found.k, found.n, found.n_labels, found.p) == (4, 40, 3, None)


def test_the_null_of_the_overlap_is_exact_over_all_permutations_of_the_labels() -> None:
    x, codes = draw(6, 2), np.array([0, 0, 0, 1, 1, 2])
    layer = prepare_knn(x, n_neighbors=2 / 6)
    ids = layer.ids[:, :2].numpy()
    values = []
    for order in itertools.permutations(range(6)):
        moved = codes[list(order)]
        values.append((moved[ids] == moved[:, None]).mean())
    mean, sd = _label_moments(codes, edge_sums(layer), 2)
    # Six ordered pairs of the first label, two of the second, of thirty.
    assert mean == pytest.approx(8 / 30, abs=1e-12)
    assert np.mean(values) == pytest.approx(8 / 30, abs=1e-12)
    assert np.std(values) == pytest.approx(sd, abs=1e-10)


def test_labels_that_the_features_know_are_found_and_others_are_not() -> None:
    x, labels = blobs(120, 3.0)
    known = knn_label_overlap(x, labels, 0.05)
    assert known.value > 0.8
    assert known.p == pytest.approx(1 / 201)
    unknown = knn_label_overlap(x, blobs(120, 0, seed=5)[1], 0.05)
    assert unknown.null_mean is not None
    assert unknown.null_sd is not None
    assert abs(unknown.value - unknown.null_mean) < 4 * unknown.null_sd
    assert unknown.p is not None
    assert unknown.p > 0.01


def test_near_duplicates_are_no_neighbors_of_each_other() -> None:
    # Pairs of twins with labels of their own: only the twins agree.
    x = draw(60, 4).repeat_interleave(2, 0) + 1e-3 * draw(120, 4, seed=1)
    labels = np.random.default_rng(0).integers(4, size=60).repeat(2)
    naive = knn_label_overlap(x, labels, 0.01)
    paired = knn_label_overlap(x, labels, 0.01, clusters=np.arange(60).repeat(2).tolist())
    assert naive.value > 0.95
    assert paired.value < 0.45
    assert paired.p is not None
    assert paired.p > 0.01


def test_permutations_within_strata_keep_what_strata_alone_explain() -> None:
    strata = [str(i % 2) for i in range(100)]
    x = draw(100, 4) + 5.0 * (torch.arange(100) % 2)[:, None]
    free = knn_label_overlap(x, strata, 0.05)
    assert free.p == pytest.approx(1 / 201)
    within = knn_label_overlap(
        x, [s + str(i % 3) for i, s in enumerate(strata)], 0.05, strata=strata
    )
    assert within.null_mean is not None
    assert within.null_mean > 0.3
    assert within.p is not None
    assert within.p > 0.01


def test_the_ridge_probe_equals_that_of_scikit_learn() -> None:
    from sklearn.linear_model import RidgeClassifierCV

    x, labels = blobs(90, 1.0)
    codes = np.unique(labels, return_inverse=True)[1]
    known, new = x[:60], x[60:]
    middle, scale = known.mean(0), known.std(0, correction=0)
    known, new = (known - middle) / scale, (new - middle) / scale
    mean = float(torch.linalg.svdvals(known).square().mean())
    peer = RidgeClassifierCV(alphas=[mean * share for share in PENALTIES])
    expected = peer.fit(known.numpy(), codes[:60]).predict(new.numpy())
    columns = np.stack([codes[:60], np.random.default_rng(0).permutation(codes[:60])], 1)
    assert _ridge(known, new, columns)[:, 0].tolist() == expected.tolist()
    again = peer.fit(known.numpy(), columns[:, 1]).predict(new.numpy())
    assert _ridge(known, new, columns)[:, 1].tolist() == again.tolist()


def test_parts_of_the_permutations_give_the_same_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, labels = blobs(60, 1.0)
    codes = np.unique(labels, return_inverse=True)[1]
    columns = np.stack([np.random.default_rng(s).permutation(codes[:40]) for s in range(7)], 1)
    whole = _ridge(x[:40], x[40:], columns)
    monkeypatch.setattr("interp.geometry.probes.TARGETS", 250)
    assert np.array_equal(_ridge(x[:40], x[40:], columns), whole)


@pytest.mark.parametrize("method", ["ridge", "logistic"])
def test_a_probe_finds_labels_that_are_linear_in_the_features(method: str) -> None:
    x, labels = blobs(150, 3.0)
    found = linear_probe(x, labels, method=method, n_permutations=0)
    assert found.accuracy > 0.85 > found.majority
    assert found.p is None
    assert found.control is None


def test_a_probe_of_unrelated_labels_is_not_significant() -> None:
    found = linear_probe(draw(150, 10), blobs(150, 0, seed=4)[1])
    assert found.p is not None
    assert found.p > 0.01
    assert found.null_mean is not None
    assert abs(found.accuracy - found.null_mean) < 0.15
    assert linear_probe(*blobs(150, 3.0)).p == pytest.approx(1 / 201)


def test_wide_features_remember_the_control_and_narrow_ones_do_not() -> None:
    # Four rows of each of 40 images, 2 labels.
    groups = [i // 4 for i in range(160)]
    labels = [str(i % 2) for i in groups]
    meaning = torch.tensor([float(label) for label in labels], dtype=torch.float64)[:, None]
    image = draw(40, 200, seed=2).repeat_interleave(4, 0)
    wide = torch.cat([image + 0.1 * draw(160, 200), 20 * meaning], 1)
    narrow = torch.cat([draw(160, 2), 20 * meaning], 1)
    found = [linear_probe(z, labels, groups, n_permutations=0) for z in (wide, narrow)]
    assert found[0].control is not None
    assert found[0].control > 0.9
    assert found[1].control is not None
    assert found[1].control < 0.7
    for one in found:
        assert one.seen is not None
        assert one.selectivity == pytest.approx(one.seen - (one.control or 0))
    assert found[1].accuracy > 0.95


def test_whole_clusters_are_held_out() -> None:
    # The label is the image's: known rows of the image give it away, other images do not.
    groups = [i // 4 for i in range(160)]
    labels = np.random.default_rng(1).integers(2, size=40).repeat(4)
    x = draw(40, 60).repeat_interleave(4, 0) + 0.1 * draw(160, 60, seed=1)
    leaking = linear_probe(x, labels, n_permutations=0)
    held = linear_probe(x, labels, groups)
    assert leaking.accuracy > 0.9
    assert held.accuracy < 0.75
    assert held.p is not None
    assert held.p > 0.01


def test_probes_refuse_what_they_cannot_answer() -> None:
    x, labels = blobs(40, 1.0)
    with pytest.raises(InputError, match="39 labels for 40 rows"):
        knn_label_overlap(x, labels[1:], 0.1)
    with pytest.raises(InputError, match="all 40 rows have the same label"):
        linear_probe(x, ["a"] * 40)
    with pytest.raises(InputError, match="method 'svm' is ridge or logistic"):
        linear_probe(x, labels, method="svm")
    with pytest.raises(InputError, match="5 folds from 3 clusters"):
        linear_probe(x, labels, [i % 3 for i in range(40)])
    with pytest.raises(InputError, match="50 permutations cannot give"):
        knn_label_overlap(x, labels, 0.1, n_permutations=50)
    with pytest.raises(InputError, match="constant"):
        linear_probe(torch.ones(40, 3), labels)
    alone = torch.zeros(40, 3)
    alone[0] = 1
    with pytest.raises(InputError, match="rows are equal: use fewer folds"):
        linear_probe(alone, labels, n_folds=2)


@pytest.mark.slow
@pytest.mark.parametrize("probe", ["overlap", "ridge"])
@pytest.mark.parametrize("design", ["free", "clusters", "strata"])
def test_unrelated_labels_are_rejected_at_the_nominal_rate(probe: str, design: str) -> None:
    n, repeats, rejected = 40, 150, 0
    half = [i // 2 for i in range(n)]
    for r in range(repeats):
        rng = np.random.default_rng(r)
        x, labels, more = draw(n, 4, seed=r), rng.integers(2, size=n), {}
        if design == "clusters":
            x = draw(n // 2, 4, seed=r).repeat_interleave(2, 0) + 0.1 * x
            labels, more = rng.integers(2, size=n // 2).repeat(2), {"clusters": half}
        if design == "strata":
            side = torch.arange(n) % 2
            x = x + 3.0 * side[:, None]
            labels, more = np.where(rng.random(n) < 0.8, side, 1 - side), {"strata": side.tolist()}
        if probe == "overlap":
            p = knn_label_overlap(x, labels, 0.1, seed=r, **more).p
        else:
            p = linear_probe(x, labels, n_folds=4, seed=r, **more).p
        assert p is not None
        rejected += p <= 0.05
    # 99.9 % binomial bound on either side of 5 %; few values of an accuracy make the test timid.
    bound = 3.3 * (0.05 * 0.95 / repeats) ** 0.5
    assert rejected / repeats <= 0.05 + bound
    assert rejected / repeats >= (0.05 - bound if probe == "overlap" else 0.0)
