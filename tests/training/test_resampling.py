"""Resampling: dead latents begin anew as the formula says, optimizers forget them, and it happens when it should."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.geometry.linear import Linear
from lmsae.training.resampling import Rebirth, draw_rebirth
from lmsae.training.run import Run
from tests.training.runs import learn, weights

SEED = (0, 7)


def dead_ones(run: Run, *latents: int) -> Tensor:
    dead = torch.zeros(run.dictionary.geometry.latents, dtype=torch.bool)
    dead[list(latents)] = True
    return dead


def reborn(run: Run, x: Tensor, losses: Tensor, *latents: int, seed: tuple[int, int] = SEED) -> Rebirth:
    geometry = run.dictionary.geometry
    assert isinstance(geometry, Linear)
    return draw_rebirth(geometry, x, losses, dead_ones(run, *latents), seed)


@pytest.fixture
def x(activations: Tensor) -> Tensor:
    return activations[:64]


def test_new_latents_point_at_tokens_with_the_norms_of_those_alive(make_run: Any, x: Tensor) -> None:
    run = make_run("standard_new", 10)
    new = reborn(run, x, torch.rand(64, generator=torch.Generator().manual_seed(0)), 3, 5, 8)
    state = {name: value.double().numpy() for name, value in weights(run).items()}
    alive = [i for i in range(32) if i not in (3, 5, 8)]
    shifted = x.double().numpy() - state["geometry.b_dec"]
    units = shifted / np.linalg.norm(shifted, axis=1, keepdims=True)
    encoder_norm = np.linalg.norm(state["geometry.W_enc"], axis=0)[alive].mean()
    decoder_norm = np.linalg.norm(state["geometry.W_dec"], axis=1)[alive].mean()
    assert new.latents.tolist() == [3, 5, 8]
    tokens = [int(np.abs(decoder_norm * units - row.double().numpy()).sum(1).argmin()) for row in new.decoder]
    assert len(set(tokens)) == 3
    np.testing.assert_allclose(new.decoder.numpy(), decoder_norm * units[tokens], atol=1e-6)
    np.testing.assert_allclose(new.encoder.numpy(), 0.2 * encoder_norm * units[tokens].T, atol=1e-6)


def test_tokens_are_drawn_by_their_squared_loss(make_run: Any, x: Tensor) -> None:
    run = make_run("standard_new", 10)
    losses = torch.zeros(64)
    losses[10], losses[20] = 1.0, 3.0
    units = torch.nn.functional.normalize(x - run.dictionary.geometry.b_dec, dim=1)
    draws = [reborn(run, x, losses, 0, seed=(0, step)).decoder[0] for step in range(200)]
    chosen = torch.stack([(torch.nn.functional.normalize(row, dim=0) @ units.T).argmax() for row in draws])
    assert set(chosen.tolist()) == {10, 20}
    assert (chosen == 20).float().mean().item() == pytest.approx(0.9, abs=0.05)  # 3^2 / (3^2 + 1^2)


def test_it_is_a_pure_function_of_its_arguments(make_run: Any, x: Tensor) -> None:
    run, losses = make_run("topk", 10), torch.rand(64)
    torch.manual_seed(1)
    first = reborn(run, x, losses, 1, 2, 3)
    torch.manual_seed(2)
    again, later = reborn(run, x, losses, 1, 2, 3), reborn(run, x, losses, 1, 2, 3, seed=(0, 8))
    assert torch.equal(first.decoder, again.decoder)
    assert not torch.equal(first.decoder, later.decoder)


def test_a_small_batch_renews_as_many_latents_as_it_has_bad_tokens(make_run: Any, x: Tensor) -> None:
    losses = torch.zeros(64)
    losses[:2] = 1.0
    assert reborn(make_run("topk", 10), x, losses, 4, 5, 6, 7).latents.tolist() == [4, 5]


def test_nothing_is_renewed_where_all_is_reconstructed(make_run: Any, x: Tensor) -> None:
    assert len(reborn(make_run("topk", 10), x, torch.zeros(64), 4, 5).latents) == 0


def test_tokens_without_a_finite_loss_are_passed_over(make_run: Any, x: Tensor) -> None:
    losses = torch.full((64,), torch.nan)
    assert len(reborn(make_run("topk", 10), x, losses, 4, 5).latents) == 0
    losses[8] = 1.0
    assert len(reborn(make_run("topk", 10), x, losses, 4, 5).latents) == 1


def test_norms_are_finite_though_all_are_dead(make_run: Any, x: Tensor) -> None:
    new = reborn(make_run("topk", 10), x, torch.ones(64), *range(32))
    assert len(new.latents) == 32
    assert new.decoder.isfinite().all()
    assert (new.encoder != 0).any()


def killed(run: Run, *latents: int) -> Run:
    """With latents that will never fire by themselves."""
    with torch.no_grad():
        run.dictionary.geometry.get_parameter("b_enc")[list(latents)] = -1e6
    return run


SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {},
    "sparse_adam": {"optimizer": "sparse_adam"},
    "muon": {"optimizer": "muon"},
    "schedule_free": {"optimizer": "schedule_free", "lr_schedule": "constant"},
}
MOMENTS = {"exp_avg", "exp_avg_sq", "momentum_buffer"}


@pytest.mark.parametrize("optimizer", SETTINGS)
def test_weights_moments_and_counters_of_dead_latents_begin_anew(
    optimizer: str, make_run: Any, batches_for: Any
) -> None:
    run = make_run("standard_new", 20, resample_steps=5, lr=1e-3, **SETTINGS[optimizer])
    batches = batches_for("standard_new")
    for batch in batches[:2]:
        run.step(batch)
    killed(run, 3, 9)  # now that there are moments to forget
    for batch in batches[2:5]:
        assert (run.dictionary.geometry.get_parameter("b_enc")[[3, 9]] < -1e5).all()
        run.step(batch)
    geometry: Any = run.dictionary.geometry
    assert (geometry.b_enc[[3, 9]] == 0).all()
    assert (run.since_fired[[3, 9]] == 0).all()
    checked = set()
    for parameter, dim in ((geometry.W_enc, 1), (geometry.W_dec, 0), (geometry.b_enc, 0)):
        for holder in run.optimizers:
            for name, moments in holder.state.get(parameter, {}).items():
                if name in MOMENTS:
                    checked.add(name)
                    per_latent = moments.transpose(0, dim).flatten(1) if moments.ndim > 1 else moments[:, None]
                    assert not per_latent[[3, 9]].any()
                    assert per_latent[[i for i in range(32) if i not in (3, 9)]].any()
                elif name == "z":
                    assert torch.equal(moments.transpose(0, dim)[3], parameter.transpose(0, dim)[3])
                    checked.add(name)
    assert checked == {"adam": {"exp_avg", "exp_avg_sq"}, "sparse_adam": {"exp_avg", "exp_avg_sq"},
                       "muon": MOMENTS, "schedule_free": {"z", "exp_avg_sq"}}[optimizer]  # fmt: skip
    learn(run, batches)
    assert (run.since_fired[[3, 9]] < 15 * 32).any()  # one fires again


def renewed_at(run: Run, batches: list[Any]) -> list[int]:
    """The steps after which the latent that is killed again and again was alive."""
    steps = []
    while not run.is_finished:
        killed(run, 3)
        run.since_fired[3] = 10**6
        run.step(batches[run.steps_done % len(batches)])
        if (run.dictionary.geometry.get_parameter("b_enc")[3] == 0).item():
            steps.append(run.steps_done)
    return steps


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"resample_steps": 4}, [4, 8, 12, 16]),
        ({"resample_steps": 4, "resample_times": 2}, [4, 8]),
        ({"resample_steps": 0.5}, [10]),  # not after the last step
        ({"resample_steps": 0}, []),
        ({"resample_steps": 0.0}, []),
        ({"resample_steps": 0.01}, []),  # a share of less than a step
        ({"resample_steps": 4, "gradient_accumulation": 3}, [4, 8, 12, 16]),
    ],
)
def test_it_happens_every_so_often_and_so_many_times(
    settings: dict[str, Any], expected: list[int], make_run: Any, batches_for: Any
) -> None:
    assert renewed_at(make_run("standard_new", 20, **settings), batches_for("standard_new")) == expected


def test_rows_under_the_constraint_still_have_norm_1(make_run: Any, batches_for: Any) -> None:
    run = killed(make_run("standard", 10, resample_steps=5), 3, 9)
    for batch in batches_for("standard")[:5]:
        run.step(batch)
    norms = run.dictionary.geometry.norms()
    torch.testing.assert_close(norms, torch.ones_like(norms), rtol=0, atol=1e-6)
    assert (run.since_fired[[3, 9]] == 0).all()


def test_where_no_latent_is_dead_nothing_happens(make_run: Any, batches_for: Any) -> None:
    settings = {"dead_threshold": 10**9}
    with_it = learn(make_run("topk", 10, resample_steps=3, **settings), batches_for("topk"))
    without = learn(make_run("topk", 10, **settings), batches_for("topk"))
    assert all(torch.equal(value, weights(without)[key]) for key, value in weights(with_it).items())
