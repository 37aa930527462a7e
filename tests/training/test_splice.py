"""End-to-end losses: the model with a dictionary in it, its divergence and its gradients, against NumPy."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.lm import huggingface
from lmsae.lm.visits import VisitedModel
from lmsae.losses import LOSSES
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.run import Run
from lmsae.training.splice import Splice
from tests.architectures import parts, randomize
from tests.training.runs import train, weights

HOOK_POINTS = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_pre")
WIDTH, CONTEXTS, CONTEXT_SIZE = 16, 3, 6
FEW = 8  # latents, too few to reconstruct everything


@pytest.fixture(scope="module")
def model(pristine: Any) -> VisitedModel:
    return huggingface.load(pristine / "model", "float64", "cpu")


@pytest.fixture(scope="module")
def batch(model: VisitedModel) -> Batch:
    """Whole contexts whose first token, and one in the middle, are not usable."""
    ids = torch.randint(1, model.d_vocab, (CONTEXTS, CONTEXT_SIZE), generator=torch.Generator().manual_seed(0))
    usable = torch.ones_like(ids, dtype=torch.bool)
    usable[:, 0] = False
    usable[1, 3] = False
    return at(model, HOOK_POINTS[:1], Batch(ids, ids, usable, ids))


def at(model: VisitedModel, hook_points: tuple[str, ...], batch: Batch) -> Batch:
    """The batch's contexts with the activations at these hook points."""
    assert batch.ids is not None
    x = torch.cat(list(model.read(batch.ids, hook_points).values()), dim=-1)
    return Batch(x, x, batch.usable, batch.ids)


def dictionary_of(architecture: str = "topk", **columns: Any) -> Dictionary:
    config, _ = parts(architecture, WIDTH, 24, **columns)
    made = randomize(Dictionary(config).double())
    made.read.scale.fill_(0.5)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
    made.write.scale.fill_(0.5)  # pyright: ignore[reportCallIssue,reportAttributeAccessIssue]
    return made


def spliced_logits(model: VisitedModel, batch: Batch, values: Mapping[str, Tensor]) -> np.ndarray:
    assert batch.ids is not None
    return model.logits_with(batch.ids, {name: lambda _, value=value: value for name, value in values.items()}).numpy()


def by_hand(model: VisitedModel, batch: Batch, values: Mapping[str, Tensor]) -> tuple[float, float]:
    """KL(model || spliced) and cross-entropy, a position at a time."""
    assert batch.ids is not None
    assert batch.usable is not None
    clean, spliced = model.logits(batch.ids).numpy(), spliced_logits(model, batch, values)
    divergences, entropies = [], []
    for context in range(CONTEXTS):
        for position in range(CONTEXT_SIZE - 1):
            if not batch.usable[context, position]:
                continue
            p, q = (np.exp(one[context, position]) / np.exp(one[context, position]).sum() for one in (clean, spliced))
            divergences.append((p * np.log(p / q)).sum())
            entropies.append(-np.log(q[batch.ids[context, position + 1]]))
    return float(np.mean(divergences)), float(np.mean(entropies))


def losses_of(splice: Splice, dictionary: Dictionary, batch: Batch) -> tuple[Tensor, Tensor]:
    forward = dictionary.training_pass(*dictionary.normalize(batch.x, batch.target), batch.usable)
    spliced = splice.run(dictionary, batch, forward.reconstruction)
    return spliced.divergence(), spliced.cross_entropy()


def test_divergence_and_cross_entropy_are_those_of_the_formula(model: VisitedModel, batch: Batch) -> None:
    dictionary = dictionary_of().requires_grad_(False)
    kl, ce = losses_of(Splice(model, HOOK_POINTS[:1]), dictionary, batch)
    assert batch.usable is not None
    # Tokens that do not count keep their own activations.
    everywhere = torch.where(batch.usable[..., None], dictionary(batch.x), batch.x)
    wanted = by_hand(model, batch, {HOOK_POINTS[0]: everywhere})
    np.testing.assert_allclose((kl.item(), ce.item()), wanted, rtol=1e-10)
    assert wanted[0] > 0.01


def test_a_reconstruction_at_several_hook_points_takes_their_place_at_once(model: VisitedModel, batch: Batch) -> None:
    names = ("blocks.0.hook_mlp_out", "blocks.1.hook_attn_out")
    dictionary, batch = dictionary_of("crosscoder").requires_grad_(False), at(model, names, batch)
    kl, ce = losses_of(Splice(model, names), dictionary, batch)
    assert batch.usable is not None
    everywhere = torch.where(batch.usable[..., None], dictionary(batch.x), batch.x)
    wanted = by_hand(model, batch, dict(zip(names, everywhere.split(WIDTH, dim=-1), strict=True)))
    np.testing.assert_allclose((kl.item(), ce.item()), wanted, rtol=1e-10)


