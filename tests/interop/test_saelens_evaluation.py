"""Metrics that are named after SAELens are those of its evaluator, for the same dictionary and tokens."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor

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
    **{name: name for name in ("explained_variance", "l2_ratio", "cossim", "mse", "l0", "l1")},
}
"""The same of reconstructions and codes."""


class Batches:
    """Tokens in batches, as SAELens asks its store for them."""

    def __init__(self, ids: Tensor) -> None:
        self._batches: Iterator[Tensor] = iter(ids.split(BATCH))

    def get_batch_tokens(self, contexts: int) -> Tensor:
        assert contexts == BATCH
        return next(self._batches)


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return folder / "model"


@pytest.fixture(scope="module")
def ids() -> Tensor:
    """Random text; a special token opens each context, and stands within one and at the end of another."""
    ids = torch.randint(1, 250, (CONTEXTS, CONTEXT_SIZE), generator=torch.Generator().manual_seed(0))
    ids[:, 0] = ids[2, 5] = ids[4, -1] = SPECIAL
    return ids


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    """Two latents a dimension, which shrink it by as much as noise says."""
    made = Dictionary(parts("standard_new", 16, 32, normalize_activations="none")[0])
    eye, generator = torch.eye(16), torch.Generator().manual_seed(1)
    with torch.no_grad():
        made.geometry.get_parameter("W_enc").copy_(torch.cat([eye, -eye], dim=1))
        rows = made.geometry.get_parameter("W_dec")
        rows.copy_(0.8 * torch.cat([eye, -eye]) + 0.1 * torch.randn(rows.shape, generator=generator))
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def ours(model_folder: Path, ids: Tensor, dictionary: Dictionary) -> dict[str, float]:
    model = load(resolve(str(model_folder)), backend="huggingface", dtype="float32", device="cpu")
    places = [HookPoint(0, HOOK)]
    hooked = HookedDictionary(dictionary, places, places, [torch.zeros(16)], [1.0])
    text = HeldOutText(ids.numpy(), (ids != SPECIAL).numpy())
    (found,) = score([model], [hooked], text, BATCH, lambda count: None)
    assert isinstance(found, Score)
    return found.metrics


@pytest.fixture(scope="module")
def theirs(
    model_folder: Path, ids: Tensor, dictionary: Dictionary, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    """SAELens' own evaluator over the same tokens, in batches of the same size."""
    from sae_lens import evals
    from sae_lens.training.activation_scaler import ActivationScaler

    model = load(resolve(str(model_folder)), backend="transformerlens", dtype="float32", device="cpu")
    assert isinstance(model, TransformerLensModel)
    sae = saelens(exported(dictionary, tmp_path_factory.mktemp("exported"), hook_name=HOOK))
    bridge: Any = model._bridge
    first, second = (cast(Any, Batches(ids)) for _ in range(2))
    batches = {"eval_batch_size_prompts": BATCH, "n_batches": CONTEXTS // BATCH, "ignore_tokens": [SPECIAL]}
    asked: dict[str, Any] = {"model_kwargs": {}, **batches}
    with torch.no_grad():
        of_model = evals.get_downstream_reconstruction_metrics(
            sae, bridge, first, ActivationScaler(), compute_kl=True, compute_ce_loss=True, **asked
        )
        of_tokens, _ = evals.get_sparsity_and_variance_metrics(
            sae,
            bridge,
            second,
            ActivationScaler(),
            compute_l2_norms=True,
            compute_sparsity_metrics=True,
            compute_variance_metrics=True,
            compute_featurewise_density_statistics=False,
            **asked,
        )
    return of_model | of_tokens


@pytest.mark.parametrize("name", [*MODEL, *OF_TOKENS])
def test_what_is_said_to_be_as_saelens_has_it_is(name: str, ours: dict[str, float], theirs: dict[str, float]) -> None:
    assert ours[name] == pytest.approx(theirs[{**MODEL, **OF_TOKENS}[name]], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    "name", ["ce_loss_score_zero", "ce_zero_ablated", "kl_div", "kl_div_score_zero", "relative_reconstruction_bias"]
)
def test_what_is_not_is_another_number(name: str, ours: dict[str, float]) -> None:
    other = {
        "ce_loss_score_zero": "saelens_ce_loss_score",
        "ce_zero_ablated": "saelens_ce_loss_with_ablation",
        "kl_div": "saelens_kl_div_with_sae",
        "kl_div_score_zero": "saelens_kl_div_score",
        "relative_reconstruction_bias": "saelens_relative_reconstruction_bias",
    }
    assert ours[name] != pytest.approx(ours[other[name]], rel=1e-4)
