"""SAELens folders, written and read: `cfg.json`, `sae_weights.safetensors` and `sparsity.safetensors`, and `notes.txt`.

A written folder computes on raw activations what the dictionary computes in `eval()` mode. Scales are folded into the
weights, and decoder rows keep their norms. Codes are the same too, with two exceptions. Where latents are selected by
pre * norm, codes are multiplied by decoder norms. And the codes of matching pursuit are divided by the scale of
`dataset`: its decoder rows, which are also its encoder, keep the norm 1.

    lmsae                                                 SAELens
    sae with relu, gated, topk, abstopk, jumprelu         standard, gated, topk, abstopk, jumprelu
        with batchtopk                                    jumprelu, every latent with the learned threshold
        with matching_pursuit                             matching_pursuit, without early stops
    transcoder or skip_transcoder with relu               transcoder, skip_transcoder
        with jumprelu or batchtopk                        jumprelu_transcoder, jumprelu_skip_transcoder
"""

from lmsae.interop.saelens.exporting import describe_for_saelens, export, obstacle
from lmsae.interop.saelens.importing import describe, load
from lmsae.interop.saelens.names import ARCHITECTURES, OWN_CONFIG

__all__ = ["ARCHITECTURES", "OWN_CONFIG", "describe", "describe_for_saelens", "export", "load", "obstacle"]
