"""Every metric in one line, in groups that are computed together; each group has a version of its own."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

HISTOGRAM_LOW, HISTOGRAM_HIGH, HISTOGRAM_BINS = -6.0, 0.0, 60
"""The ends of a density histogram, in log10 of the firing rate, and the number of its bins."""
HISTOGRAM_ENDS = HISTOGRAM_LOW, HISTOGRAM_HIGH
SAME = 0.7
"""The cosine from which latents of two seeds are taken for the same, as Paulo and Belrose do (arXiv:2501.16615)."""


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that are computed together, by name with their definitions, and vectors over latents likewise. Those
    that `need_model` have no value of own activations.

    `version` goes up when a metric is added, removed, defined otherwise, or gets other bytes. Evaluations then measure
    this group anew, and take the others over from those that are finished.
    """

    name: str
    version: int
    metrics: Mapping[str, str]
    vectors: Mapping[str, str] = field(default_factory=dict)
    needs_model: bool = False


_ALL = (
    Group(
        "reconstruction",
        4,
        {
            "explained_variance": "1 - sum ‖y - ŷ‖² / sum ‖y - mean(y)‖², over all evaluated tokens at once.",
            "l2_norm_in": "Mean of ‖y‖.",
            "l2_norm_out": "Mean of ‖ŷ‖.",
            "l2_ratio": "Mean of ‖ŷ‖ / ‖y‖; below 1 is shrinkage.",
            "cossim": "Mean cosine of activation and reconstruction.",
            "mse": "Mean over tokens of ‖y - ŷ‖², summed over dimensions.",
            "relative_reconstruction_bias": "E‖ŷ‖² / E(y·ŷ); 1 means no shrinkage.",
            "explained_variance_legacy": "Mean over tokens of 1 - ‖y - ŷ‖² / ‖y - calibration mean‖², as older tables "
            "print.",
            "frac_variance_explained": "As explained_variance, with the mean error removed (dictionary_learning's "
            "formula).",
            "tokens": "Held-out tokens that were evaluated, special ones not counted.",
            "saelens_relative_reconstruction_bias": "As SAELens has it: mean over batches of Σ‖ŷ‖² / Σ y·ŷ.",
            "saelens_explained_variance_legacy": "As SAELens has it: explained_variance_legacy with the mean of the "
            "batch.",
        },
    ),
    Group(
        "sparsity",
        4,
        {
            "l0": "Active latents a token, on average.",
            "l0_over_k": "L0 over the number of codes that the activation function is to keep, in all layers together.",
            "l1": "Mean over tokens of the sum of |codes|.",
            "dead": "Latents that never fired.",
            "dead_share": "Share of latents that never fired on the evaluated tokens.",
            "rare_1e-5": "Latents that fired, on fewer than 1 in 100,000 tokens.",
            "dense_1e-2": "Latents that fired on more than 1 % of tokens.",
            "dense_1e-1": "Latents that fired on more than 10 % of tokens.",
            "d_sae": "Latents.",
            "density_histogram": "Latents by log10 of their firing rate, 60 bins from -6 to 0.",
        },
        {
            "density": "Firing rate of each latent.",
            "mean_activation": "Mean code of each latent where it fires; 0 where it never does.",
            "firings_per_context": "Mean number of tokens on which each latent fires, over the contexts in which it "
            "does; 0 where it never does.",
        },
    ),
    Group(
        "model",
        4,
        {
            "ce_difference": "Cross-entropy of the model with the reconstruction in place, minus its own; nats a "
            "token.",
            "ce_loss_score_zero": "(CE zero-ablated - CE spliced) / (CE zero-ablated - CE clean). Flatters.",
            "ce_loss_score_mean": "The same with the mean activation in place of zero; the harder and fairer score.",
            "kl_div": "KL(clean model ‖ model with the reconstruction), nats a token.",
            "kl_div_score_zero": "(KL zero-ablated - KL spliced) / KL zero-ablated.",
            "kl_div_score_mean": "The same with the mean activation in place of zero.",
            "ce_clean": "Cross-entropy of the model itself; nats a token.",
            "ce_spliced": "Cross-entropy of the model with the reconstruction in place; nats a token.",
            "ce_zero_ablated": "Cross-entropy with zeros in place of the activations; nats a token.",
            "ce_mean_ablated": "Cross-entropy with the mean activation in place of the activations; nats a token.",
            "saelens_ce_loss_score": "As SAELens has it: ce_loss_score_zero, with special tokens ablated too.",
            "saelens_ce_loss_with_ablation": "As SAELens has it: ce_zero_ablated, with special tokens ablated too.",
            "saelens_kl_div_with_sae": "As SAELens has it: kl_div, last positions counted.",
            "saelens_kl_div_with_ablation": "As SAELens has it: KL with zeros at all tokens, last positions counted.",
            "saelens_kl_div_score": "As SAELens has it: kl_div_score_zero from these two.",
        },
        needs_model=True,
    ),
    Group(
        "decoder",
        2,
        {
            "decoder_norm": "Mean norm of decoder rows, scales folded in.",
            "encoder_decoder_cossim": "Mean cosine of a latent's encoder column and decoder row.",
            "nearest_decoder_cossim": "Mean cosine of a latent's decoder row and the nearest other row.",
            "nearest_encoder_cossim": "The same of encoder columns.",
        },
    ),
    Group(
        "recovery",
        1,
        {
            "recovery_cosine": "Of known features: mean largest cosine of a feature's direction and any latent's.",
            "recovery_correlation": "Of known features: mean largest correlation of a feature's amount and any "
            "latent's code.",
        },
        needs_model=True,
    ),
    Group(
        "conversion",
        1,
        {
            "conversion_explained_variance_before": "Explained variance on calibration tokens before conversion to "
            "jumprelu.",
            "conversion_explained_variance_after": "The same after it; the difference is what it costs.",
            "conversion_l0_before": "Active latents a calibration token before conversion to jumprelu.",
            "conversion_l0_after": "The same after it.",
            "conversion_tokens": "Calibration tokens on which the cost of conversion was measured.",
        },
    ),
    Group(
        "text",
        1,
        {
            "ce_unigram": "Cross-entropy of the evaluated text by how often each token comes in the training text; "
            "nats a token.",
        },
        needs_model=True,
    ),
)

