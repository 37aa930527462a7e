"""What the stages say of their own cost, in run.json."""

import json
import platform
from pathlib import Path
from typing import Any

import pytest

from lmsae.stages.flops import dictionary_flops, forward_flops
from lmsae.stages.train import Config
from tests.miniature import HERE, THERE, keys

STAGES = ("tokenize", "activations", "norm", "init", "train", "eval", "features", "page", "report")


def runs(folder: Path, stage: str) -> list[dict[str, Any]]:
    return [json.loads((folder / "artifacts" / stage / key / "run.json").read_text()) for key in keys(folder, stage)]


@pytest.mark.parametrize("stage", STAGES)
def test_every_artifact_says_where_it_was_made_how_long_that_took_and_in_how_much_memory(
    stage: str, finished: Path
) -> None:
    for run in runs(finished, stage):
        assert (run["host"], run["device"]) == (platform.node(), "cpu")
        assert run["peak_memory_bytes"]["host"] > 10_000_000
        assert 0 <= run["facts"]["seconds"] <= run["seconds"] + 0.01
        assert run["facts"]["in_pass"] >= 1


@pytest.mark.parametrize("stage", ["tokenize", "activations", "train", "eval", "features"])
def test_stages_that_go_through_tokens_say_how_many_and_how_fast(stage: str, finished: Path) -> None:
    for run in runs(finished, stage):
        facts = run["facts"]
        assert facts["tokens_per_second"] == pytest.approx(facts["tokens"] / facts["seconds"], rel=0.05)


def test_training_counts_every_step_of_every_dictionary_of_its_pass(finished: Path) -> None:
    made = runs(finished, "train")
    specs = [
        json.loads((finished / "artifacts/train" / key / "spec.json").read_text()) for key in keys(finished, "train")
    ]
    steps = [dictionary_flops(Config.model_validate(spec["config"]).dictionary, 32).step for spec in specs]
    assert [run["facts"]["flops"] for run in made] == [8192 * step for step in steps]
    assert [run["facts"]["tokens"] for run in made] == [8192] * 4
    together = sum(step for step, run in zip(steps, made, strict=True) if run["facts"]["in_pass"] == 3)
    last = max((run["facts"] for run in made if run["facts"]["in_pass"] == 3), key=lambda facts: facts["seconds"])
    assert last["flops_per_second"] * last["seconds"] == pytest.approx(8192 * together, rel=0.05)
    assert all(0 <= run["facts"]["waited_s"] <= run["facts"]["seconds"] for run in made)


def test_capturing_counts_the_forward_pass_to_the_last_hook_point_once(finished: Path) -> None:
    model = json.loads((finished / "model/config.json").read_text())
    for run in runs(finished, "activations"):
        facts = run["facts"]
        assert facts["flops"] == facts["tokens"] * (forward_flops(model, 32, [HERE, THERE]) or 0)
        assert facts["in_pass"] == 2
