"""Metrics that are named after SAELens are those of its evaluator, for the same dictionary and tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from lmsae.dictionary.as_jumprelu import convert_to_jumprelu
from lmsae.dictionary.dictionary import Dictionary
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.scores import Score
from lmsae.evaluation.scoring import HeldOutText, score
from lmsae.lm import load, resolve
from lmsae.lm.transformerlens import TransformerLensModel
from tests.architectures import parts
from tests.interop.peers import exported, saelens
from tests.miniature import write_model

HOOK, CONTEXTS, CONTEXT_SIZE, BATCH, SPECIAL = "blocks.0.hook_resid_post", 10, 12, 2, 0
MODEL = {
    "ce_clean": "ce_loss_without_sae",
    "ce_spliced": "ce_loss_with_sae",
    "saelens_ce_loss_with_ablation": "ce_loss_with_ablation",
    "saelens_ce_loss_score": "ce_loss_score",
    "saelens_kl_div_with_sae": "kl_div_with_sae",
    "saelens_kl_div_with_ablation": "kl_div_with_ablation",
    "saelens_kl_div_score": "kl_div_score",
}
"""Our names of what SAELens measures of the spliced model, and its own."""
OF_TOKENS = {
    "saelens_relative_reconstruction_bias": "relative_reconstruction_bias",
    "saelens_explained_variance_legacy": "explained_variance_legacy",
    **{
        name: name
        for name in ("explained_variance", "l2_norm_in", "l2_norm_out", "l2_ratio", "cossim", "mse", "l0", "l1")
    },
}
"""The same of reconstructions and codes."""


class Batches:
    """Tokens in batches, as SAELens' evaluator asks its store for them."""

    store_batch_size_prompts, context_size = BATCH, CONTEXT_SIZE

    def __init__(self, ids: Tensor) -> None:
        self._ids = ids
        self.reset_input_dataset()

    def reset_input_dataset(self) -> None:
        self._batches: Iterator[Tensor] = iter(self._ids.split(BATCH))

    def get_batch_tokens(self, contexts: int) -> Tensor:
        assert contexts == BATCH
        return next(self._batches)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder / "model"


def text(*, has_special: bool) -> Tensor:
    """Random text; a special token opens each context, and stands within one and at the end of another, or none is."""
    ids = torch.randint(1, 250, (CONTEXTS, CONTEXT_SIZE), generator=torch.Generator().manual_seed(0))
    if has_special:
        ids[:, 0] = ids[2, 5] = ids[4, -1] = SPECIAL
    return ids


def dictionary(architecture: str) -> Dictionary:
    """Two latents a dimension, which shrink it by as much as noise says; topk keeps 6 of them, and batchtopk, whose
    activations are scaled, those above a threshold."""
    columns = {"k": 6, "normalize_activations": "dataset" if architecture == "batchtopk" else "none"}
    made: Any = Dictionary(parts(architecture, 16, 32, **columns)[0])
    eye, generator = torch.eye(16), torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.geometry.W_enc.copy_(torch.cat([eye, -eye], dim=1))
        rows = made.geometry.W_dec
        rows.copy_(0.8 * torch.cat([eye, -eye]) + 0.1 * torch.randn(rows.shape, generator=generator))
    if architecture == "batchtopk":
        made.read.set([2.0])
        made.write.set([2.0])
        made.sparsity.threshold_sum.fill_(0.9)
        made.sparsity.threshold_weight.fill_(1.0)
        made = convert_to_jumprelu(made)
    return made.eval().requires_grad_(False)


def measure(ids: Tensor, one: Dictionary, model_folder: Path) -> dict[str, float]:
    """What we measure."""
    model = load(resolve(str(model_folder)), backend="huggingface", dtype="float32", device="cpu")
    places = [HookPoint(0, HOOK)]
    hooked = HookedDictionary(one, places, places, [torch.zeros(16)], [1.0])
    held_out = HeldOutText(ids.numpy(), (ids != SPECIAL).numpy())
    (found,) = score([model], [hooked], held_out, BATCH, lambda count: None)
    assert isinstance(found, Score)
    return found.metrics


def measure_there(ids: Tensor, one: Dictionary, model_folder: Path, folder: Path) -> dict[str, float]:
    """What SAELens' own evaluator says of the exported dictionary over the same tokens, in batches of the same size."""
    from sae_lens import evals
    from sae_lens.training.activation_scaler import ActivationScaler

    model = load(resolve(str(model_folder)), backend="transformerlens", dtype="float32", device="cpu")
    assert isinstance(model, TransformerLensModel)
    asked = evals.EvalConfig(
        batch_size_prompts=BATCH,
        n_eval_reconstruction_batches=CONTEXTS // BATCH,
        n_eval_sparsity_variance_batches=CONTEXTS // BATCH,
        compute_kl=True,
        compute_ce_loss=True,
        compute_l2_norms=True,
        compute_sparsity_metrics=True,
        compute_variance_metrics=True,
    )
    sae, store = saelens(exported(one, folder, hook_name=HOOK)), cast(Any, Batches(ids))
    with torch.no_grad():
        found, _ = evals.run_evals(
            sae, store, cast(Any, model._bridge), ActivationScaler(), asked, exclude_special_tokens=[SPECIAL]
        )
    return {name: value for group in found.values() for name, value in group.items()}


@pytest.fixture(scope="module", params=["topk", "batchtopk", "standard"])
def both(
    request: pytest.FixtureRequest, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, float], dict[str, float]]:
    """Our numbers and theirs of one dictionary, where some tokens are special."""
    ids, one, folder = text(has_special=True), dictionary(request.param), tmp_path_factory.mktemp("exported")
    return measure(ids, one, model_folder), measure_there(ids, one, model_folder, folder)


@pytest.mark.parametrize("name", [*MODEL, *OF_TOKENS])
def test_what_is_said_to_be_as_saelens_has_it_is(name: str, both: tuple[dict[str, float], dict[str, float]]) -> None:
    ours, theirs = both
    assert ours[name] == pytest.approx(theirs[{**MODEL, **OF_TOKENS}[name]], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ce_loss_score_zero", "ce_loss_score"),
        ("ce_zero_ablated", "ce_loss_with_ablation"),
        ("kl_div", "kl_div_with_sae"),
        ("kl_div_score_zero", "kl_div_score"),
        ("relative_reconstruction_bias", "relative_reconstruction_bias"),
        ("explained_variance_legacy", "explained_variance_legacy"),
    ],
)
def test_what_is_not_is_another_number(name: str, other: str, both: tuple[dict[str, float], dict[str, float]]) -> None:
    ours, theirs = both
    assert ours[name] != pytest.approx(theirs[other], rel=1e-4)


def test_without_special_tokens_the_score_of_the_loss_under_zero_ablation_is_theirs_too(
    model_folder: Path, tmp_path: Path
) -> None:
    """And the one of KL, which counts last positions there, is still another number."""
    ids, one = text(has_special=False), dictionary("topk")
    ours, theirs = measure(ids, one, model_folder), measure_there(ids, one, model_folder, tmp_path)
    assert ours["ce_loss_score_zero"] == pytest.approx(theirs["ce_loss_score"], rel=1e-4)
    assert ours["saelens_kl_div_score"] == pytest.approx(theirs["kl_div_score"], rel=1e-4)
    assert ours["kl_div_score_zero"] != pytest.approx(theirs["kl_div_score"], rel=1e-4)
