"""The relaxed archetypal dictionary: its hull, its projections, its candidates."""

import pytest
import torch

from interp.errors import SAEError
from interp.sae import Context, TrainConfig, train
from interp.sae.archetypal import Archetypal, kmeans_centers, project_simplex
from interp.sae.synthetic import PlantedDictionary

D, M, K = 6, 12, 3


def _sort_projection(row):
    """Projection onto the simplex by sorting (Duchi et al. 2008), in float64."""
    ordered = row.sort(descending=True).values
    excess = (ordered.cumsum(0) - 1) / torch.arange(1, len(row) + 1, dtype=row.dtype)
    tau = excess[int((ordered > excess).nonzero().max())]
    return (row - tau).clamp(min=0)


@pytest.mark.parametrize("width", [1, 2, 7, 200])
def test_the_projection_is_the_nearest_row_stochastic_matrix(width, generator):
    rows = torch.randn(30, width, generator=generator, dtype=torch.float64)
    expected = torch.stack([_sort_projection(row) for row in rows])
    torch.testing.assert_close(project_simplex(rows), expected)


def test_a_row_stochastic_matrix_is_its_own_projection():
    eye = torch.eye(4, 9)
    assert (project_simplex(eye) == eye).all()


def test_noise_of_one_step_leaves_a_row_its_point(generator):
    rows = torch.eye(20, 500) + 2e-3 * torch.randn(20, 500, generator=generator)
    assert (project_simplex(rows).diagonal() > 0.7).all()


def test_means_of_clusters_are_found(generator):
    truth = 10 * torch.eye(4, D)
    rows = truth.repeat(50, 1) + 0.1 * torch.randn(200, D, generator=generator)
    centers = kmeans_centers(rows, rows[:4])
    torch.testing.assert_close(centers, truth, atol=0.1, rtol=0)


def test_a_center_without_rows_stays():
    rows = torch.tensor([[0.0, 0.0], [0.2, 0.0]])
    start = torch.tensor([[0.0, 0.0], [50.0, 0.0]])
    assert kmeans_centers(rows, start).tolist() == [[pytest.approx(0.1), 0.0], [50.0, 0.0]]


def _trained(tmp_path, **options) -> Archetypal:
    data = PlantedDictionary(20, D, 2, batch_size=64, steps=20)
    settings = {"batch_size": 64, "steps": 20, "lr": 0.05, "checkpoint_every": 0}
    config = TrainConfig("archetypal", M, K, **settings, options=options)
    sae = train(data, config, out=tmp_path).sae
    assert isinstance(sae, Archetypal)
    return sae


@pytest.mark.parametrize("delta", [0.0, 0.3])
def test_after_training_every_atom_is_a_mixture_of_points_and_a_bounded_rest(tmp_path, delta):
    sae = _trained(tmp_path, delta=delta)
    assert (sae.W >= 0).all()
    torch.testing.assert_close(sae.W.sum(dim=1), torch.ones(M))
    assert (sae.Lambda.norm(dim=1) <= delta + 1e-6).all()
    assert (sae.Lambda.norm(dim=1).max() > 0) == (delta > 0)
    assert (sae.W.max(dim=1).values < 1).any(), "W has learned"
    torch.testing.assert_close(sae.dictionary(), sae.W @ sae.C + sae.Lambda)


def test_candidates_are_rows_of_the_data_in_normalized_units(tmp_path):
    sae = _trained(tmp_path, points=30)
    batches = torch.cat(list(PlantedDictionary(20, D, 2, batch_size=64, steps=16)))
    z = sae.normalize(batches)
    apart = torch.cdist(sae.C, z, compute_mode="donot_use_mm_for_euclid_dist")
    assert apart.min(dim=1).values.max() < 1e-5
    assert len(sae.C.unique(dim=0)) == 30


def test_centers_of_kmeans_are_points_of_the_hull_but_no_rows(tmp_path):
    sae = _trained(tmp_path, points=5, candidates="kmeans")
    assert sae.n_sample == 40
    batches = torch.cat(list(PlantedDictionary(20, D, 2, batch_size=64, steps=1)))
    assert torch.cdist(sae.C, sae.normalize(batches)).min() > 1e-3


def test_fewer_points_than_latents_are_shared(tmp_path):
    sae = Archetypal(D, M, K, points=5)
    assert sae.W.argmax(dim=1).tolist() == [i % 5 for i in range(M)]
    sae.take_sample(torch.randn(3, D, generator=torch.Generator().manual_seed(0)))
    assert len(sae.C.unique(dim=0)) == 3


def test_the_encoder_starts_along_the_dictionary(generator):
    sae = Archetypal(D, M, K)
    sae.take_sample(torch.randn(30, D, generator=generator))
    cosine = torch.nn.functional.cosine_similarity(sae.W_enc, sae.dictionary())
    torch.testing.assert_close(cosine, torch.ones(M))
    torch.testing.assert_close(sae.W_enc.norm(dim=1), torch.full((M,), 0.7))


def test_gradients_equal_those_of_the_dense_definition(generator):
    sae = Archetypal(D, M, K).double()
    x = torch.randn(40, D, generator=generator, dtype=torch.float64)
    sae.take_sample(x)
    found = torch.autograd.grad(
        sae.loss_terms(x, Context(torch.zeros(M, dtype=torch.bool))).reconstruction,
        [sae.W, sae.Lambda],
    )
    dictionary = sae.W @ sae.C + sae.Lambda
    twin = (x - sae.encode(x).dense() @ dictionary - sae.b_dec).square().sum(dim=1).mean()
    for mine, theirs in zip(found, torch.autograd.grad(twin, [sae.W, sae.Lambda]), strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"delta": -1.0}, "delta = -1"), ({"points": -2}, "points = -2"), ({"candidates": "x"}, "x")],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(SAEError, match=message):
        Archetypal.build(D, TrainConfig("archetypal", M, K, options=options))
