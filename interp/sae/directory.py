"""A run directory: its config.json says which run it is."""

import json
from pathlib import Path
from typing import Any

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.base import SAE
from interp.sae.checkpoint import remove_checkpoints
from interp.sae.config import TrainConfig, upgrade


def open_directory(
    out: Path, config: TrainConfig, provenance: dict[str, Any], resume: bool, backend: str = "auto"
) -> SAE | None:
    """Write or check config.json; return the SAE of a run that has already finished."""
    wanted = {"config": config.as_dict(), "backend": backend, "provenance": provenance}
    path = out / "config.json"
    if out.exists() and not out.is_dir():
        raise SAEError(f"out={out} is a file; a run needs a folder of its own")
    if resume and path.exists():
        _check_same(path, wanted)
        if (out / "sae" / "config.json").exists():
            return SAE.load(out / "sae")
        return None
    out.mkdir(parents=True, exist_ok=True)
    remove_checkpoints(out)
    for stale in ("log.jsonl", "sae/config.json"):
        (out / stale).unlink(missing_ok=True)
    write_atomic(path, (json.dumps(wanted, indent=1) + "\n").encode())
    return None


def _check_same(path: Path, wanted: dict[str, Any]) -> None:
    try:
        found = _upgraded(json.loads(path.read_text(encoding="utf-8")))
        flat_found, flat_wanted = flatten(found), flatten(json.loads(json.dumps(wanted)))
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise SAEError(
            f"{path} is damaged ({error}); use another directory or resume=False (--fresh)"
        ) from error
    # A run over several ranks, or of an earlier version, may have left the backend open.
    backends = {flat_found.get("backend", "auto"), flat_wanted["backend"]}
    leaves_open = {"backend"} if "auto" in backends else set()
    differing = [
        f"{key}: {flat_found.get(key)!r} there, {flat_wanted.get(key)!r} asked"
        for key in sorted(flat_found.keys() | flat_wanted.keys())
        if flat_found.get(key) != flat_wanted.get(key) and key not in leaves_open
    ]
    if differing:
        raise SAEError(
            f"{path.parent} holds another run ({'; '.join(differing[:4])}); "
            "use another directory, or resume=False (--fresh) to start again"
        )


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested dicts under dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    return {
        key: leaf
        for name, inner in value.items()
        for key, leaf in flatten(inner, f"{prefix}.{name}" if prefix else name).items()
    }


def _upgraded(found: dict[str, Any]) -> dict[str, Any]:
    """A config.json of an earlier version in today's fields."""
    provenance = found["provenance"]
    recipe = {**provenance, "recipe": upgrade(provenance["recipe"])}
    return {**found, "config": upgrade(found["config"]), "provenance": recipe}
