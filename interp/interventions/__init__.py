"""Edits put into a running model: what happens to its images."""

from interp.interventions.ablation import ABLATIONS, Ablation, AttributeChange, ablate
from interp.interventions.attributes import ATTRIBUTES, join, make_attributes
from interp.interventions.attributes_content import make_encoder
from interp.interventions.attributes_pixels import Attribute, on_images
from interp.interventions.bands import deal_frequencies, play_bands
from interp.interventions.beside import substitute_beside
from interp.interventions.boundaries import interfacegan, project_out
from interp.interventions.carriers import Carrier
from interp.interventions.compactness import (
    Compactness,
    make_gradient_basis,
    make_jacobian_basis,
    make_pca_basis,
    make_random_basis,
    measure_compactness,
    measure_kept,
)
from interp.interventions.confirmatory import Confirmatory, Tested, holm_effects
from interp.interventions.controls import check_controls
from interp.interventions.directions import (
    Directions,
    collect_codes,
    direction_edits,
    factorize,
    ganspace,
    sefa,
    style_channels,
)
from interp.interventions.distance import Deviation, OffDistribution, off_distribution
from interp.interventions.effects import (
    UNRELATED_TAU,
    AttributeEffect,
    Bound,
    Effect,
    Pairs,
    make_pairs,
    measure_effect,
    transfer_ratio,
)
from interp.interventions.end_to_end import (
    EndToEndConfig,
    Finetuned,
    end_to_end_terms,
    frozen,
    record_calls,
    train_end_to_end,
)
from interp.interventions.excess import Excess, compare_twins, exceed_nothing
from interp.interventions.feature_record import Correlation, FeatureScan, Reported
from interp.interventions.feature_scan import estimate_scan_features, scan_features
from interp.interventions.freeu import freeu_edits
from interp.interventions.guidance import (
    class_log_prob,
    guidance_edits,
    guide_by_classifier,
)
from interp.interventions.interchanging import Interchange, interchange, measure_interchange
from interp.interventions.layers import (
    Game,
    LayerShares,
    Specialization,
    measure_layers,
    measure_specialization,
    play,
    shapley,
    specialize,
)
from interp.interventions.listing import list_carriers, make_carrier, split_calls
from interp.interventions.planted import PLANTED, Study
from interp.interventions.raw import RAW, available_raw
from interp.interventions.roles import find_role
from interp.interventions.scan_carriers import scan
from interp.interventions.scan_cost import estimate_scan
from interp.interventions.scan_record import Cost, Scan, ScanImages
from interp.interventions.scanning import play_carriers
from interp.interventions.scheduling import Moment, list_moments
from interp.interventions.sources import put_latents, read_latents
from interp.interventions.steering import estimate_steering, steer
from interp.interventions.steering_live import LIVE_RANGES, make_renderer
from interp.interventions.steering_record import DoseResponse
from interp.interventions.substitute import (
    Substitution,
    low_pass_distance,
    rms_distance,
    substitute,
)
from interp.interventions.swapping import embed_images
from interp.interventions.transcoding import substitute_transcoder, transcoder_edits
from interp.interventions.verdict import (
    Answer,
    Check,
    Controls,
    Rule,
    SourceEvidence,
    Verdict,
    decide,
    load_rule,
)

__all__ = [
    "ABLATIONS",
    "ATTRIBUTES",
    "LIVE_RANGES",
    "PLANTED",
    "RAW",
    "UNRELATED_TAU",
    "Ablation",
    "Answer",
    "Attribute",
    "AttributeChange",
    "AttributeEffect",
    "Bound",
    "Carrier",
    "Check",
    "Compactness",
    "Confirmatory",
    "Controls",
    "Correlation",
    "Cost",
    "Deviation",
    "Directions",
    "DoseResponse",
    "Effect",
    "EndToEndConfig",
    "Excess",
    "FeatureScan",
    "Finetuned",
    "Game",
    "Interchange",
    "LayerShares",
    "Moment",
    "OffDistribution",
    "Pairs",
    "Reported",
    "Rule",
    "Scan",
    "ScanImages",
    "SourceEvidence",
    "Specialization",
    "Study",
    "Substitution",
    "Tested",
    "Verdict",
    "ablate",
    "available_raw",
    "check_controls",
    "class_log_prob",
    "collect_codes",
    "compare_twins",
    "deal_frequencies",
    "decide",
    "direction_edits",
    "embed_images",
    "end_to_end_terms",
    "estimate_scan",
    "estimate_scan_features",
    "estimate_steering",
    "exceed_nothing",
    "factorize",
    "find_role",
    "freeu_edits",
    "frozen",
    "ganspace",
    "guidance_edits",
    "guide_by_classifier",
    "holm_effects",
    "interchange",
    "interfacegan",
    "join",
    "list_carriers",
    "list_moments",
    "load_rule",
    "low_pass_distance",
    "make_attributes",
    "make_carrier",
    "make_encoder",
    "make_gradient_basis",
    "make_jacobian_basis",
    "make_pairs",
    "make_pca_basis",
    "make_random_basis",
    "make_renderer",
    "measure_compactness",
    "measure_effect",
    "measure_interchange",
    "measure_kept",
    "measure_layers",
    "measure_specialization",
    "off_distribution",
    "on_images",
    "play",
    "play_bands",
    "play_carriers",
    "project_out",
    "put_latents",
    "read_latents",
    "record_calls",
    "rms_distance",
    "scan",
    "scan_features",
    "sefa",
    "shapley",
    "specialize",
    "split_calls",
    "steer",
    "style_channels",
    "substitute",
    "substitute_beside",
    "substitute_transcoder",
    "train_end_to_end",
    "transcoder_edits",
    "transfer_ratio",
]
