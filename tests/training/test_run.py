"""A run: what a step does to weights and counters, what it records, and when it gives up."""

import copy
import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae.errors import TrainingError
from lmsae.geometry.codes import DenseCodes
from lmsae.kernels import entries
from lmsae.losses import AuxK, Forward, TrainingStep, reconstruction_loss
from lmsae.planning.catalog import CATALOG
from lmsae.training import curves
from lmsae.training.batch import Batch
from lmsae.training.run import Run
from tests.training.runs import learn, saved, weights

BATCH = 32
every_architecture = pytest.mark.parametrize("name", CATALOG)


SLOW_LEARNERS = ("lorsa", "molt", "matching_pursuit")


@every_architecture
def test_a_dictionary_learns(name: str, make_run: Any, batches_for: Any) -> None:
    run = learn(make_run(name, 200 if name in SLOW_LEARNERS else 100, lr=1e-2), batches_for(name))
    first, last = run.curves[0], run.curves[-1]
    assert 1 - last["explained_variance"] < 0.5 * (1 - first["explained_variance"])
    assert last["explained_variance"] > 0.5


@every_architecture
def test_the_same_start_gives_the_same_bytes(name: str, make_run: Any, batches_for: Any, tmp_path: Path) -> None:
    first, second = (saved(learn(make_run(name, 12), batches_for(name)), tmp_path / folder) for folder in ("a", "b"))
    assert first == second


class Listener:
    """A log that keeps what it hears."""

    def __init__(self) -> None:
        self.points: list[Any] = []
        self.is_finished = False

    def __call__(self, point: Any) -> None:
        self.points.append(point)

    def finish(self) -> None:
        self.is_finished = True


@every_architecture
def test_logging_changes_nothing(name: str, make_run: Any, batches_for: Any) -> None:
    listener, batches = Listener(), batches_for(name)
    quiet, loud = learn(make_run(name, 12), batches), learn(make_run(name, 12, log=listener), batches)
    expected = weights(quiet)
    assert all(torch.equal(value, expected[key]) for key, value in weights(loud).items())
    loud.close()
    assert listener.points == quiet.curves
    assert listener.is_finished


