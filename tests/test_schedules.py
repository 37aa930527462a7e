"""Schedules: factors between 0 and 1, ends where they should be, and durations of 0, 1, steps or shares."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmsae.schedules import steps_of, trapezoid, warm_up

DURATIONS = st.integers(0, 2000) | st.floats(0, 1)


@given(data=st.data(), total=st.integers(1, 1000), up=DURATIONS, down=DURATIONS, end=st.floats(0, 1))
def test_factors_stay_between_0_and_1(data: st.DataObject, total: int, up: float, down: float, end: float) -> None:
    step = data.draw(st.integers(0, total))
    assert 0 <= trapezoid(step, total, up, down, end) <= 1
    assert 0 <= warm_up(step, total, up) <= 1


@given(total=st.integers(1, 1000), up=DURATIONS, down=DURATIONS)
def test_no_step_is_taken_at_learning_rate_0(total: int, up: float, down: float) -> None:
    assert all(trapezoid(step, total, up, down, 0.0) > 0 for step in (0, total // 2, total - 1))


@given(total=st.integers(1, 1000), up=DURATIONS)
def test_a_warm_up_never_falls(total: int, up: float) -> None:
    for factors in (
        [trapezoid(step, total, up, 0, 1.0) for step in range(total)],
        [warm_up(step, total, up) for step in range(total)],
    ):
        assert factors == sorted(factors)


@pytest.mark.parametrize("off", [0, 0.0])
def test_a_duration_of_0_is_off(off: float) -> None:
    assert [trapezoid(step, 4, off, off, 0.0) for step in range(4)] == [1, 1, 1, 1]
    assert [warm_up(step, 4, off) for step in range(4)] == [1, 1, 1, 1]


def test_1_is_one_step_and_1_point_0_is_all_steps() -> None:
    assert (steps_of(1, 50), steps_of(1.0, 50), steps_of(0.5, 50), steps_of(7, 50)) == (1, 50, 25, 7)
    assert [warm_up(step, 4, 1) for step in range(4)] == [0, 1, 1, 1]
    assert [warm_up(step, 4, 1.0) for step in range(4)] == [0, 0.25, 0.5, 0.75]


def test_a_trapezoid_rises_stays_and_falls() -> None:
    factors = [trapezoid(step, 10, 4, 4, 0.0) for step in range(10)]
    assert factors == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1, 0.8, 0.6, 0.4, 0.2])


@pytest.mark.parametrize(("down", "last"), [(4, 0.1 + 0.9 / 5), (0.4, 0.1 + 0.9 / 5), (1, 0.1 + 0.9 / 2)])
def test_the_end_ratio_is_reached_one_step_after_the_last(down: float, last: float) -> None:
    assert trapezoid(9, 10, 0, down, 0.1) == pytest.approx(last)
    assert trapezoid(10, 10, 0, down, 0.1) == pytest.approx(0.1)


def test_a_share_means_the_same_steps_as_their_number() -> None:
    shares = [trapezoid(step, 200, 0.05, 0.2, 0.3) for step in range(200)]
    assert shares == [trapezoid(step, 200, 10, 40, 0.3) for step in range(200)]


def test_a_sparsity_warm_up_begins_at_0_and_ends_at_1() -> None:
    assert [warm_up(step, 100, 4) for step in range(6)] == [0, 0.25, 0.5, 0.75, 1, 1]
