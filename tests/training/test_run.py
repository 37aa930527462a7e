"""A run: what a step does to weights and counters, what it records, and when it gives up."""

import copy
import csv
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae.catalog import CATALOG
from lmsae.errors import TrainingError
from lmsae.schedules import trapezoid
from lmsae.training.run import Run

BATCH, SCALE = 32, 0.5


def learn(run: Run, activations: Tensor) -> Run:
    """Train a run to its end on batches taken in turn."""
    batches = activations.split(run.config.batch_size)
    while not run.is_finished:
        run.step(batches[run.steps_done % len(batches)])
    return run


def weights(run: Run) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in run.dictionary.state_dict().items()}


@pytest.mark.parametrize("name", CATALOG)
def test_a_dictionary_learns(name: str, make_run: Any, activations: Tensor) -> None:
    run = learn(make_run(name, 200, lr=1e-2), activations)
    first, last = run.curves[0], run.curves[-1]
    assert last["reconstruction_loss"] < 0.5 * first["reconstruction_loss"]
    assert last["explained_variance"] > 0.5


@pytest.mark.parametrize("name", CATALOG)
def test_the_same_start_gives_the_same_bytes(name: str, make_run: Any, activations: Tensor, tmp_path: Path) -> None:
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        run = learn(make_run(name, 20), activations)
        run.dictionary.save(tmp_path / folder)
        run.write_curves(tmp_path / folder / "curves.csv")
    for file in (tmp_path / "first").iterdir():
        assert file.read_bytes() == (tmp_path / "second" / file.name).read_bytes()


class Listener:
    """A log that keeps what it hears."""

    def __init__(self) -> None:
        self.points: list[dict[str, float]] = []
        self.is_finished = False

    def __call__(self, point: dict[str, float]) -> None:
        self.points.append(point)

    def finish(self) -> None:
        self.is_finished = True


@pytest.mark.parametrize("name", CATALOG)
def test_logging_changes_nothing(name: str, make_run: Any, activations: Tensor) -> None:
    listener = Listener()
    quiet, loud = learn(make_run(name, 20), activations), learn(make_run(name, 20, log=listener), activations)
    expected = weights(quiet)
    assert all(torch.equal(value, expected[key]) for key, value in weights(loud).items())
    loud.close()
    assert listener.points == quiet.curves
    assert listener.is_finished


