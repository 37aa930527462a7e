"""Schedules: factors between their ends, exact at every step, and durations of 0, 1, steps or shares."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.training.schedules import K_SHAPES, LR_SHAPES, Shape, k_at, learning_rate, steps_of, warm_up

DURATIONS = st.integers(0, 2000) | st.floats(0, 1)
ENDS = st.floats(1e-6, 1)  # a geometric fall never reaches 0
TRAPEZOID = LR_SHAPES["trapezoid"]
SHAPES = st.sampled_from([*LR_SHAPES.values(), *K_SHAPES.values()])


@given(data=st.data(), total=st.integers(1, 1000), up=DURATIONS, down=DURATIONS, end=ENDS, shape=SHAPES)
def test_factors_stay_between_0_and_1(
    data: st.DataObject, total: int, up: float, down: float, end: float, shape: Shape
) -> None:
    step = data.draw(st.integers(0, total))
    assert 0 <= learning_rate(step, total, shape, up, down, end) <= 1 + 1e-12
    assert 0 <= warm_up(step, total, up) <= 1


@given(progress=st.floats(0, 1), end=ENDS, shape=SHAPES)
def test_a_shape_stays_within_its_ends(progress: float, end: float, shape: Shape) -> None:
    assert end - 1e-12 <= shape(progress, end) <= 1 + 1e-12


@pytest.mark.parametrize("name", [name for name in LR_SHAPES if name != "constant"])
def test_a_shape_goes_from_1_to_its_end(name: str) -> None:
    assert LR_SHAPES[name](0.0, 0.1) == 1
    assert LR_SHAPES[name](1.0, 0.1) == pytest.approx(0.1)


@given(total=st.integers(1, 1000), up=DURATIONS, down=DURATIONS, shape=SHAPES)
def test_no_step_is_taken_at_learning_rate_0(total: int, up: float, down: float, shape: Shape) -> None:
    assert all(learning_rate(step, total, shape, up, down, 1e-9) > 0 for step in (0, total // 2, total - 1))


@given(total=st.integers(1, 300), up=DURATIONS, down=DURATIONS, shape=SHAPES)
def test_a_learning_rate_rises_and_then_falls(total: int, up: float, down: float, shape: Shape) -> None:
    factors = [learning_rate(step, total, shape, up, down, 0.01) for step in range(total)]
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert all(later <= earlier + 1e-12 for earlier, later in zip(factors[top:], factors[top + 1 :], strict=False))


@given(total=st.integers(1, 300), up=DURATIONS)
def test_a_warm_up_never_falls(total: int, up: float) -> None:
    factors = [warm_up(step, total, up) for step in range(total)]
    assert factors == sorted(factors)


@pytest.mark.parametrize("off", [0, 0.0])
@pytest.mark.parametrize("shape", [*LR_SHAPES.values()])
def test_a_duration_of_0_is_off(off: float, shape: Shape) -> None:
    assert [learning_rate(step, 4, shape, off, off, 0.1) for step in range(4)] == [1, 1, 1, 1]
    assert [warm_up(step, 4, off) for step in range(4)] == [1, 1, 1, 1]
    assert [k_at(step, 4, K_SHAPES["linear"], (9, 2), off, off) for step in range(4)] == [2, 2, 2, 2]


def test_1_is_one_step_and_1_point_0_is_all_steps() -> None:
    assert (steps_of(1, 50), steps_of(1.0, 50), steps_of(0.5, 50), steps_of(7, 50)) == (1, 50, 25, 7)
    assert [warm_up(step, 4, 1) for step in range(4)] == [0, 1, 1, 1]
    assert [warm_up(step, 4, 1.0) for step in range(4)] == [0, 0.25, 0.5, 0.75]


def test_a_trapezoid_rises_stays_and_falls() -> None:
    factors = [learning_rate(step, 10, TRAPEZOID, 4, 4, 0.0) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(("down", "last"), [(4, 0.1 + 0.9 / 5), (0.4, 0.1 + 0.9 / 5), (1, 0.1 + 0.9 / 2)])
def test_the_end_ratio_is_reached_one_step_after_the_last(down: float, last: float) -> None:
    assert learning_rate(9, 10, TRAPEZOID, 0, down, 0.1) == pytest.approx(last)
    assert learning_rate(10, 10, TRAPEZOID, 0, down, 0.1) == pytest.approx(0.1)


def test_a_fall_over_all_steps_begins_where_the_rise_ends() -> None:
    # 10 steps, 3 of them rise; the 7 others are eighths of the way to the end.
    eighths = [n / 8 for n in range(1, 8)]
    expected = {
        "constant": [1.0] * 7,
        "linear": [1 - 0.9 * t for t in eighths],
        "cosine": [0.1 + 0.9 * (1 + math.cos(math.pi * t)) / 2 for t in eighths],
        "exponential": [0.1**t for t in eighths],
    }
    for name, falling in expected.items():
        factors = [learning_rate(step, 10, LR_SHAPES[name], 3, 1.0, 0.1) for step in range(10)]
        assert factors == pytest.approx([1 / 3, 2 / 3, 1, *falling]), name


def test_a_share_means_the_same_steps_as_their_number() -> None:
    shares = [learning_rate(step, 200, TRAPEZOID, 0.05, 0.2, 0.3) for step in range(200)]
    assert shares == [learning_rate(step, 200, TRAPEZOID, 10, 40, 0.3) for step in range(200)]


def test_a_sparsity_warm_up_begins_at_0_and_ends_at_1() -> None:
    assert [warm_up(step, 100, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]


def test_k_waits_and_then_goes_to_its_end() -> None:
    ks = [k_at(step, 10, K_SHAPES["linear"], (50, 10), 2, 4) for step in range(10)]
    assert ks == [50, 50, 50, 40, 30, 20, 10, 10, 10, 10]
    assert [k_at(step, 10, K_SHAPES["linear"], (10, 50), 0.2, 0.4) for step in range(10)] == [60 - k for k in ks]


def test_an_exponential_k_is_fast_and_then_slow() -> None:
    ks = [k_at(step, 4, K_SHAPES["exponential"], (1000, 0), 0, 4) for step in range(5)]
    rest = math.exp(-3)
    assert ks == [round(1000 * (math.exp(-3 * t / 4) - rest) / (1 - rest)) for t in range(5)]
    assert ks[0] == 1000
    assert ks[-1] == 0


@given(
    data=st.data(), total=st.integers(1, 1000), ends=st.tuples(st.integers(1, 500), st.integers(1, 500)),
    waits=DURATIONS, moves=DURATIONS, shape=st.sampled_from([*K_SHAPES.values()]),
)  # fmt: skip
def test_k_stays_within_its_ends(
    data: st.DataObject, total: int, ends: tuple[int, int], waits: float, moves: float, shape: Shape
) -> None:
    step = data.draw(st.integers(0, total))
    assert min(ends) <= k_at(step, total, shape, ends, waits, moves) <= max(ends)