GROUPS: dict[str, Group] = {group.name: group for group in _ALL}
"""The groups by name. An evaluation measures all of them."""

PROBES = Group(
    "probes",
    1,
    {
        "probe_auc": "Mean over data sets of the AUC of a probe on the k latents that differ most between classes.",
        "probe_auc_std": "Standard deviation of that AUC over data sets (n - 1).",
        "probe_datasets": "Data sets that were probed.",
    },
)
"""The group of sparse probes, by sae-probes 0.4.2. It is measured where data sets are named (`eval.probes`)."""

DERIVED = {"dense_share": "dense_1e-1 / d_sae: share of latents that fire on more than 10 % of tokens."}
"""The metrics that a report works out from others."""

METRICS: dict[str, str] = {
    name: text for group in (*GROUPS.values(), PROBES) for name, text in group.metrics.items()
} | DERIVED
"""Every metric by name with its definition."""


def current_versions(*, without_model: bool = False) -> dict[str, int]:
    """The version of every group, or of every one that needs neither a model nor its text."""
    return {name: group.version for name, group in GROUPS.items() if not (without_model and group.needs_model)}


def group_of(name: str) -> Group | None:
    """The group of a name; None if there is none."""
    return PROBES if name == PROBES.name else GROUPS.get(name)


def names_in(groups: Iterable[str]) -> set[str]:
    """The names of all metrics and vectors of some groups."""
    found = filter(None, map(group_of, groups))
    return {name for group in found for name in (*group.metrics, *group.vectors)}


def plain_name(name: str) -> str:
    """The metric's own name of one that was measured at one of several hook points, `mse` of `mse[hook point]`, or with
    a number of latents, `probe_auc` of `probe_auc[k=1]`."""
    return name.partition("[")[0]


def definition(name: str) -> str:
    """The definition of a metric; of `mse[hook point]`, the same at one of several hook points. Empty for a name that
    has none."""
    text, (_, bracket, hook_point) = METRICS.get(plain_name(name), ""), name.partition("[")
    return f"At {hook_point.removesuffix(']')}: {text}" if bracket and text else text


def bin_centers() -> list[float]:
    """The middle of each bin of a density histogram, in log10 of the firing rate."""
    width = (HISTOGRAM_HIGH - HISTOGRAM_LOW) / HISTOGRAM_BINS
    return [round(HISTOGRAM_LOW + (i + 0.5) * width, 6) for i in range(HISTOGRAM_BINS)]
