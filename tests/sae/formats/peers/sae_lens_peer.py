"""SAELens; see common.py."""

import torch
from common import D, K, M, main, positive, randomize
from sae_lens import SAE
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedSAE, GatedSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUSAE, JumpReLUSAEConfig
from sae_lens.saes.matching_pursuit_sae import MatchingPursuitSAE, MatchingPursuitSAEConfig
from sae_lens.saes.standard_sae import StandardSAE, StandardSAEConfig
from sae_lens.saes.topk_sae import TopKSAE, TopKSAEConfig
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)


def made(kind, config, **options):
    sae = randomize(kind(config(d_in=D, d_sae=M, **options)))
    if hasattr(sae, "threshold"):
        sae.threshold.data.copy_(positive(M))
    return sae.save_model, sae.encode, sae.decode


def batchtopk(factor):
    """A BatchTopK SAE as training leaves it: threshold and activation norm folded on saving."""
    config = BatchTopKTrainingSAEConfig(d_in=D, d_sae=M, k=K)
    sae = randomize(BatchTopKTrainingSAE(config))
    sae.topk_threshold.fill_(0.7)
    sae.fold_activation_norm_scaling_factor(factor)

    def threshold_encode(x):
        p = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
        scaled = p * sae.W_dec.norm(dim=-1)
        return torch.where(scaled > sae.topk_threshold.float(), scaled, 0.0).relu()

    def decode(code):
        return (code / sae.W_dec.norm(dim=-1)) @ sae.W_dec + sae.b_dec

    return sae.save_inference_model, threshold_encode, decode


def pursuit(**options):
    config = MatchingPursuitSAEConfig(d_in=D, d_sae=M, **options)
    sae = randomize(MatchingPursuitSAE(config))
    sae.W_dec.data /= sae.W_dec.norm(dim=1, keepdim=True)
    return sae.save_model, sae.encode, sae.decode


def transcoder(kind, config):
    made_one = randomize(kind(config(d_in=D, d_sae=M, d_out=4, apply_b_dec_to_input=False)))
    return made_one.save_model, made_one.encode, made_one.decode, made_one


def theirs():
    standard, topk = (StandardSAE, StandardSAEConfig), (TopKSAE, TopKSAEConfig)
    jump, gated = (JumpReLUSAE, JumpReLUSAEConfig), (GatedSAE, GatedSAEConfig)
    length = {"normalize_activations": "constant_norm_rescale"}
    layer = {"normalize_activations": "layer_norm"}
    return {
        "standard": made(*standard),
        "standard without input bias": made(*standard, apply_b_dec_to_input=False),
        "topk": made(*topk, k=K),
        "topk by decoder norm": made(*topk, k=K, rescale_acts_by_decoder_norm=True),
        "topk on layer norm": made(*topk, k=K, **layer),
        "jumprelu": made(*jump),
        "jumprelu on constant norm": made(*jump, **length),
        "jumprelu without input bias": made(*jump, apply_b_dec_to_input=False),
        "gated": made(*gated),
        "gated on layer norm": made(*gated, **layer),
        "batchtopk": batchtopk(0.25),
        "matching pursuit": pursuit(
            residual_threshold=0.0, max_iterations=K, stop_on_duplicate_support=False
        ),
        "matching pursuit to a residual": pursuit(residual_threshold=0.8, max_iterations=20),
        "matching pursuit without bias": pursuit(apply_b_dec_to_input=False),
        "transcoder": transcoder(Transcoder, TranscoderConfig),
        "skip transcoder": transcoder(SkipTranscoder, SkipTranscoderConfig),
        "jumprelu transcoder": transcoder(JumpReLUTranscoder, JumpReLUTranscoderConfig),
        "jumprelu skip transcoder": transcoder(
            JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig
        ),
    }


def load(path):
    sae = SAE.load_from_disk(path)
    return sae.encode, sae.decode, sae


if __name__ == "__main__":
    main(theirs, load)
