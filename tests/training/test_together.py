"""Company: dictionaries trained in one pass are those trained alone, bit for bit."""

from pathlib import Path
from typing import Any

import pytest

from lmsae.errors import TrainingError
from lmsae.planning.catalog import CATALOG
from lmsae.training.run import Run
from lmsae.training.together import train_together
from tests.training.runs import Stream, saved, train

SHARED = [name for name, entry in CATALOG.items() if entry.geometry == "sae"]
"""These take the same batches, and so can be trained in one pass."""
STEPS = {name: 6 + 2 * index for index, name in enumerate(SHARED)}
OPTIONS: list[dict[str, Any]] = [
    {"optimizer": "muon", "gradient_accumulation": 3},
    {"optimizer": "sparse_adam", "ema": 0.9, "initial_k": 8},
    {"optimizer": "schedule_free", "lr_schedule": "constant"},
    {"lr_schedule": "cosine"},
    {"resample_steps": 5, "dead_threshold": 32},
]


def runs_of(make_run: Any) -> dict[str, Run]:
    return {name: make_run(name, steps, lr=1e-2) for name, steps in STEPS.items()}


def test_company_changes_no_bit_of_any_architecture(make_run: Any, batches_for: Any, tmp_path: Path) -> None:
    together, batches = runs_of(make_run), batches_for("topk")
    finished = train(list(together.values()), batches)
    assert [run.name for run in finished] == [f"train/{name}" for name in SHARED]  # in the order of their budgets
    for name, alone in runs_of(make_run).items():
        train([alone], batches)
        assert alone.steps_done == STEPS[name]
        assert saved(together[name], tmp_path / "together") == saved(alone, tmp_path / "alone")
        assert len({point["loss"] for point in alone.curves}) == STEPS[name]


@pytest.mark.parametrize("name", [name for name in CATALOG if name not in SHARED])
def test_company_changes_no_bit_of_geometries_with_streams_of_their_own(
    name: str, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    batches = batches_for(name)
    together = [make_run(name, 6, lr=1e-2), make_run(name, 9, lr=1e-3)]
    train(together, batches)
    for run, alone in zip(together, [make_run(name, 6, lr=1e-2), make_run(name, 9, lr=1e-3)], strict=True):
        train([alone], batches)
        assert saved(run, tmp_path / "together") == saved(alone, tmp_path / "alone")


def test_company_changes_no_bit_whatever_the_training(make_run: Any, batches_for: Any, tmp_path: Path) -> None:
    batches = batches_for("topk")
    together = [make_run("topk", 15, lr=1e-2, **options) for options in OPTIONS]
    train(together, batches)
    outcomes = []
    for options, run in zip(OPTIONS, together, strict=True):
        alone = make_run("topk", 15, lr=1e-2, **options)
        train([alone], batches)
        outcomes.append(saved(alone, tmp_path / "alone"))
        assert saved(run, tmp_path / "together") == outcomes[-1]
    assert len({outcome["dictionary.safetensors"] for outcome in outcomes}) == len(OPTIONS)


def test_order_of_company_changes_nothing(make_run: Any, batches_for: Any, tmp_path: Path) -> None:
    forwards, backwards = runs_of(make_run), runs_of(make_run)
    train(list(forwards.values()), batches_for("topk"))
    train(list(backwards.values())[::-1], batches_for("topk"))
    for name in SHARED:
        assert saved(forwards[name], tmp_path / "a") == saved(backwards[name], tmp_path / "b")


def test_a_run_is_handed_out_the_moment_it_has_finished(make_run: Any, batches_for: Any) -> None:
    runs = [make_run("topk", 9), make_run("standard_new", 3)]
    stream = train_together(runs, Stream(batches_for("topk")), "cpu", lambda tokens: None)
    assert next(stream) is runs[1]
    assert runs[0].steps_done == 3
    assert list(stream) == [runs[0]]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_that_breaks_down_leaves_its_companions_alone(
    place: int, make_run: Any, batches_for: Any, tmp_path: Path
) -> None:
    batches = batches_for("topk")
    sound = [make_run("topk", 10), make_run("jumprelu", 14)]
    runs = [*sound[:place], make_run("standard", 12, lr=1e30), *sound[place:]]
    finished = []
    with pytest.raises(TrainingError, match="train/standard: the loss is"):  # noqa: PT012
        for run in train_together(runs, Stream(batches), "cpu", lambda tokens: None):
            finished.append(run)
    assert finished == sound
    for run, alone in zip(sound, [make_run("topk", 10), make_run("jumprelu", 14)], strict=True):
        train([alone], batches)
        assert saved(run, tmp_path / "company") == saved(alone, tmp_path / "alone")


def test_when_all_have_broken_down_the_rest_of_the_data_is_not_read(make_run: Any, batches_for: Any) -> None:
    advanced: list[int] = []
    runs = [make_run("topk", 500, lr=1e30), make_run("standard", 500, lr=1e30)]
    with pytest.raises(TrainingError) as raised:
        list(train_together(runs, Stream(batches_for("topk")), "cpu", advanced.append))
    assert "train/topk" in str(raised.value)
    assert "train/standard" in str(raised.value)
    assert sum(advanced) < 20 * 32


@pytest.mark.parametrize(("name", "tokens"), [("topk", 32), ("lorsa", 28)])
def test_progress_counts_the_tokens_of_the_stream(name: str, tokens: int, make_run: Any, batches_for: Any) -> None:
    advanced: list[int] = []
    runs = [make_run(name, 4), make_run(name, 6)]
    list(train_together(runs, Stream(batches_for(name)), "cpu", advanced.append))
    assert advanced == [tokens] * 6
