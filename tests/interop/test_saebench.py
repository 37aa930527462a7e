"""Core results of SAEBench, against the fields that SAEBench 0.6 has and a computation by hand."""

import json
import math
from typing import Any

import pytest
import torch

from lmsae.errors import ExportError
from lmsae.interop.saebench import Evaluated, core_result, file_name
from tests.interop.peers import LATENTS, fitted

FACTS = Evaluated(
    release="mine",
    row="top",
    uuid="5a1b1c5e-2f0e-5d0c-9a51-0a4be4b1f6a2",
    ended=1_790_000_000_000,
    model="gpt2",
    dtype="float32",
    dataset="text",
    context_size=32,
    contexts=100,
    batch_contexts=16,
    made_by="lmsae 0.1.0",
)
CONFIG: dict[str, Any] = {
    **dict.fromkeys(("model_name", "llm_dtype", "dataset"), str),
    **dict.fromkeys(("batch_size_prompts", "context_size"), int),
    **dict.fromkeys(("n_eval_reconstruction_batches", "n_eval_sparsity_variance_batches"), int),
    **dict.fromkeys(
        (
            *("compute_kl", "compute_ce_loss", "compute_l2_norms", "compute_sparsity_metrics"),
            *("compute_variance_metrics", "compute_featurewise_density_statistics"),
            *("compute_featurewise_weight_based_metrics", "exclude_special_tokens_from_reconstruction", "verbose"),
        ),
        bool,
    ),
}
METRICS: dict[str, dict[str, Any]] = {
    "model_behavior_preservation": dict.fromkeys(("kl_div_score", "kl_div_with_ablation", "kl_div_with_sae"), float),
    "model_performance_preservation": dict.fromkeys(
        ("ce_loss_score", "ce_loss_with_ablation", "ce_loss_with_sae", "ce_loss_without_sae"), float
    ),
    "reconstruction_quality": dict.fromkeys(
        ("explained_variance", "explained_variance_legacy", "mse", "cossim"), float
    ),
    "shrinkage": dict.fromkeys(("l2_norm_in", "l2_norm_out", "l2_ratio", "relative_reconstruction_bias"), float),
    "sparsity": dict.fromkeys(("l0", "l1"), float),
    "token_stats": dict.fromkeys(("total_tokens_eval_reconstruction", "total_tokens_eval_sparsity_variance"), int),
    "misc_metrics": dict.fromkeys(
        (
            *("freq_over_1_percent", "freq_over_10_percent", "frac_alive"),
            *("normalized_freq_over_1_percent", "normalized_freq_over_10_percent"),
            *("average_max_encoder_cosine_sim", "average_max_decoder_cosine_sim"),
        ),
        float,
    ),
}
LATENT: dict[str, Any] = {
    "index": int,
    **dict.fromkeys(("feature_density", "consistent_activation_heuristic", "encoder_bias", "encoder_norm"), float),
    **dict.fromkeys(("encoder_decoder_cosine_sim", "max_decoder_cosine_sim", "max_encoder_cosine_sim"), float),
}
RESULT: dict[str, Any] = {
    **dict.fromkeys(("eval_type_id", "eval_id", "sae_bench_commit_hash", "sae_lens_id", "sae_lens_release_id"), str),
    "datetime_epoch_millis": int,
    "eval_config": dict,
    "eval_result_metrics": dict,
    "eval_result_details": list,
    "sae_lens_version": type(None),
    "sae_cfg_dict": dict,
    "eval_result_unstructured": dict,
}
"""The fields of SAEBench 0.6's core results, each with its type in JSON. All of them must be there, and no other."""