@pytest.mark.parametrize("name", CATALOG)
def test_how_often_curves_are_recorded_changes_nothing(
    name: str, make_run: Any, activations: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    often = learn(make_run(name, 30), activations)
    monkeypatch.setattr("lmsae.training.run.CURVE_POINTS", 2)
    seldom = learn(make_run(name, 30), activations)
    assert len(seldom.curves) < len(often.curves)
    expected = weights(often)
    assert all(torch.equal(value, expected[key]) for key, value in weights(seldom).items())


@pytest.mark.parametrize("name", CATALOG)
def test_a_step_leaves_its_batch_alone(name: str, make_run: Any, activations: Tensor) -> None:
    batch = activations[:BATCH].clone()
    make_run(name, 2).step(batch)
    assert torch.equal(batch, activations[:BATCH])


def test_decoder_rows_under_the_constraint_have_norm_1_after_every_step(make_run: Any, activations: Tensor) -> None:
    run = make_run("standard", 10, lr=0.1)
    for batch in activations.split(BATCH)[:10]:
        run.step(batch)
        norms = run.dictionary.geometry.norms()
        torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


def test_decoder_rows_without_the_constraint_are_free(make_run: Any, activations: Tensor) -> None:
    norms = learn(make_run("standard_new", 10, lr=0.1), activations).dictionary.geometry.norms()
    assert (norms - 1).abs().max() > 0.05


def gradients_at_first_step(run: Run, batch: Tensor) -> dict[str, Tensor]:
    """What the optimiser is given."""
    seen: dict[str, Tensor] = {}

    def look(*_: Any) -> None:
        for name, parameter in run.dictionary.named_parameters():
            if parameter.grad is not None:
                seen[name] = parameter.grad.clone()

    run.optimiser.register_step_pre_hook(look)
    run.step(batch)
    return seen


def test_the_constraint_removes_the_gradient_along_rows(make_run: Any, activations: Tensor) -> None:
    run = make_run("standard", 10)
    rows = run.dictionary.geometry.W_dec.detach().clone()
    grad = gradients_at_first_step(run, activations[:BATCH])["geometry.W_dec"]
    assert (grad * rows).sum(1).abs().max() < 1e-5 * grad.norm(dim=1).max()
    assert grad.norm() > 0


@pytest.mark.parametrize("name", CATALOG)
def test_gradients_are_clipped_by_one_global_l2_norm(name: str, make_run: Any, activations: Tensor) -> None:
    batch = activations[:BATCH]
    whole = gradients_at_first_step(make_run(name, 10, grad_clip=0), batch)
    clipped = gradients_at_first_step(make_run(name, 10, grad_clip=0.25), batch)
    norm = math.sqrt(sum(grad.double().pow(2).sum().item() for grad in whole.values()))
    assert norm > 0.25
    for key, grad in clipped.items():
        torch.testing.assert_close(grad, whole[key] * (0.25 / norm), rtol=1e-4, atol=1e-7)


def test_a_gradient_below_the_clip_is_let_be(make_run: Any, activations: Tensor) -> None:
    whole = gradients_at_first_step(make_run("topk", 10, grad_clip=0), activations[:BATCH])
    clipped = gradients_at_first_step(make_run("topk", 10, grad_clip=1e6), activations[:BATCH])
    assert all(torch.equal(grad, whole[key]) for key, grad in clipped.items())


@pytest.mark.parametrize("name", ["topk", "batchtopk", "jumprelu"])
def test_the_counter_counts_tokens_since_each_latent_fired(name: str, make_run: Any, activations: Tensor) -> None:
    run = make_run(name, 20, lr=1e-2, columns={"jumprelu_init_threshold": 5.0})
    expected = torch.zeros(run.dictionary.config.d_sae, dtype=torch.int64)
    for batch in activations.split(BATCH)[:20]:
        fired = (run.dictionary.training_pass(batch * SCALE, batch * SCALE).codes != 0).any(0)
        expected = torch.where(fired, 0, expected + BATCH)
        run.step(batch)
        assert torch.equal(run.since_fired, expected)
    assert 0 < (expected > 0).sum() < len(expected)


@pytest.mark.parametrize(("batch_size", "threshold"), [(16, 64), (32, 64), (32, 65)])
def test_dead_means_so_many_tokens_and_not_so_many_steps(
    batch_size: int, threshold: int, make_run: Any, activations: Tensor
) -> None:
    run = make_run("standard_new", 10, lr=1e-6, batch_size=batch_size, dead_threshold=threshold)
    with torch.no_grad():
        run.dictionary.geometry.b_enc.fill_(100.0)
        run.dictionary.geometry.b_enc[:3] = -1e6
    learn(run, activations)
    seen = [step * batch_size for step in range(10)]
    assert [point["dead"] for point in run.curves] == [3 if tokens >= threshold else 0 for tokens in seen]


def test_statistics_are_observed_once_a_step(make_run: Any, activations: Tensor) -> None:
    run = learn(make_run("batchtopk", 7), activations)
    assert run.dictionary.sparsity.get_buffer("threshold_weight").item() == pytest.approx(1 - 0.99**7, rel=1e-6)
    assert run.dictionary.sparsity.get_buffer("threshold_sum").item() > 0


def test_the_learning_rate_follows_its_schedule(make_run: Any, activations: Tensor) -> None:
    run = learn(make_run("topk", 20, lr=1e-3, lr_warm_up_steps=4, lr_cool_down_steps=0.25), activations)
    assert [point["lr"] for point in run.curves] == [1e-3 * trapezoid(step, 20, 4, 0.25, 0.0) for step in range(20)]
    assert run.curves[0]["lr"] == 0.25e-3


def test_a_penalty_warms_up_from_nothing(make_run: Any, activations: Tensor) -> None:
    run = learn(make_run("standard_new", 20, lr=1e-8, sparsity_warm_up_steps=4), activations[:BATCH])
    penalties = [point["l1_loss"] for point in run.curves]
    assert penalties[:5] == pytest.approx([penalties[5] * share for share in (0, 0.25, 0.5, 0.75, 1)], rel=1e-4)


@pytest.mark.parametrize("name", CATALOG)
def test_bfloat16_products_train_float32_weights(name: str, make_run: Any, activations: Tensor) -> None:
    run = learn(make_run(name, 200, lr=1e-2, precision="bfloat16"), activations)
    plain = learn(make_run(name, 200, lr=1e-2), activations)
    assert all(parameter.dtype == torch.float32 for parameter in run.dictionary.parameters())
    assert not torch.equal(run.dictionary.geometry.W_dec, plain.dictionary.geometry.W_dec)
    assert run.curves[-1]["explained_variance"] > plain.curves[-1]["explained_variance"] - 0.1


@pytest.mark.parametrize("name", CATALOG)
def test_curves_record_what_the_step_computed(name: str, make_run: Any, activations: Tensor, tmp_path: Path) -> None:
    run = make_run(name, 5)
    before = copy.deepcopy(run.dictionary)
    batch = activations[:BATCH]
    run.step(batch)
    forward = before.training_pass(batch * SCALE, batch * SCALE)
    x, error = forward.x.double(), (forward.reconstruction - forward.x).double()
    point = run.curves[0]
    assert point["reconstruction_loss"] == pytest.approx(error.pow(2).sum(1).mean().item(), rel=1e-5)
    explained = 1 - error.pow(2).sum() / (x - x.mean(0)).pow(2).sum()
    assert point["explained_variance"] == pytest.approx(explained.item(), rel=1e-4)
    assert point["l0"] == pytest.approx((forward.codes > 0).sum().item() / BATCH)
    assert (point["step"], point["tokens"]) == (0, BATCH)
    assert point["loss"] == pytest.approx(sum(value for key, value in point.items() if key.endswith("_loss")))
    run.write_curves(tmp_path / "curves.csv")
    with (tmp_path / "curves.csv").open() as file:
        assert [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)] == run.curves


def test_curves_have_about_200_points_and_always_the_last(make_run: Any, activations: Tensor) -> None:
    run = learn(make_run("topk", 450), activations)
    steps = [point["step"] for point in run.curves]
    assert steps == [*range(0, 450, 2), 449]


@pytest.mark.parametrize("name", CATALOG)
def test_a_run_that_breaks_down_says_which_and_where(name: str, make_run: Any, activations: Tensor) -> None:
    with pytest.raises(TrainingError, match=rf"train/{name}: the loss is (nan|inf) at step \d of 10\. Lower train\.lr"):
        learn(make_run(name, 10, lr=1e30), activations)


def test_batches_of_one_token_train_though_they_have_no_variance(make_run: Any, activations: Tensor) -> None:
    run = learn(make_run("batchtopk", 5, batch_size=1), activations)
    assert all(math.isnan(point["explained_variance"]) for point in run.curves)
    assert all(math.isfinite(point["loss"]) for point in run.curves)
