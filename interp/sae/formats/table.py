"""The formats, and the two functions that use them."""

from pathlib import Path
from typing import Any

from interp.errors import SAEError
from interp.sae.base import SAE
from interp.sae.files import CONFIG, FORMAT
from interp.sae.files import load_sae as load_own
from interp.sae.files import save_sae as save_own
from interp.sae.formats import (
    dictionary_learning,
    openai,
    overcomplete,
    prisma,
    saelens,
    saev,
    sdxl_unbox,
    sparsify,
)
from interp.sae.formats.folding import fold, specialize
from interp.sae.formats.hints import Format, Hints
from interp.sae.formats.hub import resolve
from interp.sae.formats.imported import Imported
from interp.sae.formats.reading import Tensors, read_json, read_torch

# A config larger than this is left where it is; `provenance` is for reading.
MAX_KEPT = 1 << 14
# Folders looked into for SAEs when a folder is none itself.
MAX_LOOK = 200


def _detect_own(path: Path) -> bool:
    return _own_folder(path) is not None


def _own_folder(path: Path) -> Path | None:
    for folder in (path, path / "sae"):
        if not (folder / CONFIG).is_file():
            continue
        try:
            found = read_json(folder / CONFIG)
        except SAEError:
            continue
        if found.get("format") == FORMAT:
            return folder
    return None


def _read_own(path: Path, hints: Hints) -> SAE:
    return load_own(_own_folder(path) or path)


# Name -> layout; also the order of recognition.
FORMATS: dict[str, Format] = {
    "interp": Format("interp", _detect_own, _read_own, None),
    "saelens": Format("SAELens", saelens.detect, saelens.read, saelens.write),
    "dictionary_learning": Format(
        "dictionary_learning",
        dictionary_learning.detect,
        dictionary_learning.read,
        dictionary_learning.write,
    ),
    "saeuron": Format("SAeUron", sparsify.detect_saeuron, sparsify.read, sparsify.write_saeuron),
    "sparsify": Format("sparsify", sparsify.detect, sparsify.read, sparsify.write),
    "sdxl-unbox": Format("sdxl-unbox", sdxl_unbox.detect, sdxl_unbox.read, sdxl_unbox.write),
    "overcomplete": Format(
        "overcomplete", overcomplete.detect, overcomplete.read, overcomplete.write
    ),
    "openai": Format("openai/sparse_autoencoder", openai.detect, openai.read, openai.write),
    "saev": Format("saev", saev.detect, saev.read, saev.write),
    "saev-0.1": Format("saev 0.1", lambda path: False, saev.read, saev.write_first),
    "prisma": Format("ViT-Prisma", prisma.detect, prisma.read, None),
}


def load_sae(
    path: str | Path,
    format: str = "auto",
    *,
    point: str = "",
    k: int = 0,
    threshold: float | None = None,
    activation: str = "",
    input_scale: float | None = None,
    inexact: bool = False,
    revision: str | None = None,
    local: str | Path | None = None,
) -> SAE:
    """Read an SAE of this library or of another one.

    Encode and decode equal those of the library that wrote the file (to float32 rounding); what
    cannot is refused. A trained variant is given where one computes the same, else `Imported`.

    Args:
        path: a file or folder, a run directory, or "owner/name" or "owner/name/folder" on the
            Hugging Face hub where no such folder exists here.
        format: a key of FORMATS; auto recognizes it.
        point: name of the hook point that the SAE belongs to; files of others do not name ours.
        k: active latents, where the file does not say (overcomplete's bare weights).
        threshold: of a BatchTopK SAE whose file lost it (overcomplete, early saev).
        activation: relu or topk, of overcomplete's bare weights.
        input_scale: factor on the activations that a SAELens file speaks of but does not hold.
        inexact: take the nearest function where there is no equal one.
        revision: branch, tag or commit on the hub.
        local: a folder in place of the hub, with owner/name below it.

    Returns:
        The SAE; `provenance["source"]` says where it comes from.

    Raises:
        SAEError: nothing there, of no known layout, damaged, or without an exact equivalent.
    """
    place = resolve(path, revision, local)
    if format == "auto":
        place = _only_file(place)
    name = detect_format(place) if format == "auto" else format
    if name not in FORMATS:
        raise SAEError(f"no format {format!r}; there are auto, {', '.join(FORMATS)}")
    hints = Hints(k, threshold, activation, input_scale, inexact)
    sae = FORMATS[name].read(place, hints)
    if isinstance(sae, Imported) and name != "interp":
        source = {"format": name, "library": FORMATS[name].library, "file": place.name}
        sae.provenance["source"] = {**source, "config": _config_near(place)}
        sae = specialize(sae)
    if point:
        _set_point(sae, point)
    return sae