def require_fields(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert found.keys() == wanted.keys()
    for name, kind in wanted.items():
        assert type(found[name]) is kind, name


def require_valid(result: dict[str, Any]) -> None:
    """Fail unless SAEBench 0.6 reads this, by its fields and their types."""
    require_fields(result, RESULT)
    require_fields(result["eval_config"], CONFIG)
    assert 0 <= result["datetime_epoch_millis"] <= 9_999_999_999_999
    assert result["eval_result_metrics"].keys() == METRICS.keys()
    for category, wanted in METRICS.items():
        require_fields(result["eval_result_metrics"][category], wanted)
    for number, latent in enumerate(result["eval_result_details"]):
        require_fields(latent, LATENT)
        assert latent["index"] == number
    assert {"architecture", "d_sae"} <= result["sae_cfg_dict"].keys()  # its plots ask for these


def result_of(architecture: str, metrics: dict[str, float | None] | None = None, **columns: Any) -> dict[str, Any]:
    dictionary = fitted(architecture, **columns)
    n = dictionary.geometry.latents
    density = torch.zeros(n)
    density[:4] = torch.tensor([0.5, 0.1, 0.02, 0.004])
    latents = {"density": density, "firings_per_context": 3 * (density > 0)}
    given: dict[str, float | None] = {"tokens": 3000, "l0": 4.5, "kl_div": 0.25, **(metrics or {})}
    described = {"architecture": architecture, "d_sae": n}
    return json.loads(json.dumps(core_result(FACTS, given, latents, dictionary, described), allow_nan=False))


@pytest.mark.parametrize("architecture", ["topk", "gated", "matching_pursuit", "skip_transcoder", "lorsa", "molt"])
def test_a_result_has_the_fields_that_saebench_asks_for(architecture: str) -> None:
    require_valid(result_of(architecture))


def test_numbers_that_are_none_are_minus_1_as_saebench_writes_them() -> None:
    result = result_of("topk", {"mse": None, "cossim": math.nan})
    reconstruction = result["eval_result_metrics"]["reconstruction_quality"]
    assert reconstruction == dict.fromkeys(METRICS["reconstruction_quality"], -1)
    assert result["eval_result_metrics"]["sparsity"] == {"l0": 4.5, "l1": -1}
    assert result["eval_result_details"][5]["consistent_activation_heuristic"] == -1
    assert result["eval_result_details"][3]["consistent_activation_heuristic"] == 3


def test_what_is_said_of_latents_is_of_raw_activations() -> None:
    dictionary = fitted("topk", normalize_activations="dataset")
    raw: Any = dictionary.fold_normalizers().geometry
    details = result_of("topk", normalize_activations="dataset")["eval_result_details"]
    W_enc, W_dec = raw.W_enc.double(), raw.W_dec.double()
    unit = W_dec / W_dec.norm(dim=1, keepdim=True)
    nearest = (unit @ unit.T).fill_diagonal_(-2).amax(1)
    own = (W_enc.T * W_dec).sum(1) / W_enc.norm(dim=0) / W_dec.norm(dim=1)
    for name, wanted in {
        "encoder_bias": raw.b_enc,
        "encoder_norm": W_enc.norm(dim=0),
        "encoder_decoder_cosine_sim": own,
        "max_decoder_cosine_sim": nearest,
    }.items():
        assert [latent[name] for latent in details] == pytest.approx(wanted.tolist(), rel=1e-5, abs=1e-6)


def test_shares_of_latents_and_of_firings_are_those_of_the_densities() -> None:
    misc = result_of("topk")["eval_result_metrics"]["misc_metrics"]
    total = 0.5 + 0.1 + 0.02 + 0.004
    assert misc["frac_alive"] == pytest.approx(4 / LATENTS)
    assert misc["freq_over_1_percent"] == pytest.approx(3 / LATENTS)
    assert misc["normalized_freq_over_1_percent"] == pytest.approx(0.62 / total)
    assert misc["normalized_freq_over_10_percent"] == pytest.approx((0.5 + 0.1) / total)  # a float32 0.1 is above 0.1


def test_the_text_and_the_file_are_named_as_saebench_names_them() -> None:
    config = result_of("topk")["eval_config"]
    assert (config["n_eval_reconstruction_batches"], config["batch_size_prompts"]) == (7, 16)
    assert file_name("me/mine", "layer_3/top") == "me_mine_layer_3_top_eval_results.json"


def test_dictionaries_of_several_hook_points_are_refused() -> None:
    with pytest.raises(ExportError, match=r"of one hook point, and this clt reads 2 and writes 2\. Its metrics are in"):
        result_of("clt")
