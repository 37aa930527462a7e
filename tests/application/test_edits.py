"""Edits of latents on a command line mean what they say, and all faults are told at once."""

import pytest

from lmsae.application.edits import parse_edits
from lmsae.errors import ConfigError


def test_edits_add_subtract_clamp_and_ablate() -> None:
    add, clamp = parse_edits(["7+=5", "8-=2.5", "9=3", "10=0", "11=-1e1", "12 += 4"])
    assert add == {7: 5.0, 8: -2.5, 12: 4.0}
    assert clamp == {9: 3.0, 10: 0.0, 11: -10.0}


def test_all_faults_of_edits_are_told_at_once() -> None:
    with pytest.raises(ConfigError, match="4 faults") as error:
        parse_edits(["7", "x=3", "7=off", "1=1", "1+=1"])
    for part in (
        "7: is no edit",
        "x=3: is no edit",
        "7=off: is no edit",
        "as in 7+=5",
        "1+=1: latent 1 is edited twice",
    ):
        assert part in str(error.value)
