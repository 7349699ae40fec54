"""The atlas's own path, from recipes to the verdict, on models whose answer is planted."""

from pathlib import Path

import numpy as np
import pytest

from interp.atlas import Atlas, AtlasConfig, atlas, load_atlas
from tests.atlas import planted

pytestmark = pytest.mark.slow
CONFIG = AtlasConfig(n_pairs=200, twins=8, fit=256, gradients=64, batch_size=256)


def _make(make, folder: Path | None = None) -> Atlas:
    return atlas(make(0), CONFIG, folder, twin=make, attributes=planted.attributes())


def test_one_latent_through_a_chain_is_strict(tmp_path: Path) -> None:
    found = _make(planted.make_strict, tmp_path)
    assert found.verdict is not None
    assert found.verdict.corner == "strict", found.verdict.text
    (source,) = found.compactness
    assert (source.pca.d_star, source.jacobian.d_star) == (planted.CODE, planted.CODE)
    assert found.image_curve is not None
    assert found.image_curve.d_star == planted.CODE
    (study,) = found.layers
    assert set(study.shares.kinds) == {"redundant"}
    assert np.allclose(np.array(study.shares.first_in, float), 1, atol=0.01)
    assert load_atlas(tmp_path).verdict == found.verdict


def test_writes_with_sources_of_their_own_are_broad() -> None:
    found = _make(planted.make_broad)
    assert found.verdict is not None
    assert found.verdict.corner == "broad", found.verdict.text
    assert [one.source for one in found.compactness] == ["z", "noise"]
    assert all(abs(one.sufficiency.value or 0) < 0.1 for one in found.compactness)
    (study,) = found.layers
    assert set(study.shares.kinds) == {"additive"}
    assert study.specialization.value == pytest.approx(1, abs=0.1)
    rows = {row.name: row for row in found.carriers}
    assert rows["unrelated image"].tau["content"] == pytest.approx(0.5, abs=0.05)
    assert rows["no edit"].effects["content"].alpha.value == 0
    # Each write moves its own attribute.
    smallest = [min(p for p in row.p.values() if p is not None) for row in rows.values() if row.p]
    assert max(smallest) < 0.01


def test_a_killed_atlas_goes_on_and_ends_equal(tmp_path: Path) -> None:
    whole = _make(planted.make_broad, tmp_path / "whole")
    (parts,) = (tmp_path / "whole" / "parts").iterdir()
    # What a kill after some parts leaves behind.
    for path in sorted(parts.rglob("*"))[::2]:
        if path.is_file() and path.suffix == ".npz":
            path.unlink()
    (tmp_path / "whole" / "atlas.json").unlink()
    again = _make(planted.make_broad, tmp_path / "whole")
    assert again.carriers == whole.carriers
    assert again.layers == whole.layers
    assert again.verdict == whole.verdict
