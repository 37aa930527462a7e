"""What several processes cannot train together is refused when it is planned, by what was found and what can be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.stages.activations import ActivationsSection
from lmsae.training.config import TrainConfig
from tests.architectures import parts
from tests.miniature import Said, row_of, write_sweep
from tests.planning.checks.refusing import refusals

CAN = ("standard", "standard_new", "jumprelu", "topk", "batchtopk", "matryoshka", "transcoder", "skip_transcoder")
CANNOT = {
    "gated": "sae.act_fn gated",
    "p_anneal": "sae.losses p_anneal",
    "abstopk": "sae.act_fn abstopk",
    "groupmax": "sae.act_fn groupmax",
    "matching_pursuit": "sae.act_fn matching_pursuit",
    "clt": "sae.geometry clt",
    "lorsa": "sae.geometry lorsa",
    "molt": "sae.geometry molt",
}


def refused(name: str, shards: int = 2, source: str = "cached", **train: Any) -> list[str]:
    dictionary, objective = parts(name, 16, 64)
    training = TrainConfig.model_validate({"tokens": 2**20, "shards": shards, **train})
    activations = ActivationsSection.model_validate({"source": source})
    found = refusals(train=training, dictionary=dictionary, objective=objective, activations=activations)
    return [message for column, message in found if column == "train.shards"]


@pytest.mark.parametrize("name", [*CAN, "crosscoder"])
def test_these_can_be_sharded(name: str) -> None:
    assert refused(name) == []


@pytest.mark.parametrize("name", CANNOT)
def test_others_are_refused_with_what_was_found_and_what_can_be(name: str) -> None:
    first, *_ = refused(name)
    assert first.startswith(f"is 2, but {CANNOT[name]} cannot be divided among processes; these can: ")
    assert first.endswith("Leave it at 1")
    assert refused(name, shards=1) == []


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"optimizer": "muon"}, "train.optimizer muon looks at more than one weight"),
        ({"optimizer": "schedule_free", "lr_schedule": "constant"}, "adam and sparse_adam work over several processes"),
        ({"resample_steps": 10}, "train.resample_steps works in one process alone"),
        ({"eval_steps": 10}, "train.eval_steps works in one process alone"),
        ({"keep_steps": "log"}, "train.keep_steps works in one process alone"),
        ({"source": "live"}, "each process would run the model for itself"),
        ({"shards": 65}, "is 65, but there are only 64 latents"),
    ],
)
def test_what_works_in_one_process_alone_is_refused(setting: dict[str, Any], said: str) -> None:
    (message,) = refused("topk", **setting)
    assert said in message


def test_a_row_is_told_its_column(fresh: Path, lmsae: Callable[..., Said]) -> None:
    write_sweep(fresh, [row_of("topk", **{"train.shards": "2"}), row_of("gated", **{"train.shards": "4"})])
    said = lmsae("plan")
    assert said.code == 2
    assert "row gated, column train.shards: is 4, but sae.act_fn gated cannot be divided" in said.err
    assert "row topk" not in said.err
