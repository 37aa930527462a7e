"""The mean of weights: what is saved in the end, and nothing that training sees."""

from typing import Any

import pytest
import torch

from tests.training.runs import learn, weights

DECAY = 0.7


def snapshots(run: Any, batches: list[Any]) -> list[dict[str, torch.Tensor]]:
    """The weights after each step, but not what a run makes of them at its end."""
    seen = []
    while not run.is_finished:
        if run.steps_done:
            seen.append(weights(run))
        run.step(batches[run.steps_done])
    return seen


@pytest.mark.parametrize("name", ["topk", "jumprelu", "clt"])
def test_saved_weights_are_the_bias_corrected_mean(name: str, make_run: Any, batches_for: Any) -> None:
    run, plain = make_run(name, 6, lr=1e-2, ema=DECAY), make_run(name, 6, lr=1e-2)
    seen = snapshots(run, batches_for(name))
    learn(plain, batches_for(name))
    steps = [*seen, weights(plain)]
    counts = torch.tensor([DECAY ** (5 - i) for i in range(6)], dtype=torch.float64)
    parameters = dict(run.dictionary.named_parameters())
    for key, value in parameters.items():
        mean = sum(count * step[key].double() for count, step in zip(counts, steps, strict=True)) / counts.sum()
        torch.testing.assert_close(value.detach().double(), mean, rtol=1e-5, atol=1e-6)
    for key, statistic in run.dictionary.named_buffers():
        assert torch.equal(statistic, weights(plain)[key])


def test_a_mean_changes_nothing_that_training_sees(make_run: Any, batches_for: Any) -> None:
    run, plain = make_run("topk", 10, ema=DECAY), make_run("topk", 10)
    assert learn(run, batches_for("topk")).curves == learn(plain, batches_for("topk")).curves


def test_a_mean_of_unit_rows_is_brought_to_norm_1(make_run: Any, batches_for: Any) -> None:
    run = learn(make_run("standard", 10, lr=0.1, ema=DECAY), batches_for("standard"))
    norms = run.dictionary.geometry.norms()
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["standard_new", "topk"])
def test_the_mean_of_a_reborn_latent_is_as_if_it_had_always_had_its_new_weights(
    name: str, make_run: Any, batches_for: Any
) -> None:
    settings = {"lr": 1e-2, "lr_cool_down_steps": 0, "resample_steps": 8}
    run, plain = make_run(name, 10, ema=0.99, **settings), make_run(name, 10, **settings)
    for one in (run, plain):
        with torch.no_grad():
            one.dictionary.geometry.b_enc[[3, 9]] = -1e6
    steps = [*snapshots(run, batches_for(name)), weights(learn(plain, batches_for(name)))]
    reborn = steps[7]["geometry.b_enc"] == 0
    assert reborn[[3, 9]].all()
    assert not reborn.all()
    for step in steps[:7]:
        for key, place in (("W_enc", (slice(None), reborn)), ("W_dec", reborn), ("b_enc", reborn)):
            step[f"geometry.{key}"][place] = steps[7][f"geometry.{key}"][place]
    counts = torch.tensor([0.99 ** (9 - i) for i in range(10)], dtype=torch.float64)
    for key, value in run.dictionary.named_parameters():
        mean = sum(count * step[key].double() for count, step in zip(counts, steps, strict=True)) / counts.sum()
        torch.testing.assert_close(value.detach().double(), mean, rtol=1e-5, atol=1e-6)
