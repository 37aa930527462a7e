"""Company: dictionaries trained in one pass are those trained alone, bit for bit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.catalog import CATALOG
from lmsae.errors import TrainingError
from lmsae.store.batches import ShuffledBatches
from lmsae.training.run import Run
from lmsae.training.together import train_together

STEPS = {name: 12 + 5 * index for index, name in enumerate(CATALOG)}
Batches = Callable[[], ShuffledBatches]


def train(runs: list[Run], batches: ShuffledBatches) -> list[Run]:
    return list(train_together(runs, batches, "cpu", lambda tokens: None))


def saved(run: Run, folder: Path) -> dict[str, bytes]:
    folder.mkdir(exist_ok=True)
    run.dictionary.save(folder)
    run.write_curves(folder / "curves.csv")
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def runs_of(make_run: Any) -> dict[str, Run]:
    return {name: make_run(name, steps, lr=1e-2) for name, steps in STEPS.items()}


def test_company_changes_no_bit_of_any_architecture(make_run: Any, batches: Batches, tmp_path: Path) -> None:
    together = runs_of(make_run)
    finished = train(list(together.values()), batches())
    assert [run.name for run in finished] == [f"train/{name}" for name in CATALOG]  # in the order of their budgets
    for name, alone in runs_of(make_run).items():
        train([alone], batches())
        assert alone.steps_done == STEPS[name]
        assert saved(together[name], tmp_path / "together") == saved(alone, tmp_path / "alone")
        assert len({point["loss"] for point in alone.curves}) == STEPS[name]


def test_order_of_company_changes_nothing(make_run: Any, batches: Batches, tmp_path: Path) -> None:
    forwards, backwards = runs_of(make_run), runs_of(make_run)
    train(list(forwards.values()), batches())
    train(list(backwards.values())[::-1], batches())
    for name in CATALOG:
        assert saved(forwards[name], tmp_path / "a") == saved(backwards[name], tmp_path / "b")


def test_a_run_is_handed_out_the_moment_it_has_finished(make_run: Any, batches: Batches) -> None:
    runs = [make_run("topk", 9), make_run("standard_new", 3)]
    stream = train_together(runs, batches(), "cpu", lambda tokens: None)
    assert next(stream) is runs[1]
    assert runs[0].steps_done == 3
    assert list(stream) == [runs[0]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_breaks_down_leaves_its_companions_alone(
    place: int, make_run: Any, batches: Batches, tmp_path: Path
) -> None:
    sound = [make_run("topk", 10), make_run("jumprelu", 14)]
    runs = [*sound[:place], make_run("standard", 12, lr=1e30), *sound[place:]]
    finished = []
    with pytest.raises(TrainingError, match="train/standard: the loss is"):
        finished.extend(train_together_into(finished, runs, batches()))
    assert finished == sound
    for run, alone in zip(sound, [make_run("topk", 10), make_run("jumprelu", 14)], strict=True):
        train([alone], batches())
        assert saved(run, tmp_path / "company") == saved(alone, tmp_path / "alone")


def train_together_into(finished: list[Run], runs: list[Run], batches: ShuffledBatches) -> list[Run]:
    """Appends each run as it finishes, so that what was finished before an error is seen."""
    for run in train_together(runs, batches, "cpu", lambda tokens: None):
        finished.append(run)
    return []


def test_when_all_have_broken_down_the_rest_of_the_data_is_not_read(make_run: Any, batches: Batches) -> None:
    advanced: list[int] = []
    runs = [make_run("topk", 500, lr=1e30), make_run("standard", 500, lr=1e30)]
    with pytest.raises(TrainingError) as raised:
        list(train_together(runs, batches(), "cpu", advanced.append))
    assert "train/topk" in str(raised.value)
    assert "train/standard" in str(raised.value)
    assert sum(advanced) < 20 * 32


def test_progress_counts_the_tokens_of_the_stream(make_run: Any, batches: Batches) -> None:
    advanced: list[int] = []
    list(train_together([make_run("topk", 4), make_run("jumprelu", 6)], batches(), "cpu", advanced.append))
    assert advanced == [32] * 6
