"""SAEs on disk: `config.json` and `sae.safetensors`, checked before they are believed."""

import hashlib
import inspect
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.errors import SAEError
from interp.sae.atomic import write_atomic

if TYPE_CHECKING:
    from interp.sae.base import SAE

FORMAT = "interp-sae"
VERSION = 1
CONFIG, WEIGHTS = "config.json", "sae.safetensors"
# A config holds a recipe and identities: kilobytes. Anything larger is not one of ours.
MAX_CONFIG_BYTES = 4 << 20
UNITS = "trained_units"


def digest_of(sae: "SAE") -> str:
    """First 16 hex digits of the sha256 of variant, spec and tensors."""
    head = json.dumps({"variant": sae.variant, "spec": sae.spec()}, sort_keys=True)
    digest = hashlib.sha256(head.encode())
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def save_sae(sae: "SAE", directory: Path) -> Path:
    """Write an SAE; each file atomically, the config, which holds the weights' hash, last.

    Args:
        sae: any variant.
        directory: made if missing.

    Returns:
        The directory.

    Raises:
        SAEError: a weight is not a finite float32, or the scale not positive; nothing is written.
    """
    from safetensors.torch import save

    tensors = {name: value.detach().cpu().contiguous() for name, value in sae.state_dict().items()}
    _check_values(tensors, "the SAE, which is not saved")
    directory.mkdir(parents=True, exist_ok=True)
    payload = save({**tensors, UNITS: sae.trained_units.cpu()})
    config = {
        "format": FORMAT,
        "version": VERSION,
        "variant": sae.variant,
        "spec": sae.spec(),
        "provenance": sae.provenance,
        "digest": digest_of(sae),
        "weights": {"file": WEIGHTS, "sha256": hashlib.sha256(payload).hexdigest()},
    }
    write_atomic(directory / WEIGHTS, payload)
    write_atomic(directory / CONFIG, (json.dumps(config, indent=1) + "\n").encode())
    return directory


