"""A transcoder in place of its target: its ends, its error term, and what it refuses."""

import pytest
import torch

from interp import load
from interp.errors import InputError, SAEError
from interp.interventions import substitute_transcoder, transcoder_edits
from interp.models import Generation, editing, reading, to_rows
from interp.sae import TopK, Transcoder

RECIPE = Generation(n=3, seed=50, steps=2, batch_size=2)
SOURCE, TARGET = "mid_block.resnets.0", "mid_block.resnets.1"


@pytest.fixture(scope="module")
def model():
    import copy
    from typing import Any

    from diffusers.pipelines.ddpm.pipeline_ddpm import DDPMPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    from tests.models.tiny import ddpm_net

    unet: Any = copy.deepcopy(ddpm_net())
    return load(DDPMPipeline(unet, DDPMScheduler()))


def _transcoder(model, source=SOURCE, target=TARGET, **settings):
    with reading(model, [source, target]) as reader:
        model.generate(RECIPE.batch(0, 2, n_classes=model.n_classes))
    x, y = (
        torch.cat([to_rows(r.value, model.points[name]).flatten(0, 1) for r in reader.calls
                   if r.point == name]).double()
        for name in (source, target)
    )  # fmt: skip
    sae = Transcoder(x.shape[1], 24, 3, d_out=y.shape[1], **settings)
    sae.fit(x.mean(0), x.var(0), y.mean(0), y.var(0))
    points = {"point": {"name": source}, "target": {"name": target}}
    sae.provenance = {**points, "sites": [{"point": {"name": n}} for n in (source, target)]}
    return sae, x, y


def _linear(model):
    """A transcoder that predicts nothing by latents and as much as can be by its skip."""
    sae, x, y = _transcoder(model, skip=True)
    z = sae.normalize(x.float()).double()
    design = torch.cat([z, torch.ones(len(z), 1).double()], dim=1)
    solution = torch.linalg.lstsq(design, sae.normalize_target(y.float()).double()).solution
    assert sae.W_skip is not None
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
        sae.W_skip.copy_(solution[:-1].T)
        sae.b_dec.copy_(solution[-1])
    return sae


def test_its_output_stands_at_the_target_computed_from_the_source_of_the_same_call(model):
    sae, _, _ = _transcoder(model, skip=True)
    batch = RECIPE.batch(0, 2, n_classes=model.n_classes)
    with (
        torch.no_grad(),
        editing(model, transcoder_edits(model, sae)),
        reading(model, [SOURCE, TARGET]) as reader,
    ):
        model.generate(batch)
    assert [r.call for r in reader.calls] == [0, 0, 1, 1]
    for x, y in zip(reader.calls[::2], reader.calls[1::2], strict=True):
        rows = to_rows(x.value, model.points[SOURCE]).flatten(0, 1)
        with torch.no_grad():
            expected = sae(rows)
        found = to_rows(y.value, model.points[TARGET]).flatten(0, 1)
        torch.testing.assert_close(found, expected)


def test_with_the_error_kept_nothing_changes_without_a_change(model):
    sae, _, _ = _transcoder(model, skip=True)
    batch = RECIPE.batch(0, 2, n_classes=model.n_classes)
    images = []
    for change in (None, lambda code: code._replace(values=3 * code.values + 1)):
        edits = transcoder_edits(model, sae, change=change, keep_error=True)
        with torch.no_grad(), editing(model, edits), reading(model, [TARGET]) as reader:
            model.generate(batch)
        images.append(reader.calls[0].value)
    with reading(model, [TARGET]) as reader:
        model.generate(batch)
    torch.testing.assert_close(images[0], reader.calls[0].value, atol=1e-4, rtol=1e-4)
    assert (images[1] - images[0]).abs().max() > 0.1


def test_an_empty_transcoder_damages_like_the_mean_and_a_better_one_less(model):
    sae, _, _ = _transcoder(model)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    empty = substitute_transcoder(model, sae, RECIPE)
    assert (empty.identity, empty.n, empty.point) == (0, 3, TARGET)
    assert empty.damage == pytest.approx(1, abs=1e-6)
    assert substitute_transcoder(model, _linear(model), RECIPE).damage < empty.damage


def test_what_cannot_be_put_there_is_refused(model):
    with pytest.raises(InputError, match=f"{SOURCE} runs before {TARGET}"):
        transcoder_edits(model, _transcoder(model, TARGET, SOURCE)[0])
    with pytest.raises(SAEError, match="a topk without source and target"):
        transcoder_edits(model, TopK(16, 24, 3))
    sae, _, _ = _transcoder(model)
    sae.provenance["model"] = {"weights_sha256": "ab" * 32, "spec": "other"}
    with pytest.raises(SAEError, match="trained on other with weights abababababab"):
        transcoder_edits(model, sae)
    narrow = Transcoder(5, 24, 3, d_out=16)
    narrow.provenance = {"point": {"name": SOURCE}, "target": {"name": TARGET}}
    with pytest.raises(SAEError, match="do not fit a transcoder from 5 to 16"):
        transcoder_edits(model, narrow)
