"""Progress: bars for people who look, lines for logs, and the cost for provenance."""

import io

import pytest

from lmsae.runtime.progress import Log, show_progress
from lmsae.runtime.runtime import Runtime


def advance_in_a_bar(runtime: Runtime) -> dict[str, float | None]:
    with show_progress("train", unit="token", total=30, runtime=runtime, describe=lambda: "loss 0.5") as progress:
        progress.advance(10)
        progress.advance(20)
    assert progress.done == 30
    progress.waited_s = 0.25
    return progress.facts(in_pass=2, flops=600.0, pass_flops=1200.0)


def test_short_work_says_nothing_where_stderr_is_no_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    advance_in_a_bar(Runtime())
    assert capfd.readouterr() == ("", "")


def test_a_bar_can_be_asked_for_anywhere(capfd: pytest.CaptureFixture[str]) -> None:
    advance_in_a_bar(Runtime(progress=True))
    said = capfd.readouterr().err
    assert "train: 100%" in said
    assert "token/s, loss 0.5]" in said


def test_a_bar_shows_on_a_terminal_unless_it_is_unwanted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    advance_in_a_bar(Runtime(progress=False))
    assert capfd.readouterr().err == ""
    advance_in_a_bar(Runtime())
    assert "train: 100%" in capfd.readouterr().err


def test_a_bar_shows_in_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})()
    monkeypatch.setattr("sys.stderr", stream)
    advance_in_a_bar(Runtime())
    assert "train: 100%" in stream.getvalue()


def test_a_log_gets_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    seconds = 0.0
    log = Log("train", "token", 8_000_000, lambda: "loss 0.5, L0 32", clock=lambda: seconds)
    for second in range(1, 801):
        seconds = float(second)
        log.update(10_000)
    first, second, *others = capsys.readouterr().err.splitlines()
    assert first == "train: 1.2 %, 100 k of 8 M tokens, 10 k tokens/s, 13.2 min to go; loss 0.5, L0 32"
    assert second.startswith("train: 2.5 %, 200 k of 8 M tokens")
    assert len(others) == 9, "at 30 s and each time after half of the time gone by"


def test_a_log_of_work_without_an_end_says_how_much_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    ticks = iter([0.0, 20.0])
    Log("tokenize", "token", None, lambda: "", clock=lambda: next(ticks)).update(50_000)
    assert capsys.readouterr().err == "tokenize: 50 k tokens, 2.5 k tokens/s\n"


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


@pytest.mark.parametrize(("progress", "said"), [(None, 1), (True, 1), (False, 0)])
def test_lines_are_said_in_a_log_and_above_a_bar_and_nowhere_else(
    progress: bool | None, said: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with show_progress("train", unit="token", total=30, runtime=Runtime(progress=progress)) as shown:
        shown.say(["it learns"])
        shown.advance(30)
    lines = capfd.readouterr().err.replace("\r", "\n").splitlines()
    assert lines.count("train: it learns") == said
