"""The folder of a scan: what stands in it may be cut short, altered or of something else."""

import json
from typing import Any

import numpy as np
import pytest
import torch

from interp.errors import InputError
from interp.interventions import Carrier, scan
from interp.interventions.scan_batches import Job, fits
from interp.interventions.scan_parts import open_folder, part_path, read_part, write_part
from interp.models import Generation
from tests.interventions import networks

RECIPE = {"format": 1, "attribute color": [0.5, 0.25]}

RECIPES = {
    "a list": (b"[]", "is damaged .* a list"),
    "null": (b"null", "is damaged .* a NoneType"),
    "a number": (b"3", "is damaged .* an? int"),
    "no text": (b"\xff\xfe", "is damaged"),
    "too deep": (b"[" * 100_000, "is damaged"),
    "text in a list": (
        json.dumps({**RECIPE, "attribute color": ["x", 0.25]}).encode(),
        "another scan .* attribute color was",
    ),
    "a number without a float": (
        json.dumps({**RECIPE, "attribute color": [0.5, 10**400]}).encode(),
        "another scan .* attribute color was",
    ),
}


@pytest.mark.parametrize("case", RECIPES)
def test_a_recipe_that_is_none_is_refused_in_words(tmp_path, case):
    content, message = RECIPES[case]
    (tmp_path / "scan.json").write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_folder(tmp_path, RECIPE)


def test_every_flipped_bit_of_a_part_leaves_it_whole_or_absent(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda fd: None)
    write_part(tmp_path, 0, {"x": np.arange(2.0)})
    path = part_path(tmp_path, 0)
    whole = path.read_bytes()
    for at in range(len(whole)):
        # Of the array's own header, numpy reads claims of size only where the checksum holds.
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 9]) + whole[at + 1 :])
        found = read_part(tmp_path, 0)
        assert found is None or all(isinstance(value, np.ndarray) for value in found.values())


OTHER = {
    "rows for pictures": {"donor.images": np.zeros((2, 3), np.uint8)},
    "gray pictures": {"donor.images": np.zeros((2, 4, 4, 1), np.uint8)},
    "pictures of floats": {"donor.images": np.zeros((2, 4, 4, 3))},
    "pictures of two sizes": {"donor.images": np.zeros((2, 8, 4, 3), np.uint8)},
    "embeddings of one number": {"donor.0": np.zeros(3)},
    "embeddings of whole numbers": {"donor.0": np.zeros((3, 5), int)},
    "a number": {"donor.0": np.array(3.0)},
    "one more": {"more": np.array(3.0)},
}


@pytest.mark.parametrize("case", OTHER)
def test_a_part_of_other_shapes_is_not_one_of_the_scan(case):
    images = torch.zeros(3, 4, 4, 3)
    model: Any = None
    job = Job(model, (), (), images, images, {"color": torch.mean}, 8, 2, 0)
    sides = ("donor", "recipient")
    part = {f"{side}.0": np.zeros((3, 5)) for side in sides}
    part |= {f"{side}.images": np.zeros((2, 4, 4, 3), np.uint8) for side in sides}
    assert fits(job, part, 0, None)
    assert not fits(job, part | OTHER[case], 0, None)


def test_attributes_that_are_centered_on_the_reference_are_told_apart(tmp_path):
    gan = networks.zoo("gan")
    codes = Generation(n=12, seed=0), Generation(n=12, seed=100)
    reference = gan.generate(Generation(n=12, seed=500).batch(0, 12))
    rows = reference.double().flatten(1) / 255

    def centered(part):
        return {"pixels": lambda x: (x.double().flatten(1) / 255 - rows.mean(0))[:, part]}

    job = (gan, [Carrier(("w",))], *codes)
    scan(*job, centered(slice(0, 4)), reference, out=tmp_path, n_resamples=20)
    again = scan(*job, centered(slice(0, 4)), reference, out=tmp_path, n_resamples=20)
    assert again.complete
    with pytest.raises(InputError, match="attribute pixels was"):
        scan(*job, centered(slice(4, 8)), reference, out=tmp_path, n_resamples=20)