@every_architecture
def test_how_often_curves_are_recorded_changes_nothing(
    name: str, make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = learn(make_run(name, 12), batches_for(name))
    monkeypatch.setattr("lmsae.training.curves.POINTS", 2)
    seldom = learn(make_run(name, 12), batches_for(name))
    assert len(seldom.curves) < len(often.curves)
    expected = weights(often)
    assert all(torch.equal(value, expected[key]) for key, value in weights(seldom).items())


@every_architecture
def test_a_step_leaves_its_batch_alone(name: str, make_run: Any, batches_for: Any) -> None:
    batch = batches_for(name)[0]
    before = copy.deepcopy(batch)
    make_run(name, 2).step(batch)
    assert torch.equal(batch.x, before.x)
    assert torch.equal(batch.target, before.target)


def test_decoder_rows_under_the_constraint_have_norm_1_after_every_step(make_run: Any, batches_for: Any) -> None:
    run = make_run("standard", 10, lr=0.1)
    for batch in batches_for("standard")[:10]:
        run.step(batch)
        norms = run.dictionary.geometry.norms()
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


def test_decoder_rows_without_the_constraint_are_free(make_run: Any, batches_for: Any) -> None:
    run = learn(make_run("standard_new", 10, lr=0.1), batches_for("standard_new"))
    assert (run.dictionary.geometry.norms() - 1).abs().max() > 0.05


def gradients_at_next_step(run: Run, batch: Batch) -> dict[str, Tensor]:
    """The gradients that the optimizer is given."""
    seen: dict[str, Tensor] = {}

    def look(*_: Any) -> None:
        for name, parameter in run.dictionary.named_parameters():
            if parameter.grad is not None:
                seen[name] = parameter.grad.clone()

    run.optimizers[0].register_step_pre_hook(look)
    run.step(batch)
    return seen


def test_the_constraint_removes_the_gradient_along_rows(make_run: Any, batches_for: Any) -> None:
    run = make_run("standard", 10)
    rows = run.dictionary.geometry.W_dec.detach().clone()
    grad = gradients_at_next_step(run, batches_for("standard")[0])["geometry.W_dec"]
    assert (grad * rows).sum(1).abs().max() < 1e-5 * grad.norm(dim=1).max()
    assert grad.norm() > 0


@every_architecture
def test_gradients_are_clipped_by_one_global_l2_norm(name: str, make_run: Any, batches_for: Any) -> None:
    batch = batches_for(name)[0]
    whole = gradients_at_next_step(make_run(name, 10, grad_clip=0), batch)
    clipped = gradients_at_next_step(make_run(name, 10, grad_clip=0.25), batch)
    norm = math.sqrt(sum(grad.double().pow(2).sum().item() for grad in whole.values()))
    assert norm > 0.25
    for key, grad in clipped.items():
        torch.testing.assert_close(grad, whole[key] * (0.25 / norm), rtol=1e-4, atol=1e-7)


def test_a_gradient_below_the_clip_is_let_be(make_run: Any, batches_for: Any) -> None:
    batch = batches_for("topk")[0]
    whole = gradients_at_next_step(make_run("topk", 10, grad_clip=0), batch)
    clipped = gradients_at_next_step(make_run("topk", 10, grad_clip=1e6), batch)
    assert all(torch.equal(grad, whole[key]) for key, grad in clipped.items())


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("name", ["topk", "batchtopk", "jumprelu", "clt", "lorsa"])
def test_the_counter_counts_tokens_since_each_latent_fired(
    name: str, parts: int, make_run: Any, batches_for: Any
) -> None:
    columns = {"jumprelu_init_threshold": 5.0} if CATALOG[name].act_fn == "jumprelu" else {"k": 1}
    run = make_run(name, 20, lr=1e-2, gradient_accumulation=parts, columns=columns)
    expected = torch.zeros(run.dictionary.geometry.latents, dtype=torch.int64)
    for batch in batches_for(name)[:20]:
        fired = torch.zeros(len(expected), dtype=torch.bool)
        for part in batch.split(parts):
            forward = run.dictionary.training_pass(*run.dictionary.normalize(part.x, part.target), part.usable)
            fired |= (forward.codes.values != 0).any(0)
        expected = torch.where(fired, 0, expected + batch.tokens)
        run.step(batch)
        assert torch.equal(run.since_fired, expected)
    assert 0 < (expected > 0).sum() < len(expected)


@pytest.mark.parametrize(("batch_size", "threshold"), [(16, 64), (32, 64), (32, 65)])
def test_dead_means_so_many_tokens_and_not_so_many_steps(
    batch_size: int, threshold: int, make_run: Any, batches_for: Any
) -> None:
    run = make_run("standard_new", 10, lr=1e-6, batch_size=batch_size, dead_threshold=threshold)
    with torch.no_grad():
        run.dictionary.geometry.b_enc.fill_(100.0)
        run.dictionary.geometry.b_enc[:3] = -1e6
    learn(run, batches_for("standard_new", batch_size))
    seen = [step * batch_size for step in range(10)]
    assert [point["dead"] for point in run.curves] == [3 if tokens >= threshold else 0 for tokens in seen]


def test_losses_are_told_that_all_latents_live_while_none_can_be_dead(
    make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[TrainingStep] = []
    compute = AuxK.__call__

    def spy(loss: AuxK, geometry: Any, sparsity: Any, forward: Forward, training: TrainingStep) -> Tensor:
        told.append(training)
        return compute(loss, geometry, sparsity, forward, training)

    monkeypatch.setattr(AuxK, "__call__", spy)
    run = make_run("topk", 6, batch_size=16, dead_threshold=48)
    with torch.no_grad():
        run.dictionary.geometry.b_enc[:3] = -1e6
    learn(run, batches_for("topk", 16))
    assert [training.all_alive for training in told] == 3 * [True] + 3 * [False]
    assert [bool(training.dead.any()) for training in told] == 3 * [False] + 3 * [True]


def test_statistics_are_observed_once_a_step(make_run: Any, batches_for: Any) -> None:
    run = learn(make_run("batchtopk", 7), batches_for("batchtopk"))
    assert run.dictionary.sparsity.get_buffer("threshold_weight").item() == pytest.approx(1 - 0.99**7, rel=1e-6)
    assert run.dictionary.sparsity.get_buffer("threshold_sum").item() > 0


SCHEDULES: list[dict[str, Any]] = [
    {"lr_warm_up_steps": 4, "lr_cool_down_steps": 0.25},
    {"lr_warm_up_steps": 0, "lr_cool_down_steps": 0},
    {"lr_warm_up_steps": 0, "lr_schedule": "constant"},
    {"lr_warm_up_steps": 0.1, "lr_schedule": "cosine"},
    {"lr_warm_up_steps": 2, "lr_schedule": "exponential", "lr_end_ratio": 0.01},
]
FACTORS = [
    [0.25, 0.5, 0.75, *[1] * 11, *(1 - n / 6 for n in range(6))],
    [1.0] * 20,
    [1.0] * 20,
    [0.5, 1, *((1 + math.cos(math.pi * n / 19)) / 2 for n in range(1, 19))],
    [0.5, 1, *(0.01 ** (n / 19) for n in range(1, 19))],
]


@pytest.mark.parametrize(("settings", "factors"), list(zip(SCHEDULES, FACTORS, strict=True)))
def test_the_learning_rate_follows_its_schedule(
    settings: dict[str, Any], factors: list[float], make_run: Any, batches_for: Any
) -> None:
    run = make_run("topk", 20, lr=1e-3, **settings)
    given: list[float] = []
    run.optimizers[0].register_step_pre_hook(lambda optimizer, *_: given.append(optimizer.param_groups[0]["lr"]))
    learn(run, batches_for("topk"))
    assert given == pytest.approx([1e-3 * factor for factor in factors])
    assert [point["lr"] for point in run.curves] == given


def test_an_automatic_learning_rate_depends_on_the_latents(make_run: Any, batches_for: Any) -> None:
    run = learn(make_run("topk", 2, lr="auto", lr_warm_up_steps=0), batches_for("topk"))
    assert run.curves[0]["lr"] == pytest.approx(2e-4 / math.sqrt(32 / 2**14))
    assert make_run("clt", 2, lr="auto").lr == pytest.approx(2e-4 / math.sqrt(64 / 2**14))


def test_a_penalty_warms_up_from_nothing(make_run: Any, batches_for: Any) -> None:
    run = make_run("standard_new", 20, lr=1e-8, sparsity_warm_up_steps=4)
    penalties = [point["l1_loss"] for point in learn(run, batches_for("standard_new")[:1]).curves]
    assert penalties[:5] == pytest.approx([penalties[5] * share for share in (0, 0.25, 0.5, 0.75, 1)], rel=1e-4)


@pytest.mark.parametrize("name", [name for name, entry in CATALOG.items() if "topk" in entry.act_fn])
def test_k_follows_its_schedule_and_ends_as_that_of_the_dictionary(
    name: str, make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(name, 20, lr=1e-4, initial_k=20, k_cold_boot_steps=3, k_warm_up_steps=8, grad_clip=0)
    ks, observe = [], run.dictionary.observe

    def observe_k(forward: Forward) -> None:
        ks.append(forward.k)
        observe(forward)

    monkeypatch.setattr(run.dictionary, "observe", observe_k)
    learn(run, batches_for(name))
    assert ks == [20, 20, 20, *range(20, 4, -2), *[4] * 9]
    assert run.dictionary.sparsity.k == 4
    assert run.curves[0]["l0"] > 1.5 * run.curves[-1]["l0"]


@every_architecture
def test_bfloat16_products_train_float32_weights(name: str, make_run: Any, batches_for: Any) -> None:
    run = learn(make_run(name, 60, lr=1e-2, precision="bfloat16"), batches_for(name))
    plain = learn(make_run(name, 60, lr=1e-2), batches_for(name))
    assert all(parameter.dtype == torch.float32 for parameter in run.dictionary.parameters())
    assert not all(torch.equal(weights(run)[key], value) for key, value in weights(plain).items())
    assert run.curves[-1]["explained_variance"] > plain.curves[-1]["explained_variance"] - 0.1


@every_architecture
def test_curves_record_what_the_step_computed(name: str, make_run: Any, batches_for: Any, tmp_path: Path) -> None:
    run = make_run(name, 5)
    before = copy.deepcopy(run.dictionary)
    batch = batches_for(name)[0]
    run.step(batch)
    forward = before.training_pass(*before.normalize(batch.x, batch.target), batch.usable)
    target, error = forward.target.double(), (forward.reconstruction - forward.target).double()
    point = run.curves[0]
    explained = 1 - error.pow(2).sum() / (target - target.mean(0)).pow(2).sum()
    assert point["explained_variance"] == pytest.approx(explained.item(), rel=1e-4)
    assert point["l0"] == pytest.approx((forward.codes.values != 0).sum().item() / batch.tokens)
    assert (point["step"], point["tokens"]) == (0, BATCH)
    assert point["loss"] == pytest.approx(sum(value for key, value in point.items() if key.endswith("_loss")))
    replaced = any(loss.replaces_reconstruction for loss in run.objective.losses)
    assert ("reconstruction_loss" in point) == (not replaced)
    if not replaced:
        assert point["reconstruction_loss"] == pytest.approx(error.pow(2).sum(1).mean().item(), rel=1e-5)
    run.write_curves(tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open() as file:
        assert [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)] == run.curves


def test_curves_have_about_200_points_and_always_the_last() -> None:
    points = [step for step in range(450) if curves.is_point(step, 450)]
    assert points == [*range(0, 450, 2), 449]


@every_architecture
def test_a_run_that_breaks_down_says_which_and_where(name: str, make_run: Any, batches_for: Any) -> None:
    with pytest.raises(TrainingError, match=rf"train/{name}: the loss is (nan|inf) at step \d of 10\. Lower train\.lr"):
        learn(make_run(name, 10, lr=1e30), batches_for(name))


def test_batches_of_one_token_train_though_they_have_no_variance(make_run: Any, batches_for: Any) -> None:
    run = learn(make_run("batchtopk", 5, batch_size=1), batches_for("batchtopk", 1))
    assert all(math.isnan(point["explained_variance"]) for point in run.curves)
    assert all(math.isfinite(point["loss"]) for point in run.curves)


BY_BATCH = ("batchtopk", "matryoshka", "p_anneal")
BY_TOKEN = [name for name in CATALOG if name not in BY_BATCH]


def in_float64(make_run: Any, name: str, parts: int) -> Run:
    run = make_run(name, 6, lr=1e-3, gradient_accumulation=parts, dead_threshold=10**9)
    run.dictionary.double()
    return run


@pytest.mark.parametrize("name", BY_TOKEN)
def test_a_batch_in_parts_is_a_batch_in_one(name: str, make_run: Any, batches_for: Any) -> None:
    batches = [Batch(b.x.double(), b.x.double() if b.target is b.x else b.target.double(), b.usable)
               for b in batches_for(name)]  # fmt: skip
    one = in_float64(make_run, name, 1)
    parted = in_float64(make_run, name, 3)
    for batch in batches[:6]:
        one.step(batch)
        parted.step(batch)
    expected = dict(one.dictionary.named_parameters())
    for key, value in parted.dictionary.named_parameters():
        torch.testing.assert_close(value, expected[key], rtol=1e-9, atol=1e-12)
    for point, whole in zip(parted.curves, one.curves, strict=True):
        assert point == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("topk", {"aux_k_coefficient": 1.0}),
        ("skip_transcoder", {"aux_k_coefficient": 1.0}),
        ("topk", {"losses": ("ghost_grads",)}),
    ],
)
def test_with_dead_latents_a_step_in_parts_is_their_mean_by_tokens_and_factors_are_those_of_each_part(
    name: str, columns: dict[str, Any], make_run: Any, batches_for: Any
) -> None:
    run = make_run(name, 4, columns=columns, gradient_accumulation=3, dead_threshold=BATCH, grad_clip=0)
    run.dictionary.double()
    first, batch = (Batch(b.x.double(), b.x.double() if b.target is b.x else b.target.double())
                    for b in batches_for(name)[:2])  # fmt: skip
    run.step(first)
    run.since_fired[::3] = BATCH
    before, (loss,) = copy.deepcopy(run.dictionary), run.objective.losses
    progress = TrainingStep(run.config.sparsity_factor(1), run.since_fired >= BATCH)

    def learned(part: Batch) -> dict[str, Tensor]:
        """The loss of a part, and the gradients that it and the reconstruction loss give."""
        forward = before.training_pass(*before.normalize(part.x, part.target))
        term = loss(before.geometry, before.sparsity, forward, progress)
        total = reconstruction_loss(forward) + term
        names, parameters = zip(*before.named_parameters(), strict=True)
        gradients = torch.autograd.grad(total, parameters, materialize_grads=True)
        return {"loss": term.detach(), **dict(zip(names, gradients, strict=True))}

    parts = [(part.tokens / BATCH, learned(part)) for part in batch.split(3)]
    assert [share * BATCH for share, _ in parts] == pytest.approx([11, 11, 10])
    wanted = {key: sum(share * of_part[key] for share, of_part in parts) for key in parts[0][1]}
    found = gradients_at_next_step(run, batch)
    found["loss"] = torch.tensor(run.curves[1][f"{loss.kind}_loss"], dtype=torch.float64)
    assert found.keys() == wanted.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, wanted[key], rtol=1e-9, atol=1e-12, msg=key)
    assert not torch.allclose(found["geometry.W_enc"], learned(batch)["geometry.W_enc"], rtol=1e-3)


