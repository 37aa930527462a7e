"""Progress bars: for people at a terminal, and for provenance."""

import pytest

from lmsae.runtime.progress import show_progress
from lmsae.runtime.runtime import Runtime


def advance_in_a_bar(runtime: Runtime) -> dict[str, float | None]:
    with show_progress("train", unit="token", total=30, runtime=runtime) as progress:
        progress.advance(10)
        progress.advance(20)
    assert progress.done == 30
    progress.waited_s = 0.25
    return progress.facts(in_pass=2, flops=600.0, pass_flops=1200.0)


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


def test_facts_are_the_work_done_and_the_time_it_took() -> None:
    facts = advance_in_a_bar(Runtime())
    assert (facts["tokens"], facts["in_pass"], facts["waited_s"], facts["flops"]) == (30, 2, 0.25, 600)
    rate = facts["tokens_per_second"]
    assert rate is not None
    assert rate > 30
    assert facts["flops_per_second"] == pytest.approx(1200 / 30 * rate, rel=1e-3)


def test_without_a_formula_there_are_no_flops_per_second() -> None:
    with show_progress("norm", unit="token", total=None, runtime=Runtime()) as progress:
        progress.advance(10)
    assert progress.facts()["flops_per_second"] is None
