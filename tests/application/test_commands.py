"""The commands `lmsae top` and `lmsae steer` say what Python says, and refuse what cannot be."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.strongest import top_latents
from tests.application.conftest import TEXT
from tests.miniature import Said

Lmsae = Callable[..., Said]


def test_top_prints_the_table_or_the_data(top: LoadedDictionary, lmsae: Lmsae) -> None:
    expected = top_latents(top, TEXT, k=2)
    said = lmsae("top", "top", TEXT, "--count", "2")
    assert (said.code, said.out) == (0, f"{expected}\n")
    assert json.loads(lmsae("top", "top", TEXT, "--count", "2", "--json").out) == expected.to_dicts()


def test_steer_prints_the_text_with_and_without(top: LoadedDictionary, lmsae: Lmsae) -> None:
    how = {"max_new_tokens": 6, "seed": 4}
    plain, steered = top.generate(TEXT, **how), top.generate(TEXT, add={3: 30.0}, clamp={9: 2.0}, **how)
    said = lmsae("steer", "top", "3+=30", "9=2", "--prompt", TEXT, "--max-new-tokens", "6", "--seed", "4")
    assert (said.code, said.out) == (0, f"as it is: {plain}\nsteered:  {steered}\n")
    assert plain != steered


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["steer", "top", "3++5", "--prompt", "a"], "3++5: is no edit of a latent; wanted: LATENT+=AMOUNT"),
        (["steer", "top", "64+=5", "--prompt", "a"], "there is no latent 64"),
        (["steer", "top", "3+=5", "--prompt", "a", "--max-new-tokens", "99"], "at most 64 tokens"),
        (["steer", "tpo", "3+=5", "--prompt", "a"], "did you mean top"),
        (["top", "top", "a", "--count", "0"], "k is 0"),
        (["top", "top", "a", "--model", "nowhere/at-all"], "nowhere/at-all"),
    ],
)
@pytest.mark.usefixtures("here")
def test_what_cannot_be_is_told_in_a_sentence(lmsae: Lmsae, arguments: list[str], part: str) -> None:
    said = lmsae(*arguments)
    assert (said.code, said.out) == (2, "")
    assert part in said.err


def test_the_folder_is_not_changed_by_looking(here: Path, lmsae: Lmsae) -> None:
    before = {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()}
    lmsae("top", "top", TEXT)
    assert {path: path.stat().st_mtime_ns for path in here.rglob("*") if path.is_file()} == before