def whole_contexts(model: VisitedModel, batch: Batch, read: str, write: str) -> Batch:
    """The batch's contexts with the activations at a hook point, and as targets those at another."""
    assert batch.ids is not None
    seen = model.read(batch.ids, (read, write))
    return Batch(seen[read], seen[write], batch.usable, batch.ids)


@pytest.mark.parametrize("normalization", ["dataset", "layer_norm"])
@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_what_a_transcoder_writes_takes_the_place_of_the_hook_point_written(
    model: VisitedModel, batch: Batch, architecture: str, normalization: str
) -> None:
    read, write = "blocks.0.ln2.hook_normalized", "blocks.0.hook_mlp_out"
    coefficients = {"e2e_kl_coefficient": 3.0, "e2e_ce_coefficient": 7.0, "normalize_activations": normalization}
    columns = {"losses": ("e2e_kl", "e2e_ce"), "act_fn": "topk", "k": 2, **coefficients}
    config, objective = parts(architecture, WIDTH, 24, **columns)
    assert objective.needs_model
    dictionary: Any = randomize(Dictionary(config).double())
    dictionary.write.set([0.25])
    if normalization == "dataset":
        dictionary.read.set([0.5])
    batch = whole_contexts(model, batch, read, write)
    assert batch.usable is not None
    everywhere = torch.where(batch.usable[..., None], dictionary(batch.x).detach(), batch.target)
    kl, ce = by_hand(model, batch, {write: everywhere})
    run = Run(dictionary, objective, TrainConfig(tokens=14, batch_size=14), architecture, splice=Splice(model, [write]))
    run.step(batch)
    found = [run.curves[0][f"{loss}_loss"] for loss in ("e2e_kl", "e2e_ce")]
    np.testing.assert_allclose(found, [3 * kl, 7 * ce], rtol=1e-10)
    assert kl > 0.01


@pytest.mark.parametrize("normalization", ["dataset", "layer_norm", "whiten"])
def test_a_perfect_reconstruction_leaves_no_divergence(model: VisitedModel, batch: Batch, normalization: str) -> None:
    config, _ = parts("topk", WIDTH, 24, normalize_activations=normalization)
    dictionary, splice = Dictionary(config).double(), Splice(model, HOOK_POINTS[:1])
    spliced = splice.run(dictionary, batch, dictionary.read(batch.x)[batch.usable])
    assert spliced.divergence().item() == pytest.approx(0, abs=1e-14)
    assert batch.ids is not None
    _, ce = by_hand(model, batch, {})
    assert spliced.cross_entropy().item() == pytest.approx(ce, rel=1e-10)


@pytest.mark.parametrize("which", [0, 1])
@pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_dec"])
def test_gradients_are_those_of_finite_differences(model: VisitedModel, batch: Batch, name: str, which: int) -> None:
    dictionary = dictionary_of("standard_new")
    splice, weight = Splice(model, HOOK_POINTS[:1]), dictionary.geometry.get_parameter(name)
    (gradient,) = torch.autograd.grad(losses_of(splice, dictionary, batch)[which], weight)
    direction = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1), dtype=weight.dtype)
    ends = []
    with torch.no_grad():
        for step in (1e-6, -2e-6):
            weight.add_(step * direction)
            ends.append(losses_of(splice, dictionary, batch)[which].item())
    assert (gradient * direction).sum().item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-5)
    assert gradient.abs().max() > 1e-6


def test_the_model_itself_gets_no_gradients(model: VisitedModel, batch: Batch) -> None:
    kl, _ = losses_of(Splice(model, HOOK_POINTS[:1]), dictionary_of(), batch)
    kl.backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in model.weights.values())


