"""Model cards of SAEs, and their way to the Hugging Face hub or a folder that stands for it."""

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.errors import SAEError
from interp.sae.atomic import write_atomic
from interp.sae.base import SAE
from interp.sae.formats import FORMATS, save_sae
from interp.sae.formats.hub import HUB_ID

__all__ = ["model_card", "push_to_hub", "write_package"]

CARD, EVALUATION = "README.md", "evaluation.json"
TAGS = ("interpretability", "sparse-autoencoder", "dictionary-learning")
# Numbers of an evaluation that a card shows, with what they are called.
QUALITY = {
    "fvu": "fraction of variance unexplained",
    "l0": "active latents per row",
    "dead": "share of latents that never fire",
}


def model_card(
    sae: SAE,
    *,
    name: str = "",
    evaluation: Any = None,
    license: str = "",
    format: str = "interp",
) -> str:
    """Text of a `README.md`: what the SAE is, what it was trained on, how good it is, how to load.

    Args:
        sae: any variant, also an imported one.
        name: owner/name on the hub, for the lines that load it.
        evaluation: what `interp.evaluate` returned, or its JSON; its numbers are on held-out rows
            unless `trained_rows` is true, and the card says so.
        license: SPDX name, such as "apache-2.0"; "" leaves it open.
        format: key of FORMATS in which the SAE lies beside the card.

    Returns:
        Markdown with YAML front matter (`library_name: interp`).

    Raises:
        SAEError: the evaluation is none, or is of another SAE.
    """
    record = _record(evaluation)
    if record.get("sae") not in (None, sae.digest):
        raise SAEError(
            f"the evaluation is of the SAE {_clean(record['sae'])}, this one is {sae.digest}: "
            "evaluate it anew (interp evaluate)"
        )
    head = _front_matter(sae, name, record, license)
    title = _clean(name or f"{sae.variant} SAE{_of(sae)}")
    parts = [f"---\n{head}---\n\n# {title}\n", _what(sae), _usage(sae, name, format)]
    if record:
        parts.append(_quality(record))
    return "\n".join(parts)


def push_to_hub(
    sae: SAE,
    name: str,
    *,
    evaluation: Any = None,
    license: str = "",
    format: str = "interp",
    private: bool = False,
    token: str | None = None,
    local: str | Path | None = None,
) -> str:
    """Upload an SAE with its card; `load_sae(name)` reads it again.

    Args:
        sae: any variant.
        name: owner/name; the repository is made if missing.
        evaluation: as in `model_card`; kept as `evaluation.json` too.
        license: as in `model_card`.
        format: key of FORMATS.
        private: whether a new repository is.
        token: of the hub; None takes the one of `hf auth login`.
        local: a folder in place of the hub: the same files go to local/owner/name.

    Returns:
        Address of the commit, or the folder.

    Raises:
        SAEError: not a hub id, a format that has no place for the SAE, or a hub that refuses.
    """
    match = HUB_ID.fullmatch(name)
    if match is None or match[2]:
        raise SAEError(f"{name!r} is no hub id: owner/name is needed")
    options = {"evaluation": evaluation, "license": license, "format": format}
    if local is not None:
        return str(write_package(sae, Path(local) / name, name=name, **options))
    with tempfile.TemporaryDirectory() as folder:
        write_package(sae, Path(folder), name=name, **options)
        return _upload(Path(folder), name, private, token)


def write_package(
    sae: SAE,
    folder: Path,
    *,
    name: str = "",
    evaluation: Any = None,
    license: str = "",
    format: str = "interp",
) -> Path:
    """Write weights, card and evaluation into a folder, as they lie on the hub.

    Args:
        sae: any variant.
        folder: made if missing.
        name: as in `model_card`.
        evaluation: as in `model_card`.
        license: as in `model_card`.
        format: key of FORMATS.

    Returns:
        The folder.

    Raises:
        SAEError: the format has no place for the SAE.
    """
    if format not in FORMATS:
        raise SAEError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    text = model_card(sae, name=name, evaluation=evaluation, license=license, format=format)
    # Some layouts are one file; in a folder of its own each is found again.
    single = format in ("openai", "saev", "saev-0.1")
    folder.mkdir(parents=True, exist_ok=True)
    save_sae(sae, folder / "sae.pt" if single else folder, format)
    write_atomic(folder / CARD, text.encode())
    record = _record(evaluation)
    if record:
        write_atomic(folder / EVALUATION, (json.dumps(record, indent=1) + "\n").encode())
    return folder


def _upload(folder: Path, name: str, private: bool, token: str | None) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi(token=token)
    try:
        api.create_repo(name, private=private, exist_ok=True)
        done = api.upload_folder(repo_id=name, folder_path=folder, commit_message="SAE by interp")
    except (OSError, ValueError, HFValidationError) as error:
        why = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise SAEError(f"{name} cannot be uploaded: {why}") from error
    return str(done.commit_url)


