"""Core results of SAEBench 0.6, written: what an evaluation measured of a dictionary, under SAEBench's names.

One JSON a dictionary, which its plots and its web page read. All numbers are those of our evaluation, over its text and
tokens; of the names that SAEBench shares with SAELens they are what SAELens' own evaluator gives (docs/metrics.md).
SAEBench 0.6 itself computes two of them otherwise: `mse`, divided once more by the tokens of a batch, and
`explained_variance`, of a variance that depends on the scale of activations.

A number that was not measured, or is none, is -1, as SAEBench itself writes it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lmsae.config import JsonObject
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ExportError
from lmsae.metrics.cosines import nearest_cosines, own_cosines

NONE = -1.0
CATEGORIES = {
    "model_behavior_preservation": {
        "kl_div_score": "saelens_kl_div_score",
        "kl_div_with_ablation": "saelens_kl_div_with_ablation",
        "kl_div_with_sae": "saelens_kl_div_with_sae",
    },
    "model_performance_preservation": {
        "ce_loss_score": "saelens_ce_loss_score",
        "ce_loss_with_ablation": "saelens_ce_loss_with_ablation",
        "ce_loss_with_sae": "ce_spliced",
        "ce_loss_without_sae": "ce_clean",
    },
    "reconstruction_quality": {
        "explained_variance": "explained_variance",
        "explained_variance_legacy": "saelens_explained_variance_legacy",
        "mse": "mse",
        "cossim": "cossim",
    },
    "shrinkage": {
        "l2_norm_in": "l2_norm_in",
        "l2_norm_out": "l2_norm_out",
        "l2_ratio": "l2_ratio",
        "relative_reconstruction_bias": "saelens_relative_reconstruction_bias",
    },
    "sparsity": {"l0": "l0", "l1": "l1"},
}
"""SAEBench's categories of metrics, and our name of each."""
OF_WEIGHTS = (
    "encoder_bias",
    "encoder_norm",
    "encoder_decoder_cosine_sim",
    "max_decoder_cosine_sim",
    "max_encoder_cosine_sim",
)
"""The names of what SAEBench says of each latent's weights."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """The facts of an evaluation: its names for people, when it ended (milliseconds since 1970), and on what."""

    release: str
    row: str
    uuid: str
    ended: int
    model: str
    dtype: str
    dataset: str
    context_size: int
    contexts: int
    batch_contexts: int
    made_by: str


def obstacle(config: DictionaryConfig) -> str | None:
    """The reason why SAEBench has no such dictionaries, or None."""
    reads, writes = config.widths.reads, config.widths.writes
    if len(reads) == len(writes) == 1:
        return None
    return (
        f"SAEBench scores dictionaries of one hook point, and this {config.geometry.kind} reads {len(reads)} and "
        f"writes {len(writes)}. Its metrics are in results/table.csv and in metrics.json of its eval artifact."
    )


def core_result(
    facts: Evaluated,
    metrics: Mapping[str, float | None],
    latents: Mapping[str, Tensor],
    dictionary: Dictionary,
    described: JsonObject,
) -> JsonObject:
    """A core result. `metrics` and `latents` are those of the evaluation, `described` is its `sae_cfg_dict`.

    Raises ExportError if SAEBench has no such dictionaries.
    """
    if reason := obstacle(dictionary.config):
        raise ExportError(reason)
    of_latents = {"feature_density": latents["density"], "consistent_activation_heuristic": _consistency(latents)}
    of_latents |= _of_weights(dictionary)
    found = {
        category: {theirs: _number(metrics.get(ours)) for theirs, ours in names.items()}
        for category, names in CATEGORIES.items()
    }
    tokens = int(metrics["tokens"] or 0)
    return {
        "eval_type_id": "core",
        "eval_config": _config(facts),
        "eval_id": facts.uuid,
        "datetime_epoch_millis": facts.ended,
        "eval_result_metrics": {
            **found,
            "token_stats": {"total_tokens_eval_reconstruction": tokens, "total_tokens_eval_sparsity_variance": tokens},
            "misc_metrics": _summarize(of_latents),
        },
        "eval_result_details": _details(of_latents),
        "sae_bench_commit_hash": facts.made_by,
        "sae_lens_id": facts.row,
        "sae_lens_release_id": facts.release,
        "sae_lens_version": None,
        "sae_cfg_dict": described,
        "eval_result_unstructured": {},
    }


def file_name(release: str, row: str) -> str:
    """The name of a result's file, as SAEBench makes it."""
    return f"{release}_{row}_eval_results.json".replace("/", "_")


