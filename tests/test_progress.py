"""Progress bars: for people at a terminal, and for provenance."""

import pytest

from lmsae.progress import bar
from lmsae.runtime import Runtime


def advance_in_a_bar(runtime: Runtime) -> dict[str, float]:
    with bar("train", unit="token", total=30, runtime=runtime) as progress:
        progress.advance(10)
        progress.advance(20)
    assert progress.done == 30
    return progress.rates()


def test_a_bar_is_silent_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    advance_in_a_bar(Runtime())
    assert capfd.readouterr() == ("", "")


def test_a_bar_can_be_asked_for_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    advance_in_a_bar(Runtime(progress=True))
    said = capfd.readouterr().err
    assert "train: 100%" in said
    assert "token/s" in said


def test_a_bar_shows_on_a_terminal_unless_it_is_unwanted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    advance_in_a_bar(Runtime(progress=False))
    assert capfd.readouterr().err == ""
    advance_in_a_bar(Runtime())
    assert "train: 100%" in capfd.readouterr().err


def test_rates_are_the_work_done_over_the_time_it_took() -> None:
    rates = advance_in_a_bar(Runtime())
    assert rates["seconds"] >= 0
    assert rates["per_second"] > 30
