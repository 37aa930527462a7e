"""P-annealing: its exponents, and a penalty that does not jump when they change."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae.losses import L1, PAnneal, TrainingStep
from tests.losses.numpy_sae import D_SAE, DEAD, TOKENS, WIDTH, X, dictionary, expected, gradient, parameter, progress


@pytest.mark.parametrize("p", [0.2, 0.5, 1.0, 2.0])
def test_p_anneal_is_the_mean_sum_of_powers_of_codes(p: float) -> None:
    made, loss = dictionary("relu"), PAnneal(p_anneal_coefficient=0.7, p_start=p)
    wanted = np.mean([sum(code**p for code in token) for token in expected(made).codes])
    got = loss(made.geometry, made.sparsity, made.training_pass(X, X), progress(loss))
    assert got.item() == pytest.approx(0.7 * wanted, rel=1e-12)


def test_p_anneal_at_p_1_is_l1_bit_for_bit_where_rows_have_norm_1() -> None:
    made = dictionary("relu", apply_b_dec_to_input=False)
    with torch.no_grad():
        parameter(made, "W_dec").copy_(torch.eye(WIDTH, dtype=torch.float64).repeat(3, 1)[:D_SAE])
    values, grads = [], []
    for loss in (L1(l1_coefficient=0.7), PAnneal(p_anneal_coefficient=0.7)):
        made.zero_grad()
        value = loss(made.geometry, made.sparsity, made.training_pass(X, X), progress(loss, warm_up=0.3))
        value.backward()
        values.append(value.detach())
        grads.append([gradient(made, name) for name in ("W_enc", "b_enc")])
    assert torch.equal(values[0], values[1])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_the_penalty_of_a_batch_is_the_same_before_and_after_each_change_of_p() -> None:
    made, loss = dictionary("relu"), PAnneal(p_anneal_coefficient=0.7, p_anneal_changes=4)
    memory, generator, changes, steps, scale = loss.memory(), torch.Generator().manual_seed(1), 0, 40, 1.0
    for step in range(steps):
        x = torch.randn(TOKENS, WIDTH, generator=generator, dtype=torch.float64)
        forward = made.training_pass(x, x)
        now, then = (TrainingStep(1.0, DEAD, at, steps, memory=memory) for at in (step, step + 1))
        before = loss(made.geometry, made.sparsity, forward, now).item()
        loss.observe(memory, forward, now)
        if (p := loss.p(step, steps)) != (p_next := loss.p(step + 1, steps)):
            after = loss(made.geometry, made.sparsity, forward, then).item()
            assert after == pytest.approx(before, rel=1e-6)  # the scale is a float32
            codes = forward.codes.values.detach().numpy()
            active = codes[codes > 0]
            scale *= (active**p).sum() / (active**p_next).sum()
            changes += 1
        assert memory["scale"].item() == pytest.approx(scale, rel=1e-6)
    assert changes == 4
    assert scale != 1


def test_a_change_of_p_on_a_batch_without_active_latents_leaves_the_scale() -> None:
    made, loss = dictionary("relu"), PAnneal(p_anneal_coefficient=0.7, p_anneal_start=0.0)
    with torch.no_grad():
        parameter(made, "b_enc").fill_(-100)
    memory = loss.memory()
    assert loss.p(0, 10) != loss.p(1, 10)
    loss.observe(memory, made.training_pass(X, X), TrainingStep(1.0, DEAD, 0, 10, memory=memory))
    assert memory["scale"] == 1


@settings(deadline=None)
@given(
    steps=st.integers(20, 10_000),
    start=st.floats(0, 0.4),
    end=st.floats(0.6, 1),
    changes=st.integers(1, 3),
    p_end=st.floats(0.1, 0.9),
)
def test_p_falls_in_equal_changes_and_trains_at_its_last_value(
    steps: int, start: float, end: float, changes: int, p_end: float
) -> None:
    loss = PAnneal(
        p_anneal_coefficient=1, p_anneal_start=start, p_anneal_end=end, p_anneal_changes=changes, p_end=p_end
    )
    ps = [loss.p(step, steps) for step in range(steps)]
    assert ps[0] == 1.0
    assert ps[-1] == p_end
    levels = sorted(set(ps), reverse=True)
    assert ps == sorted(ps, reverse=True)
    assert np.diff(levels) == pytest.approx([(p_end - 1) / changes] * changes)


def test_an_end_before_the_start_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"p_anneal_start is 0\.5, not before p_anneal_end at 0\.5; lower it"):
        PAnneal(p_anneal_coefficient=1, p_anneal_start=0.5, p_anneal_end=0.5)
