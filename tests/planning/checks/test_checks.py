"""All checks are run, each where what it reads is known; a fault hides no other."""

import inspect
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.errors import Fault
from lmsae.planning import resolver
from lmsae.planning.checks import CHECKS
from lmsae.planning.draft import Draft
from lmsae.planning.plan import plan_of
from lmsae.planning.sheet import Row
from tests.miniature import ROWS, Said, write_sweep


def test_every_check_is_run_for_a_sound_row_whose_tokens_are_counted(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts: list[Draft] = []

    class Kept(Draft):
        def __init__(self, row: Row, faults: list[Fault]) -> None:
            super().__init__(row, faults)
            drafts.append(self)

    monkeypatch.setattr(resolver, "Draft", Kept)
    plan_of(made / "config/config.yaml", made / "config/sweep.tsv", [], {})
    assert len(drafts) == len(ROWS)
    # A start from a finished dictionary is known of rows that have one (tests/planning/test_adopting.py), and files of
    # rows that read them (tests/planning/checks/test_without_model.py).
    checks = {check for check in CHECKS if not {"start", "from_files"} & {*inspect.signature(check).parameters}}
    names = {name for check in checks for name in inspect.signature(check).parameters}
    assert all(names <= draft.known.keys() for draft in drafts)
    assert all(draft.checked == checks for draft in drafts)


def test_a_check_is_run_once_and_only_where_all_is_known_that_it_reads(fresh: Path, lmsae: Callable[..., Said]) -> None:
    # No hook point is found, so no check that reads places or widths can run; the others do, and once each.
    wrong = {"sae.hook_point": "blocks.9.hook_resid_post", "train.initial_k": "999", "train.resample_steps": "5"}
    write_sweep(fresh, [{**ROWS[0], **wrong, "activations.skip_first_positions": "40"}])
    said = lmsae("plan")
    assert said.code == 2
    assert said.err.count("column sae.hook_point: ") == 1
    assert said.err.count("column train.initial_k: ") == 1
    assert said.err.count("column activations.skip_first_positions: ") == 1


def test_a_model_that_cannot_be_run_as_it_is_is_a_fault_of_its_row(fresh: Path, lmsae: Callable[..., Said]) -> None:
    config = json.loads((fresh / "model" / "config.json").read_text())
    (fresh / "model" / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    said = lmsae("plan")
    assert said.code == 2
    assert "column model.name: model model: its weights are quantized (" in said.err