def run_of(model: VisitedModel, losses: tuple[str, ...], **columns: Any) -> Run:
    values: dict[str, Any] = {f"{loss}_coefficient": 1000.0 for loss in losses if loss.startswith("e2e")}
    config, objective = parts("topk", WIDTH, FEW, losses=losses, k=2, **values)
    dictionary = Dictionary(config).double()
    with torch.no_grad():
        directions = torch.randn(FEW, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
        directions /= directions.norm(dim=1, keepdim=True)
        dictionary.geometry.get_parameter("W_dec").copy_(directions)
        dictionary.geometry.get_parameter("W_enc").copy_(directions.T)
    training = TrainConfig(**{"tokens": 60 * 15, "batch_size": 15, "lr": 0.01, "lr_warm_up_steps": 0} | columns)
    splice = Splice(model, HOOK_POINTS[:1]) if objective.needs_model else None
    return Run(dictionary, objective, training, "+".join(losses), splice=splice)


def final_kl(model: VisitedModel, run: Run, batch: Batch) -> float:
    return losses_of(Splice(model, HOOK_POINTS[:1]), run.dictionary, batch)[0].item()


def test_end_to_end_training_lowers_the_divergence_more_than_plain_training(model: VisitedModel, batch: Batch) -> None:
    plain, with_kl, with_ce = (run_of(model, losses) for losses in ((), ("e2e_kl",), ("e2e_ce",)))
    before = final_kl(model, with_kl, batch)
    train([plain, with_kl, with_ce], [batch])
    assert final_kl(model, with_kl, batch) < 0.5 * final_kl(model, plain, batch) < 0.5 * before
    last = with_kl.curves[-1]
    assert last["loss"] == pytest.approx(last["reconstruction_loss"] + last["e2e_kl_loss"])
    assert with_ce.curves[-1]["e2e_ce_loss"] < plain_ce(model, plain, batch)


def plain_ce(model: VisitedModel, run: Run, batch: Batch) -> float:
    return 1000 * losses_of(Splice(model, HOOK_POINTS[:1]), run.dictionary, batch)[1].item()


def test_company_changes_nothing(model: VisitedModel, batch: Batch) -> None:
    other = Batch(batch.x + 1, batch.target + 1, batch.usable, None if batch.ids is None else batch.ids.flip(0))
    alone, together = (
        [run_of(model, losses, tokens=12 * 15) for losses in (("e2e_kl",), ("e2e_kl", "e2e_ce"), ())] for _ in range(2)
    )
    shared = Splice(model, HOOK_POINTS[:1])
    for run in together[:2]:
        run.splice = shared
    for run in alone:
        train([run], [batch, other])
    train(together, [batch, other])
    for one, same in zip(alone, together, strict=True):
        assert all(torch.equal(value, weights(same)[name]) for name, value in weights(one).items())
        assert one.curves == same.curves


def test_a_batch_in_parts_teaches_what_the_whole_does(model: VisitedModel, batch: Batch) -> None:
    whole, in_parts = run_of(model, ("e2e_kl",)), run_of(model, ("e2e_kl",), gradient_accumulation=CONTEXTS)
    assert batch.usable is not None
    # Parts weigh as many tokens as they hold, so equal ones make the whole.
    even = Batch(batch.x, batch.target, batch.usable & (torch.arange(CONTEXT_SIZE) != 3), batch.ids)
    for run in (whole, in_parts):
        run.step(even)
    for name, value in whole.dictionary.named_parameters():
        torch.testing.assert_close(value, in_parts.dictionary.get_parameter(name), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("loss", ["e2e_kl", "e2e_ce"])
def test_uneven_parts_have_means_over_their_own_predictions_and_weigh_as_many_tokens_as_they_hold(
    model: VisitedModel, batch: Batch, loss: str
) -> None:
    run = run_of(model, (loss,), gradient_accumulation=CONTEXTS)
    parts = list(batch.split(CONTEXTS))
    assert [part.tokens for part in parts] == [5, 4, 5]
    which = ("e2e_kl", "e2e_ce").index(loss)
    means = [losses_of(Splice(model, HOOK_POINTS[:1]), run.dictionary, part)[which].item() for part in parts]
    run.step(batch)
    assert run.curves[0][f"{loss}_loss"] == pytest.approx(1000 * np.average(means, weights=[5, 4, 5]), rel=1e-6)


def test_contexts_without_a_prediction_weigh_nothing(model: VisitedModel, batch: Batch) -> None:
    assert batch.usable is not None
    last = Batch(batch.x, batch.target, torch.zeros_like(batch.usable), batch.ids)
    assert last.usable is not None
    last.usable[:, -1] = True
    kl, ce = losses_of(Splice(model, HOOK_POINTS[:1]), dictionary_of(), last)
    assert (kl.item(), ce.item()) == (0, 0)


def test_losses_that_need_the_model_say_so() -> None:
    assert {kind for kind, loss in LOSSES.items() if loss.needs_model} == {"e2e_kl", "e2e_ce"}
    _, objective = parts("topk", WIDTH, 24, losses=("aux_k", "e2e_kl"), e2e_kl_coefficient=1.0)
    assert objective.needs_model