def save_sae(sae: SAE, path: str | Path, format: str = "interp", *, inexact: bool = False) -> Path:
    """Write an SAE in this library's layout or another's.

    In other layouts the normalization moves into the weights: their codes are in units of the
    data, `sae.scale` times those of `sae.encode`; reconstructions are the same.

    Args:
        sae: any variant.
        path: folder, or file where the format is one (openai, saev).
        format: a key of FORMATS.
        inexact: write the nearest function where the format has no equal one.

    Returns:
        The path that was written.

    Raises:
        SAEError: the format has no place for this variant; nothing is written.
    """
    if format not in FORMATS:
        raise SAEError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    if format == "interp":
        return save_own(sae, Path(path))
    write = FORMATS[format].write
    if write is None:
        raise SAEError(f"{FORMATS[format].library} is read only; write format='saelens'")
    part = fold(sae)
    if part.separate and format not in ("sparsify", "saelens"):
        raise SAEError(f"{FORMATS[format].library} has no transcoders; sparsify and saelens have")
    return write(part, Path(path), Hints(inexact=inexact))


def _only_file(path: Path) -> Path:
    """The one file of a folder that holds nothing else, such as one of OpenAI's on the hub."""
    if not path.is_dir() or any(layout.detect(path) for layout in FORMATS.values()):
        return path
    files = [file for file in path.iterdir() if file.suffix in openai.ENDINGS]
    return files[0] if len(files) == 1 else path


def detect_format(path: str | Path) -> str:
    """Return the key of FORMATS whose layout a file or folder has.

    Raises:
        SAEError: none has; where SAEs lie in folders below, the message names them.
    """
    path = Path(path)
    if not path.exists():
        raise SAEError(f"there is no file or folder {path}")
    path = _only_file(path)
    for name, layout in FORMATS.items():
        if layout.detect(path):
            return name
    if path.is_file() and (path.suffix in openai.ENDINGS or _is_pickle(path)):
        # Says why where it is a program or damaged.
        names = Tensors(read_torch(path), str(path)).names()
        raise SAEError(f"{path} is of no known layout; it holds {names[:20]}")
    below = _below(path) if path.is_dir() else []
    if below:
        raise SAEError(
            f"{path} holds {len(below)} SAEs; name one: {', '.join(below[:20])}"
            + (" ..." if len(below) > 20 else "")
        )
    held = sorted(entry.name for entry in path.iterdir())[:20] if path.is_dir() else path.suffix
    raise SAEError(
        f"{path} is of no known layout ({', '.join(FORMATS)}); it holds {held}: if you know which "
        "it is, give format= to hear what is missing"
    )


def _is_pickle(path: Path) -> bool:
    """Whether a file begins as torch.save's or pickle's do."""
    with path.open("rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def _below(path: Path) -> list[str]:
    folders = [path]
    found = []
    for folder in folders:
        inner = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        for entry in inner[: MAX_LOOK - len(folders)]:
            if any(layout.detect(entry) for layout in FORMATS.values()):
                found.append(str(entry.relative_to(path)))
            elif len(entry.relative_to(path).parts) < 3:
                folders.append(entry)
    return found


def _config_near(path: Path) -> dict[str, Any]:
    """The config of an SAE for its provenance; empty where there is none or it is large."""
    for folder in (path, path.parent, path.parent.parent) if path.is_file() else (path,):
        for name in ("cfg.json", "config.json"):
            file = folder / name
            if file.is_file() and file.stat().st_size <= MAX_KEPT:
                return _table_in(file)
    return {}


def _table_in(file: Path) -> dict[str, Any]:
    """The table in a JSON file; empty where it holds none: it need not belong to the SAE."""
    try:
        return read_json(file)
    except SAEError:
        return {}


def _set_point(sae: SAE, point: str) -> None:
    known = sae.point
    if known is not None and known["name"] != point:
        raise SAEError(f"the SAE was trained on {known['name']}, not on {point}")
    if known is None:
        sae.provenance["point"] = {"name": point}
