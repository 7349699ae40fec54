"""`doctor` finds what is wrong and says what to do about it."""

import hashlib
import json
from pathlib import Path

import pytest

from interp import doctor


def _named(checks: list[doctor.Check], name: str) -> doctor.Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def test_it_looks_at_every_part_without_raising(tmp_path: Path) -> None:
    names = [check.name for check in doctor.doctor(tmp_path)]
    assert len(names) == len(set(names))
    parts = {"interp", "python", "torch", "torch works", "devices", "triton kernels", "disk"}
    parts |= {"import kernels", "browser for tests", "backend", "memory", "stores"}
    assert parts <= set(names)


def test_a_library_below_its_floor_is_found_with_the_command_that_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: ["numpy>=999", "no-such-one>=1"])
    low, absent = doctor._requirements()
    assert not low.ok
    assert low.fix == "pip install 'numpy>=999'"
    assert not absent.ok
    assert "not installed" in absent.detail


def test_a_dependency_of_another_platform_or_extra_is_not_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = ["x>=1; sys_platform == 'nowhere'", "y>=1; extra == 'test'"]
    monkeypatch.setattr(doctor.metadata, "requires", lambda _: lines)
    assert doctor._requirements() == []


def test_a_package_that_hides_hugging_faces_kernels_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kernels").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert doctor._hugging_face_kernels().ok
    (tmp_path / "kernels" / "__init__.py").write_text("")
    doctor.importlib.invalidate_caches()
    monkeypatch.delitem(__import__("sys").modules, "kernels", raising=False)
    found = doctor._hugging_face_kernels()
    assert not found.ok
    assert "hides Hugging Face's kernels" in found.fix


def test_too_small_a_disk_is_found_for_a_folder_that_does_not_exist_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor._disk(tmp_path / "a" / "b").name == "disk"
    monkeypatch.setattr(doctor, "ENOUGH_DISK", 1e9)
    assert not doctor._disk(tmp_path / "a" / "b").ok


def test_too_little_memory_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor._memory().ok
    monkeypatch.setattr(doctor, "ENOUGH_MEMORY", 1e9)
    assert "smaller batch" in doctor._memory().fix


def test_the_backend_of_a_small_and_of_a_usual_dictionary_is_named() -> None:
    assert doctor._backend().detail.startswith("cpu: dense at 128, eager at 1,024, eager at")


def test_stores_of_a_folder_are_counted_with_their_size(tmp_path: Path) -> None:
    assert doctor._stores(tmp_path / "absent").detail.startswith("none in ")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").write_bytes(bytes(2**20))
    (tmp_path / "c").mkdir()
    assert doctor._stores(tmp_path).detail.startswith("2 with 0.00 GiB in ")


def test_weights_that_are_not_those_of_the_card_are_found(tmp_path: Path) -> None:
    weights, card = tmp_path / "gan.safetensors", tmp_path / "gan.json"
    weights.write_bytes(b"weights")
    card.write_text(json.dumps({"weights": {"sha256": hashlib.sha256(b"weights").hexdigest()}}))
    assert doctor._weights(card).ok
    weights.write_bytes(b"Weights")
    assert "but the card says" in doctor._weights(card).detail
    weights.unlink()
    assert "is missing" in doctor._weights(card).detail


def test_the_report_shows_each_fix_and_counts_the_problems() -> None:
    checks = [doctor.Check("a", True, "fine"), doctor.Check("long", False, "broken", "mend it")]
    assert doctor.report(checks).splitlines() == [
        "ok   a     fine",
        "BAD  long  broken",
        "           -> mend it",
        "1 problem(s)",
    ]
