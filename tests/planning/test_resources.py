"""What a scheduler is asked for: what the plan tells, with room to spare, and more where that was too little."""

from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifacts
from lmsae.planning.estimates import Estimator
from lmsae.planning.plan import plan_of
from lmsae.planning.resources import MEMORY_MARGIN, Resources, resources_of
from lmsae.stages import STAGES
from lmsae.stages.fitting import total
from tests.planning.test_estimates import measured

CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")
TEXT = ["tokenize.tokens=20000"]  # so that it is known how much there is to read


def asked(stage: str, *overrides: str, device: str = "cpu", **how: Any) -> Resources:
    """The resources of the first pass of a stage of the miniature, of which nothing is made."""
    plan, runtime = plan_of(CONFIG, SWEEP, [*TEXT, *overrides], {"device": device})
    return resources_of(STAGES[stage], plan.passes(stage, runtime.together)[0], Estimator.of(plan, runtime), **how)


def test_memory_is_that_of_the_plan_with_a_margin(fresh: Path) -> None:
    plan, runtime = plan_of(CONFIG, SWEEP, [*TEXT, "sae.d_sae=4096"], {})
    specs, outlook = plan.passes("train", runtime.together)[0], Estimator.of(plan, runtime)
    footprint = STAGES["train"].effort.memory(specs, outlook)
    assert footprint is not None
    megabytes = resources_of(STAGES["train"], specs, outlook).megabytes
    assert 0 <= megabytes - (MEMORY_MARGIN * total(footprint) / 10**6 + 500) < 250


@pytest.mark.usefixtures("fresh")
def test_256_latents_ask_for_little_and_65536_for_much() -> None:
    small, large = asked("train", "sae.d_sae=256"), asked("train", "sae.d_sae=65536", "train.tokens=8192")
    assert small == Resources(megabytes=1500, minutes=30, gpus=0)
    assert large.megabytes > 2 * small.megabytes


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_only_stages_of_a_device_ask_for_a_gpu_and_none_where_the_device_is_the_cpu(device: str) -> None:
    wanted = {"activations", "init", "train", "eval", "features"} if device != "cpu" else set[str]()
    plan, runtime = plan_of(CONFIG, SWEEP, [], {"device": device})
    outlook, stages = Estimator.of(plan, runtime), [stage for stage in STAGES if plan.specs(stage)]
    gpus = {stage: resources_of(STAGES[stage], plan.specs(stage)[:1], outlook).gpus for stage in stages}
    assert {stage for stage, count in gpus.items() if count == 1} == wanted
    assert {*stages} - wanted == {stage for stage, count in gpus.items() if count == 0}


@pytest.mark.usefixtures("fresh")
def test_a_dictionary_over_four_processes_asks_for_four_gpus() -> None:
    assert asked("train", "train.shards=4", "train.batch_size=256", device="cuda").gpus == 4


def test_time_is_that_of_finished_artifacts_with_a_margin(fresh: Path) -> None:
    plan, runtime = plan_of(CONFIG, SWEEP, [], {"device": "cpu"})
    plan.write_specs(Artifacts(fresh / "artifacts"))
    specs = plan.specs("eval")
    measured(specs[0], tokens_per_second=specs[0].config["tokens"] / 1200, in_pass=1)
    outlook = Estimator.of(plan, runtime)
    assert outlook.seconds("eval", specs[:1]) == pytest.approx(1200)
    assert resources_of(STAGES["eval"], specs[:1], outlook).minutes == 60
    assert resources_of(STAGES["eval"], specs[:1], outlook, attempt=2).minutes == 120
    blind = Estimator.of(plan, runtime, measures=False)
    assert resources_of(STAGES["eval"], specs[:1], blind).minutes == 240, "what nobody knows is given four hours"


@pytest.mark.usefixtures("fresh")
def test_training_that_is_known_to_be_long_is_given_a_day_at_a_time_for_it_goes_on() -> None:
    long = ("train.tokens=100000000000", "train.epochs=1000000000")
    assert asked("train", *long).minutes == asked("train", *long, attempt=2).minutes == 24 * 60


@pytest.mark.usefixtures("fresh")
def test_a_later_attempt_gets_more_memory_unless_the_one_before_was_stopped() -> None:
    first, again = asked("train"), asked("train", attempt=3)
    assert 0 <= 3 * first.megabytes - again.megabytes < 3 * 250
    assert asked("train", attempt=3, ran_out_of_memory=False) == first


@pytest.mark.usefixtures("fresh")
def test_live_activations_bring_their_model_along() -> None:
    plan, runtime = plan_of(CONFIG, SWEEP, [*TEXT, "activations.source=live"], {"device": "cpu"})
    outlook = Estimator.of(plan, runtime)
    for stage in ("train", "features"):
        footprint = STAGES[stage].effort.memory(plan.specs(stage)[:1], outlook)
        assert footprint is not None
        assert "the weights of the language model" in {part.what for part in footprint.parts}