def test_batchtopk_selects_in_each_part(make_run: Any, batches_for: Any) -> None:
    run = make_run("batchtopk", 1, gradient_accumulation=2)
    before, batch = copy.deepcopy(run.dictionary), batches_for("batchtopk")[0]
    run.step(batch)
    losses = [
        reconstruction_loss(before.training_pass(*before.normalize(part.x, part.target))).item()
        for part in batch.split(2)
    ]
    assert run.curves[0]["reconstruction_loss"] == pytest.approx(sum(losses) / 2)


def test_what_is_observed_once_a_step_is_the_last_part(make_run: Any, batches_for: Any) -> None:
    run = make_run("p_anneal", 20, gradient_accumulation=2, lr_warm_up_steps=0)
    loss, batches = run.objective.losses[0], batches_for("p_anneal")
    before = copy.deepcopy(run.dictionary)
    changes = [step for step in range(20) if loss.p(step, 20) != loss.p(step + 1, 20)]
    while run.steps_done <= changes[0]:
        before = copy.deepcopy(run.dictionary)
        run.step(batches[run.steps_done])
    *_, last = batches[changes[0]].split(2)
    codes = before.training_pass(*before.normalize(last.x, last.target)).codes.values.double()
    p, p_next = loss.p(changes[0], 20), loss.p(changes[0] + 1, 20)
    powers = [torch.where(codes > 1e-6, codes.pow(power), 0).sum(1).mean().item() for power in (p, p_next)]
    assert run.memory["p_anneal"]["scale"].item() == pytest.approx(powers[0] / powers[1], rel=1e-5)
    thresholds = learn(make_run("topk", 7, gradient_accumulation=3), batches_for("topk")).dictionary.sparsity
    assert thresholds.get_buffer("threshold_weight").item() == pytest.approx(1 - 0.99**7, rel=1e-6)


