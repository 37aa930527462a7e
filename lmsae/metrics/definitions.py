"""What each metric is, in one line, in the order in which tables show them."""

from collections.abc import Iterable

METRICS: dict[str, str] = {
    "l0": "Active latents a token, on average.",
    "explained_variance": "1 - sum ‖y - ŷ‖² / sum ‖y - mean(y)‖², over all evaluated tokens at once.",
    "ce_difference": "Cross-entropy of the model with the reconstruction in place, minus its own; nats a token.",
    "ce_loss_score_zero": "(CE zero-ablated - CE spliced) / (CE zero-ablated - CE clean). Flatters.",
    "ce_loss_score_mean": "The same with the mean activation in place of zero; the harder and fairer score.",
    "kl_div": "KL(clean model ‖ model with the reconstruction), nats a token.",
    "kl_div_score_zero": "(KL zero-ablated - KL spliced) / KL zero-ablated.",
    "kl_div_score_mean": "The same with the mean activation in place of zero.",
    "dead_share": "Share of latents that never fired on the evaluated tokens.",
    "l2_ratio": "Mean of ‖ŷ‖ / ‖y‖; below 1 is shrinkage.",
    "cossim": "Mean cosine of activation and reconstruction.",
    "mse": "Mean over tokens of ‖y - ŷ‖², summed over dimensions.",
    "relative_reconstruction_bias": "E‖ŷ‖² / E(y·ŷ); 1 means no shrinkage.",
    "explained_variance_legacy": "Mean over tokens of 1 - ‖y - ŷ‖² / ‖y - calibration mean‖², as older tables print.",
    "frac_variance_explained": "As explained_variance, with the mean error removed (dictionary_learning's formula).",
    "recovery_cosine": "Of known features: mean largest cosine of a feature's direction and any latent's.",
    "recovery_correlation": "Of known features: mean largest correlation of a feature's amount and any latent's code.",
    "conversion_explained_variance_before": "Explained variance on calibration tokens before conversion to jumprelu.",
    "conversion_explained_variance_after": "The same after it; the difference is what it costs.",
    "conversion_l0_before": "Active latents a calibration token before conversion to jumprelu.",
    "conversion_l0_after": "The same after it.",
    "conversion_tokens": "Calibration tokens on which the cost of conversion was measured.",
    "l1": "Mean over tokens of the sum of |codes|.",
    "ce_clean": "Cross-entropy of the model itself; nats a token.",
    "ce_spliced": "Cross-entropy of the model with the reconstruction in place; nats a token.",
    "ce_zero_ablated": "Cross-entropy with zeros in place of the activations; nats a token.",
    "ce_mean_ablated": "Cross-entropy with the mean activation in place of the activations; nats a token.",
    "dead": "Latents that never fired.",
    "rare_1e-5": "Latents that fired, on fewer than 1 in 100,000 tokens.",
    "dense_1e-2": "Latents that fired on more than 1 % of tokens.",
    "dense_1e-1": "Latents that fired on more than 10 % of tokens.",
    "decoder_norm": "Mean norm of decoder rows, scales folded in.",
    "encoder_decoder_cossim": "Mean cosine of a latent's encoder column and decoder row.",
    "nearest_decoder_cossim": "Mean cosine of a latent's decoder row and the nearest other row.",
    "d_sae": "Latents.",
    "tokens": "Held-out tokens that were evaluated, special ones not counted.",
}


def in_order(names: Iterable[str]) -> list[str]:
    """Metric names as tables show them; those without a definition come last, by name."""
    present = set(names)
    return [name for name in METRICS if name in present] + sorted(present - METRICS.keys())


def definition(name: str) -> str:
    """What a metric is; of `mse[hook point]`, the same at one of several hook points. Empty if nobody knows."""
    plain, bracket, place = name.partition("[")
    text = METRICS.get(plain, "")
    return f"At {place.removesuffix(']')}: {text}" if bracket and text else text
