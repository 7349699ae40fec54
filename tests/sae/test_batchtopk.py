"""BatchTopK: exact budgets of groups of rows, their gradients, and the threshold that is kept."""

import pytest
import torch
import torch.nn.functional as F

from interp.errors import SAEError
from interp.sae import SAE, Context, TrainConfig, train
from interp.sae.batches import Batch
from interp.sae.batchtopk import THRESHOLD_RATE, BatchTopK, select_budget
from interp.sae.synthetic import PlantedDictionary

D, M, K = 6, 24, 3
NONE_DEAD = torch.zeros(M, dtype=torch.bool)


@pytest.fixture
def sae(generator):
    sae = BatchTopK(D, M, K)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    sae.after_step()
    return sae.double()


@pytest.fixture
def x(generator):
    return torch.randn(40, D, generator=generator).double()


def _best(pre, k, groups):
    """Positive selected entries by one sort per group: the definition."""
    chosen = torch.zeros_like(pre, dtype=torch.bool)
    for group in groups.unique():
        rows = (groups == group).nonzero().flatten()
        order = pre[rows].flatten().sort(descending=True, stable=True).indices[: k * len(rows)]
        chosen[rows[order // pre.shape[1]], order % pre.shape[1]] = True
    return chosen & (pre > 0)


def _mask(selection, pre):
    mask = torch.zeros_like(pre, dtype=torch.bool)
    mask[selection.entries.rows, selection.entries.latents] = True
    assert (selection.entries.values == pre[mask]).all(), "by row, then latent"
    return mask


@pytest.mark.parametrize("per_group", [None, 40, 7, 1])
def test_each_group_spends_its_budget_on_its_largest_entries(generator, per_group):
    pre = torch.randn(40, M, generator=generator)
    owner = torch.arange(40) // (per_group or 40)
    owner = 9 - owner[torch.randperm(40, generator=generator)]
    found = select_budget(pre, K, None if per_group is None else owner)
    assert (_mask(found, pre) == _best(pre, K, owner)).all()


@pytest.mark.parametrize("grouped", [False, True])
def test_equal_entries_go_to_the_lower_row_then_the_lower_latent(generator, grouped):
    pre = torch.randint(-2, 4, (30, M), generator=generator).float()
    owner = torch.arange(30) % 4 if grouped else torch.zeros(30, dtype=torch.int64)
    found = select_budget(pre, K, owner if grouped else None)
    assert (_mask(found, pre) == _best(pre, K, owner)).all()


def test_one_row_may_spend_the_budget_of_its_whole_group(generator):
    pre = torch.rand(20, 200, generator=generator)
    pre[3] += 5
    owner = torch.arange(20) // 10
    mask = _mask(select_budget(pre, 2, owner), pre)
    assert mask[3].sum() == 20
    assert mask[:10].sum() == mask[10:].sum() == 20


def test_entries_at_or_below_zero_are_never_active():
    pre = torch.tensor([[1.0, 0.0, -1.0], [-1.0, -2.0, 2.0]])
    for groups in (None, torch.tensor([0, 1])):
        found = select_budget(pre, 3, groups)
        assert found.entries.values.tolist() == [1, 2]
        assert found.threshold == (1 if groups is None else 1.5)
        assert len(select_budget(-pre.abs(), 2, groups).entries.values) == 0
        assert select_budget(-pre.abs(), 2, groups).threshold == 0


def test_the_threshold_of_a_step_is_the_mean_of_its_groups_by_their_rows():
    pre = torch.tensor([[4.0, 0.0], [3.0, 0.0], [1.0, 0.0]])
    assert select_budget(pre, 1, torch.tensor([7, 7, 2])).threshold == pytest.approx(
        (3 * 2 + 1) / 3
    )
    assert select_budget(pre, 1).threshold == 1


@pytest.mark.parametrize("grouped", [False, True])
def test_gradients_equal_those_of_dense_autograd_over_the_same_selection(sae, x, grouped):
    groups = torch.arange(40) // 8 if grouped else None
    sae.budget = "image" if grouped else "batch"
    parameters = list(sae.parameters())
    losses = sae.loss_terms(x, Context(NONE_DEAD, groups=groups))
    z = sae.normalize(x)
    pre = (z - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    owner = torch.zeros(40, dtype=torch.int64) if groups is None else groups
    code = torch.where(_best(pre.detach(), K, owner), pre, 0.0)
    twin = (z - code @ sae.W_dec - sae.b_dec).square().sum(dim=1).mean()
    torch.testing.assert_close(losses.code.dense(), code)
    torch.testing.assert_close(losses.reconstruction, twin)
    found = torch.autograd.grad(losses.reconstruction, parameters)
    for mine, theirs in zip(found, torch.autograd.grad(twin, parameters), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_the_selection_passes_gradient_to_its_rows(sae, x):
    rows = x[:5].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: sae.select(rows).values, [rows])


def test_the_mean_number_of_active_latents_of_a_batch_is_k(sae, x):
    sae.b_enc.data += 10
    assert (sae.select(x).values > 0).sum() == K * len(x)
    by_image = sae.select(x, torch.arange(40) // 4)
    assert ((by_image.values > 0).sum(dim=1).view(10, 4).sum(dim=1) == 4 * K).all()


def test_the_threshold_is_the_running_mean_of_the_smallest_selected_value(sae, x):
    smallest = []
    for part in x.split(10):
        losses = sae.loss_terms(part, Context(NONE_DEAD))
        smallest.append(losses.code.values[losses.code.values > 0].min())
        sae.after_step()
    expected = smallest[0]
    for value in smallest[1:]:
        expected = expected + THRESHOLD_RATE * (value - expected)
    torch.testing.assert_close(sae.threshold, expected.detach())


def test_losses_alone_leave_the_threshold_as_it_is(sae, x):
    sae.loss_terms(x, Context(NONE_DEAD))
    sae.loss_terms(x, Context(NONE_DEAD))
    assert sae.threshold == 0


def test_encoding_keeps_what_exceeds_the_threshold(sae, x):
    sae.threshold.fill_(2.0)
    pre = (sae.normalize(x) - sae.b_dec) @ sae.W_enc.T + sae.b_enc
    torch.testing.assert_close(sae.encode(x).dense(), torch.where(pre > 2.0, pre, 0.0))
    assert sae.encode(x).indices is not None
    sae.threshold.fill_(0.0)
    torch.testing.assert_close(sae.encode(x).dense(), F.relu(pre))
    assert sae.encode(x).indices is None, "dense takes less memory where most latents are active"
    sae.threshold.fill_(1e9)
    assert sae.encode(x).values.shape == (40, 1)
    torch.testing.assert_close(sae(x), (sae.b_dec * sae.scale + sae.mean).expand_as(x))
    assert sae.encode(x[:0]).values.shape[0] == 0


def test_the_threshold_is_saved_with_the_weights(sae, x, tmp_path):
    sae = sae.float()
    sae.threshold.fill_(0.3)
    loaded = SAE.load(sae.save(tmp_path))
    assert loaded.threshold == sae.threshold
    assert (loaded.encode(x.float()).dense() == sae.encode(x.float()).dense()).all()


def _config(**options):
    return TrainConfig(
        "batchtopk", 32, 2, batch_size=128, steps=60, lr=1e-2, checkpoint_every=20, options=options
    )


def test_a_trained_sae_judges_rows_one_by_one_with_k_active_latents_on_average(tmp_path):
    data = PlantedDictionary(20, 16, 2, batch_size=128, steps=60)
    sae = train(data, _config(), out=tmp_path).sae
    code = sae.encode(data.held_out(2000))
    assert (code.values > 0).sum(dim=1).double().mean() == pytest.approx(2, rel=0.1)


def test_a_resumed_run_ends_with_the_same_threshold(tmp_path):
    class Killed(Exception):
        pass

    class Half(PlantedDictionary):
        def __iter__(self):
            for step, batch in enumerate(super().__iter__()):
                if step == 45:
                    raise Killed
                yield batch

    shape = {"batch_size": 128, "steps": 60}
    whole = train(PlantedDictionary(20, 16, 2, **shape), _config(), out=tmp_path / "a").sae
    with pytest.raises(Killed):
        train(Half(20, 16, 2, **shape), _config(), out=tmp_path / "b")
    again = train(PlantedDictionary(20, 16, 2, **shape), _config(), out=tmp_path / "b").sae
    assert isinstance(whole, BatchTopK)
    assert again.threshold == whole.threshold > 0
    assert again.digest == whole.digest


def test_a_budget_per_image_needs_the_images_of_the_rows(tmp_path):
    data = PlantedDictionary(20, 16, 2, batch_size=128, steps=60)
    with pytest.raises(SAEError, match="budget = 'image' needs the image of each row: train from"):
        train(data, _config(budget="image"), out=tmp_path)


def test_an_iterable_may_name_the_groups_of_its_rows(tmp_path):
    data = PlantedDictionary(20, 16, 2, batch_size=128, steps=60)
    images = torch.arange(128) // 16
    batches = [Batch(x, None, images) for x in data]
    sae = train(batches, _config(budget="image"), out=tmp_path).sae
    assert isinstance(sae, BatchTopK)
    assert sae.threshold > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k = 0 is not in 1\.\.24"),
        ({"k": 25}, r"k = 25 is not in 1\.\.24"),
        ({"aux_k": -1}, "aux_k = -1 is negative"),
        ({"budget": "row"}, "budget = 'row' is none of batch, image, timestep"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(SAEError, match=message):
        BatchTopK(D, M, **{"k": K, **options})