def _record(evaluation: Any) -> dict[str, Any]:
    if evaluation is None:
        return {}
    found = dict(evaluation if isinstance(evaluation, Mapping) else evaluation.as_dict())
    sites = found.get("sites")
    if sites:
        # Of transcoders and crosscoders, whose loss is the mean over their sites.
        found["point"] = " and ".join(str(site["name"]) for site in sites)
        found["fvu"] = sum(float(site["fvu"]) for site in sites) / len(sites)
    missing = [key for key in ("point", *QUALITY) if key not in found]
    if missing:
        raise SAEError(f"this is no evaluation: it has no {', '.join(missing)}")
    return found


def _front_matter(sae: SAE, name: str, record: dict[str, Any], license: str) -> str:
    """YAML whose every value is JSON, which is YAML."""
    fields: dict[str, Any] = {"library_name": "interp", "tags": [*TAGS, sae.variant]}
    if license:
        fields["license"] = license
    base = _base_model(sae)
    if base:
        fields["base_model"] = base
    if record:
        metrics = [
            {"type": key, "name": text, "value": round(float(record[key]), 6)}
            for key, text in QUALITY.items()
        ]
        result = {
            "task": {"type": "feature-extraction", "name": "reconstruction of activations"},
            "dataset": {"type": "activations", "name": str(record["point"])},
            "metrics": metrics,
        }
        fields["model-index"] = [{"name": name or sae.variant, "results": [result]}]
    return "".join(f"{key}: {json.dumps(value)}\n" for key, value in fields.items())


def _base_model(sae: SAE) -> str:
    """The hub id in the spec of the model, or ''."""
    spec = str((sae.provenance.get("model") or {}).get("spec") or "")
    scheme, _, rest = spec.partition(":")
    found = HUB_ID.fullmatch(rest.partition("#")[0])
    known = scheme in ("diffusers", "transformers", "lens")
    return found[0] if known and found and not found[2] else ""


def _of(sae: SAE) -> str:
    return f" of {sae.point['name']}" if sae.point else ""


def _what(sae: SAE) -> str:
    model, source = sae.provenance.get("model") or {}, sae.provenance.get("source") or {}
    spec = {k: v for k, v in sae.spec().items() if k not in ("d_in", "n_latents", "seed")}
    rows = [
        ("variant", sae.variant),
        ("width d", sae.d_in),
        ("latents m", sae.n_latents),
        ("settings", ", ".join(f"{key} = {value}" for key, value in spec.items())),
        ("hook point", sae.point["name"] if sae.point else ""),
        ("model", model.get("spec", "")),
        ("weights of the model", str(model.get("weights_sha256") or "")[:16]),
        ("activation store", sae.provenance.get("store") or ""),
        ("images and clusters trained on", len(sae.trained_units) or ""),
        ("read from", source.get("library", "")),
        ("digest", sae.digest),
    ]
    lines = ["A sparse autoencoder of activations.", "", "| | |", "|---|---|"]
    lines += [f"| {key} | {_clean(value)} |" for key, value in rows if value not in ("", None)]
    recipe = sae.recipe
    if recipe:
        told = ", ".join(f"{key} = {value}" for key, value in sorted(recipe.items()))
        lines += ["", f"Recipe: {_clean(told, 2000)}"]
    return "\n".join(lines) + "\n"


def _usage(sae: SAE, name: str, format: str) -> str:
    place = name or "path/to/this/folder"
    point = sae.point["name"] if sae.point and format != "interp" else ""
    more = f", point={point!r}" if point else ""
    lines = [
        "## Use",
        "",
        "```python",
        "from interp.sae import load_sae",
        "",
        f'sae = load_sae("{place}"{more})',
        "code = sae.encode(rows)  # raw activations [n, d]",
        "rows_again = sae.decode(code)",
        "```",
    ]
    if format != "interp":
        lines += ["", f"The files are those of {FORMATS[format].library}."]
    return "\n".join(lines) + "\n"


def _quality(record: dict[str, Any]) -> str:
    which = "whether it was trained on them is not known"
    if record.get("trained_rows") is not None:
        seen = "rows of trained images among them"
        which = seen if record["trained_rows"] else "images and seeds not trained on"
    count = f"{record.get('n_rows', '?')} rows, {record.get('n_generations', '?')} images"
    where = _clean(record["point"])
    lines = ["## Quality", "", f"On {where}: {_clean(count)}; {which}.", "", "| | |", "|---|---|"]
    lines += [f"| {text} | {float(record[key]):.4g} |" for key, text in QUALITY.items()]
    baselines = record.get("baselines") or []
    if baselines:
        lines += ["", "| baseline | FVU | k |", "|---|---|---|"]
        lines += [
            f"| {_clean(one['name'])} | {float(one['fvu']):.4g} | {_clean(one.get('k', ''))} |"
            for one in baselines
            if one.get("fvu") is not None
        ]
    return "\n".join(lines) + "\n"


def _clean(value: object, limit: int = 300) -> str:
    """One line of plain text: names come from files of strangers."""
    text = re.sub(r"\s+", " ", str(value))[:limit]
    return re.sub(r"([|`<>\[\]])", r"\\\1", text)