def _config(facts: Evaluated) -> JsonObject:
    batches = math.ceil(facts.contexts / facts.batch_contexts)
    computed = ("kl", "ce_loss", "l2_norms", "sparsity_metrics", "variance_metrics")
    computed += ("featurewise_density_statistics", "featurewise_weight_based_metrics")
    return {
        "model_name": facts.model,
        "llm_dtype": facts.dtype,
        "batch_size_prompts": facts.batch_contexts,
        "n_eval_reconstruction_batches": batches,
        "n_eval_sparsity_variance_batches": batches,
        "dataset": facts.dataset,
        "context_size": facts.context_size,
        **{f"compute_{name}": True for name in computed},
        "exclude_special_tokens_from_reconstruction": True,
        "verbose": False,
    }


def _consistency(latents: Mapping[str, Tensor]) -> Tensor:
    """Mean firings in the contexts where a latent fires. One that never fires has none, and so has one that an earlier
    lmsae has evaluated."""
    firings = latents.get("firings_per_context", torch.zeros_like(latents["density"]))
    return firings.where(firings > 0, math.nan)


@torch.no_grad()
def _of_weights(dictionary: Dictionary) -> dict[str, Tensor]:
    """Norms, biases and cosines of each latent, in raw activations. Latents without one encoder column and one
    decoder row have none, nor have those whose scales cannot be folded in."""
    try:
        raw = dictionary.fold_normalizers()
    except ExportError:
        return {}
    geometry = raw.geometry
    encoder, decoder = (getattr(geometry, name, None) for name in ("encoder", "W_dec"))
    if not isinstance(encoder, Tensor) or not isinstance(decoder, Tensor):
        return {}
    biases = [getattr(raw.sparsity, "b_mag", None), geometry.b_enc]
    found = {
        "encoder_bias": next((bias for bias in biases if isinstance(bias, Tensor)), encoder.new_zeros(len(decoder))),
        "encoder_norm": encoder.norm(dim=0),
    }
    if encoder.shape[0] == decoder.shape[1]:
        found["encoder_decoder_cosine_sim"] = own_cosines(encoder, decoder)
    if len(decoder) > 1:
        found["max_decoder_cosine_sim"] = nearest_cosines(decoder)
        found["max_encoder_cosine_sim"] = nearest_cosines(encoder.T)
    return found


def _summarize(of_latents: Mapping[str, Tensor]) -> dict[str, float]:
    density = of_latents["feature_density"].double()
    total = density.sum().item()
    found = {"frac_alive": (density > 0).double().mean().item()}
    for percent in (1, 10):
        often = density > percent / 100
        found[f"freq_over_{percent}_percent"] = often.double().mean().item()
        share = density[often].sum().item() / total if total else 0.0
        found[f"normalized_freq_over_{percent}_percent"] = share
    for side in ("encoder", "decoder"):
        cosines = of_latents.get(f"max_{side}_cosine_sim")
        found[f"average_max_{side}_cosine_sim"] = NONE if cosines is None else cosines.double().mean().item()
    return found


def _details(of_latents: Mapping[str, Tensor]) -> Sequence[JsonObject]:
    """One object a latent."""
    count = len(of_latents["feature_density"])
    names = ("feature_density", "consistent_activation_heuristic", *OF_WEIGHTS)
    columns = [
        [_number(value) for value in of_latents[name].tolist()] if name in of_latents else [NONE] * count
        for name in names
    ]
    rows = zip(*columns, strict=True)
    return [{"index": index, **dict(zip(names, row, strict=True))} for index, row in enumerate(rows)]


def _number(value: float | None) -> float:
    return NONE if value is None or not math.isfinite(value) else value
