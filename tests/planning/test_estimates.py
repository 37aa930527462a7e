"""How long a plan will take: by what was measured, of the nearest kind, and never by anything else."""

import json
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.planning.estimates import Estimator, format_estimate
from lmsae.planning.plan import Plan, plan_of
from lmsae.stages import STAGES
from lmsae.stages.flops import dictionary_flops
from lmsae.stages.train import Config
from tests.miniature import Said

Lmsae = Callable[..., Said]
CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")


def planned(*overrides: str) -> Plan:
    return plan_of(CONFIG, SWEEP, overrides, {})[0]


def of_row(plan: Plan, name: str, stage: str = "train") -> Spec:
    (row,) = (row for row in plan.rows if row.name == name)
    return row.specs[stage]


def measured(spec: Spec, host: str = "", **facts: Any) -> None:
    """Leave the provenance of an artifact, as if it had been made here, or on another host."""
    folder = Artifacts(Path("artifacts")).add(spec).path
    run = {"host": host or platform.node(), "runtime": {"device": "cpu"}, "facts": facts}
    (folder / "run.json").write_text(json.dumps(run))


def estimator() -> Estimator:
    return Estimator(Artifacts(Path("artifacts")), "cpu")


@pytest.fixture
def plan(fresh: Path) -> Plan:
    """The miniature's plan; all its artifacts have a folder with their spec, and nothing is made."""
    made = planned()
    for spec in (spec for stage in STAGES for spec in made.specs(stage)):
        Artifacts(fresh / "artifacts").add(spec)
    return made


def test_what_was_never_measured_has_no_estimate(plan: Plan) -> None:
    wanted = {stage: plan.specs(stage)[:1] for stage in STAGES if plan.specs(stage)}
    assert all(estimator().seconds(stage, specs) is None for stage, specs in wanted.items())


def test_training_takes_its_flops_at_the_measured_rate(plan: Plan) -> None:
    spec, other = of_row(plan, "top"), of_row(plan, "batch")
    measured(spec, flops_per_second=1000.0)
    a_token = dictionary_flops(Config.model_validate(spec.config).dictionary, 32).step
    assert estimator().seconds("train", [spec]) == pytest.approx(a_token * 8192 / 1000)
    assert estimator().seconds("train", [spec, other]) == pytest.approx(2 * a_token * 8192 / 1000)


def test_the_nearest_kind_counts_and_a_far_one_where_there_is_no_other(plan: Plan) -> None:
    top, batch, jump = (of_row(plan, name) for name in ("top", "batch", "jump"))
    measured(jump, flops_per_second=500.0)
    far = estimator().seconds("train", [top])
    measured(batch, flops_per_second=4000.0)
    measured(top, flops_per_second=1000.0)
    assert far
    assert estimator().seconds("train", [top]) == pytest.approx(far / 2)


def test_this_machine_counts_before_a_likeness_on_another(plan: Plan) -> None:
    top, jump = of_row(plan, "top"), of_row(plan, "jump")
    measured(top, host="elsewhere", flops_per_second=10.0)
    slow = estimator().seconds("train", [top])
    measured(jump, flops_per_second=1000.0)
    assert slow
    assert estimator().seconds("train", [top]) == pytest.approx(slow / 100)


def test_hook_points_share_one_forward_pass(plan: Plan) -> None:
    here, there = plan.specs("activations")
    tokens = plan.specs("tokenize")[0]
    counts = {"train_contexts": 100, "calibration_contexts": 32, "train_usable_by_position": [100] * 32}
    artifact = Artifacts(Path("artifacts"))[tokens.reference]
    (artifact.path / "counts.json").write_text(json.dumps(counts))
    artifact.publish({})
    measured(here, flops_per_second=1e6)
    one, other = (estimator().seconds("activations", [spec]) for spec in (here, there))
    assert one
    assert other == pytest.approx(2 * one)  # it lies twice as deep
    assert estimator().seconds("activations", [here, there]) == other


def test_activations_wait_for_the_tokens_to_be_counted(plan: Plan) -> None:
    measured(plan.specs("activations")[0], flops_per_second=1e6)
    assert estimator().seconds("activations", plan.specs("activations")) is None


def test_evaluation_takes_its_tokens_times_its_dictionaries(plan: Plan) -> None:
    measured(of_row(plan, "top", "eval"), tokens_per_second=512.0, in_pass=4)
    assert estimator().seconds("eval", [of_row(plan, "top", "eval")]) == 1024 / (512 * 4)


def test_an_old_or_broken_provenance_is_passed_over(plan: Plan) -> None:
    measured(of_row(plan, "top"), flops_per_second=1000.0)
    measured(of_row(plan, "batch"))
    (Path("artifacts") / of_row(plan, "plain").reference / "run.json").write_text("{")
    assert estimator().seconds("train", [of_row(plan, "plain")])


def test_a_plan_says_how_long_and_of_what_it_does_not_know(made: Path, lmsae: Lmsae) -> None:
    said = lmsae("plan", "--set", "train.tokens=80000", "--set", "train.epochs=20").out
    train = next(line for line in said.splitlines() if line.startswith("train"))
    assert "320 k tokens, ~" in train
    assert " to come, as finished artifacts took and one pass after the other\n" in said
    assert "no estimate yet" not in said
    for run in (made / "artifacts" / "eval").glob("*/run.json"):
        run.unlink()
    assert "; no estimate yet of eval" in lmsae("plan", "--set", "eval.tokens=512").out.replace("\nno", "; no")


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, ""), (0.2, "~1 s"), (40, "~40 s"), (600, "~10 min"), (9000, "~2.5 h")]
)
def test_times_read_easily(seconds: float | None, text: str) -> None:
    assert format_estimate(seconds) == text
