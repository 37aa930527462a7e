"""Curves: the latest points in a line for those who wait."""

import math

from lmsae.training.curves import describe


def test_of_one_run_the_latest_numbers_are_told_and_of_several_the_range() -> None:
    first = {"loss": 0.21, "l0": 32.0, "explained_variance": 0.71251, "dead": 3}
    assert describe([]) == ""
    assert describe([first]) == "loss 0.21, L0 32, explained variance 0.713"
    second = {"loss": 12.5, "l0": 32.0, "explained_variance": 0.5}
    assert describe([first, second]) == "loss 0.21 to 12.5, L0 32, explained variance 0.5 to 0.713"


def test_a_number_that_there_is_not_is_left_out() -> None:
    assert describe([{"loss": 1.0, "l0": 2.0, "explained_variance": math.nan}]) == "loss 1, L0 2"