@every_architecture
def test_memories_stay_with_their_losses_and_on_their_device(name: str, make_run: Any, batches_for: Any) -> None:
    run = learn(make_run(name, 3), batches_for(name))
    assert set(run.memory) == {loss.kind for loss in run.objective.losses}
    for loss in run.objective.losses:
        assert {key: value.shape for key, value in run.memory[loss.kind].items()} == {
            key: value.shape for key, value in loss.memory().items()
        }


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        *((name, {}) for name in ("topk", "batchtopk", "matryoshka", "standard", "jumprelu", "gated", "abstopk")),
        ("topk", {"glu_encoder": True}),
        ("batchtopk", {"apply_b_dec_to_input": False}),
    ],
)
def test_training_at_few_entries_goes_where_dense_training_goes(
    name: str, columns: dict[str, Any], make_run: Any, batches_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(share: float) -> tuple[dict[str, Tensor], bool]:
        monkeypatch.setattr(entries, "SPARSE_SHARE", share)
        run = make_run(name, 10, columns=columns)
        seen: list[bool] = []
        observe = run.dictionary.observe

        def observed(forward: Forward) -> None:
            seen.append(isinstance(forward.codes, DenseCodes))
            observe(forward)

        monkeypatch.setattr(run.dictionary, "observe", observed)
        return weights(learn(run, batches_for(name))), all(seen)

    (dense, was_dense), (sparse, was_dense_too) = trained(0.0), trained(1.0)
    assert was_dense
    assert not was_dense_too
    for key, value in dense.items():
        torch.testing.assert_close(sparse[key], value, rtol=1e-3, atol=1e-4, msg=key)


COPIED: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("topk", {}),
    "mean of weights": ("batchtopk", {"ema": 0.9}),
    "mean of unit rows": ("standard", {"ema": 0.9}),
    "schedule-free": ("topk", {"optimizer": "schedule_free"}),
    "two optimizers": ("gated", {"optimizer": "muon"}),
    "resampled": ("standard_new", {"resample_steps": 4, "dead_threshold": 32, "ema": 0.9}),
    "contexts": ("lorsa", {}),
}


@pytest.mark.parametrize("case", COPIED)
def test_a_copy_of_the_dictionary_is_that_of_a_run_which_ends_there_and_leaves_this_one_alone(
    case: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    name, options = COPIED[case]
    options = {"lr": 1e-2, "lr_schedule": "constant", "lr_warm_up_steps": 0, "sparsity_warm_up_steps": 3, **options}
    batches, copied = batches_for(name), make_run(name, 12, **options)
    while not copied.is_finished:
        copied.step(batches[copied.steps_done])
        if copied.config.resamples_after(copied.steps_done - 1):
            continue  # no run resamples after its last step
        copy, shorter = copied.copy_dictionary(), learn(make_run(name, copied.steps_done, **options), batches)
        assert not copy.training
        for (tensor, mine), theirs in zip(
            copy.state_dict().items(), shorter.dictionary.state_dict().values(), strict=True
        ):
            assert mine.equal(theirs), (tensor, copied.steps_done)
    whole = learn(make_run(name, 12, **options), batches)
    assert saved(copied, tmp_path / "copied") == saved(whole, tmp_path / "whole")
