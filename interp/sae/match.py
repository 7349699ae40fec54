"""Does an SAE belong to these activations?"""

from collections.abc import Mapping
from typing import Any

from interp.errors import SAEError
from interp.models.points import HookPoint
from interp.sae.base import SAE

_ON_PURPOSE = "to use it elsewhere on purpose, set sae.provenance = {}"


def check_match(sae: SAE, point: HookPoint, model: Mapping[str, Any]) -> None:
    """Refuse activations of another width, point or model than the SAE was trained on.

    Args:
        sae: an SAE; without provenance its width alone is checked.
        point: where the activations come from.
        model: identity of the model that they come from.

    Raises:
        SAEError: with both sides.
    """
    sites = sae.provenance.get("sites")
    if sites:
        names = ", ".join(site["point"]["name"] for site in sites)
        raise SAEError(
            f"a {sae.variant} of {names} does not reconstruct {point.name} from itself: use "
            "evaluate_joined, substitute_transcoder or its own encode"
        )
    # Without a width of its own the target is the input.
    if sae.separate and sae.spec().get("d_out"):
        raise SAEError(
            f"a transcoder does not reconstruct {point.name} from itself: join its two points and "
            "use evaluate_joined or substitute_transcoder, or its own encode"
        )
    trained = sae.point
    where = f"; was it trained on {trained['name']}?" if trained else ""
    if point.width != sae.d_in:
        raise SAEError(f"width {point.width} != SAE d_in {sae.d_in} at {point.name}{where}")
    if trained and trained["name"] != point.name:
        raise SAEError(
            f"the SAE was trained on {trained['name']}, not on {point.name}; {_ON_PURPOSE}"
        )
    _check_model(sae, model)


def check_transcoder(
    sae: SAE, source: HookPoint, target: HookPoint, model: Mapping[str, Any]
) -> None:
    """Refuse a transcoder whose widths or model are others.

    Args:
        sae: the transcoder.
        source, target: the points between which it is to run.
        model: identity of their model.

    Raises:
        SAEError: with both sides.
    """
    if (source.width, target.width) != (sae.d_in, sae.d_out):
        raise SAEError(
            f"widths {source.width} and {target.width} of {source.name} and {target.name} do not "
            f"fit a transcoder from {sae.d_in} to {sae.d_out}"
        )
    _check_model(sae, model)


def _check_model(sae: SAE, model: Mapping[str, Any]) -> None:
    found = str(model.get("weights_sha256") or "")
    if sae.model_hash and found and sae.model_hash != found:
        spec = sae.provenance["model"].get("spec")
        raise SAEError(
            f"the SAE was trained on {spec} with weights {sae.model_hash[:12]}, these activations "
            f"come from {model.get('spec')} with weights {found[:12]}; {_ON_PURPOSE}"
        )