def load_sae(directory: Path) -> "SAE":
    """Read an SAE, verifying format, hashes, types, names, shapes and values before use.

    Raises:
        SAEError: any of them fails; the message names the file and the reason.
    """
    config = _read_config(directory / CONFIG)
    sae = _build_empty(config, directory)
    tensors = _read_tensors(directory / WEIGHTS, config["weights"].get("sha256"))
    units = tensors.pop(UNITS, None)
    if units is None or units.dtype != torch.int64 or units.ndim != 1:
        raise SAEError(f"{directory / WEIGHTS} has no list {UNITS!r} of trained images")
    _check_tensors(tensors, sae.state_dict(), directory / WEIGHTS)
    sae.load_state_dict(tensors, assign=True)
    for parameter in sae.parameters():
        parameter.requires_grad_(True)
    found = digest_of(sae)
    if found != config.get("digest"):
        raise SAEError(
            f"{directory / CONFIG} says digest {str(config.get('digest'))[:16]!r}, the SAE's is "
            f"{found!r}: config and weights are not of one SAE; copy it again"
        )
    sae.trained_units = units
    sae.provenance = config["provenance"]
    return sae


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise SAEError(f"{path} is missing: {path.parent} is not a saved SAE")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise SAEError(f"{path} has {path.stat().st_size} bytes, more than {MAX_CONFIG_BYTES}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SAEError(f"{path} is not JSON ({error}); copy the SAE again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise SAEError(f"{path} is not the config of an {FORMAT} directory")
    if config.get("version") != VERSION:
        raise SAEError(
            f"{path} has version {config.get('version')!r}, this library reads {VERSION}"
        )
    for key in ("spec", "provenance", "weights"):
        if not isinstance(config.get(key), dict):
            raise SAEError(f"{path} has no table {key!r}; copy the SAE again")
    _check_provenance(config["provenance"], path)
    return config


def _check_provenance(provenance: dict[str, Any], path: Path) -> None:
    """What `check_match` and the dashboards read has the type that they expect, or is absent."""
    kinds = {"point": dict, "model": dict, "recipe": dict, "split": dict, "store": str}
    kinds |= {"target": dict, "source": dict, "latents": dict, "sites": list}
    for key, kind in kinds.items():
        value = provenance.get(key)
        if value is not None and not isinstance(value, kind):
            raise SAEError(f"{path}: provenance {key!r} is {_short(value)}, not a {kind.__name__}")
    for site in provenance.get("sites") or []:
        inner = site.get("point") if isinstance(site, dict) else None
        if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
            raise SAEError(f"{path}: provenance 'sites' has a site without a point: {_short(site)}")
    point, model = provenance.get("point"), provenance.get("model")
    if point is not None and not isinstance(point.get("name"), str):
        raise SAEError(f"{path}: provenance 'point' has no name: {_short(point)}")
    if not isinstance((model or {}).get("weights_sha256") or "", str):
        raise SAEError(f"{path}: provenance 'model' has no text as hash: {_short(model)}")


def _short(value: object) -> str:
    return repr(value)[:80]


def _check_spec(variant: str, spec: dict[str, Any], where: Path) -> None:
    """Values of the types that the constructor names: no bool or 2.5 as a whole number."""
    flat = [x for value in spec.values() for x in (value if type(value) is list else [value])]
    if any(type(value) not in (int, float, str, bool) for value in flat):
        raise SAEError(f"{where}: spec {_short(spec)} holds more than numbers and words")
    parameters = inspect.signature(_classes()[variant]).parameters
    for name, value in spec.items():
        kind = parameters[name].annotation if name in parameters else type(value)
        # JSON and Python both take 4 for 4.0.
        whole = kind is float and type(value) is int
        if isinstance(kind, type) and type(value) is not kind and not whole:
            raise SAEError(
                f"{where}: spec {name} = {_short(value)} does not build {variant}: it must be of "
                f"type {kind.__name__}"
            )
        if type(value) is int and not -(2**63) <= value < 2**63:
            raise SAEError(f"{where}: spec {name} = {_short(value)} is beyond 64 bits")


def _classes() -> dict[str, type["SAE"]]:
    """The variants that are trained here, and the one that is only read."""
    from interp.sae import VARIANTS
    from interp.sae.formats.imported import Imported

    return {**VARIANTS, Imported.variant: Imported}


def _build_empty(config: dict[str, Any], directory: Path) -> "SAE":
    variant, classes = config.get("variant"), _classes()
    if not isinstance(variant, str) or variant not in classes:
        raise SAEError(f"{directory} holds the variant {variant!r}; known are {sorted(classes)}")
    spec = config["spec"]
    _check_spec(variant, spec, directory / CONFIG)
    try:
        # No memory is taken until the weights are known to have these shapes.
        with torch.device("meta"):
            return classes[variant](**spec)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise SAEError(
            f"{directory / CONFIG}: spec {spec} does not build {variant}: {error}"
        ) from error


def _read_tensors(path: Path, sha256: object) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    if not path.is_file():
        raise SAEError(f"{path} is missing: {path.parent} is not a saved SAE")
    payload = path.read_bytes()
    found = hashlib.sha256(payload).hexdigest()
    if found != sha256:
        raise SAEError(
            f"{path} ({len(payload)} bytes) has sha256 {found[:12]}, its config says "
            f"{str(sha256)[:12]}: the file was truncated or altered; copy the SAE again"
        )
    try:
        return load(payload)
    except SafetensorError as error:
        raise SAEError(f"{path} is not a safetensors file: {error}") from error


def _check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    if found.keys() != expected.keys():
        raise SAEError(f"{path} holds {sorted(found)}, expected {sorted(expected)}")
    for name, tensor in found.items():
        if tensor.shape != expected[name].shape:
            raise SAEError(
                f"{path}: {name} has shape {tuple(tensor.shape)}, its config says "
                f"{tuple(expected[name].shape)}"
            )
    _check_values(found, str(path))


def _check_values(tensors: dict[str, Tensor], where: str) -> None:
    """Weights are finite float32, and the scale, which divides, is positive."""
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float32:
            raise SAEError(
                f"{where}: {name} holds values that are not float32 but "
                f"{str(tensor.dtype).removeprefix('torch.')}; save sae.float()"
            )
        if not bool(torch.isfinite(tensor).all()):
            raise SAEError(
                f"{where}: {name} holds values that are not finite numbers; "
                "if the training diverged, train again with a lower lr"
            )
    for name in {"scale", "target_scale"} & set(tensors):
        if not bool((tensors[name] > 0).all()):
            raise SAEError(f"{where}: {name} = {float(tensors[name].min())} must be positive")
