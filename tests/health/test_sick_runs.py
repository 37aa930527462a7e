"""Real dictionaries on the real built-in model: each of the six illnesses is named, and no healthy one is blamed."""

import codecs
import contextlib
import json
import sysconfig
from pathlib import Path

import pytest
import yaml

from lmsae.artifacts.artifact import Artifact
from lmsae.health.case import read_case
from lmsae.health.config import PRESETS
from lmsae.health.verdict import Verdict, examine
from tests.miniature import make_until, write_sweep

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("sick runs")]

CONFIG = {
    "model": {"name": "builtin:stdlib-4m"},
    "dataset": {"name": "builtin:python-stdlib"},
    "tokenize": {"context_size": 256, "tokens": 330_000, "calibration_tokens": 16_384},
    "init": {"tokens": 2048},
    "sae": {"d_sae": 1024, "hook_point": "blocks.2.hook_resid_post"},
    "train": {"tokens": 300_000, "batch_size": 1024, "lr": 2e-3, "threshold_lr_factor": 5, "dead_threshold": 100_000},
    "eval": {"tokens": 10_000},
    "runtime": {"device": "cpu", "threads": 1, "progress": False},
}
L1, LR, WARM_UP = "sae.l1_coefficient", "train.lr", "train.lr_warm_up_steps"
TOPK = {"sae.architecture": "topk", "sae.k": "32"}
STANDARD = {"sae.architecture": "standard", L1: "1.3"}
HEALTHY = {
    "topk": TOPK,
    "jumprelu": {"sae.architecture": "jumprelu", "sae.l0_coefficient": "0.5"},
    "standard": STANDARD,
    "gated": {"sae.architecture": "gated", L1: "2"},
}
SICK = {
    "weak-topk": ("sparsity_too_weak", TOPK | {"sae.k": "400"}),
    "weak-standard": ("sparsity_too_weak", STANDARD | {L1: "0.05"}),
    "strong-topk": ("sparsity_too_strong", TOPK | {"sae.k": "2"}),
    "strong-standard": ("sparsity_too_strong", STANDARD | {L1: "20"}),
    "slow-topk": ("lr_too_low", TOPK | {LR: "1e-5"}),
    "slow-standard": ("lr_too_low", STANDARD | {LR: "2e-5"}),
    "hasty-topk": ("lr_too_high", TOPK | {LR: "0.1", WARM_UP: "0"}),
    "hasty-standard": ("lr_too_high", STANDARD | {LR: "0.1", WARM_UP: "0"}),
    "wide-topk": ("too_wide", TOPK | {"sae.d_sae": "16384", "train.tokens": "60000"}),
    "narrow-topk": ("too_few_latents", TOPK | {"sae.d_sae": "200"}),
}
"""Rows, each with the diagnosis that is its own."""


def make(folder: Path, rows: dict[str, dict[str, str]], **changes: dict[str, object]) -> dict[str, Verdict]:
    """Train and evaluate rows on the built-in model, and judge them."""
    sections = {name: {**values, **changes.get(name, {})} for name, values in CONFIG.items()}
    (folder / "config").mkdir()
    (folder / "config/config.yaml").write_text(yaml.safe_dump(sections))
    write_sweep(folder, [{"name": name, **cells} for name, cells in rows.items()])
    with contextlib.chdir(folder):
        make_until("eval")
        planned = _planned()
    return {
        name: examine(read_case(Artifact(folder / train), Artifact(folder / evaluation)), PRESETS["demo"])
        for name, (train, evaluation) in planned.items()
    }


def _planned() -> dict[str, tuple[str, str]]:
    from lmsae.planning.plan import plan_of

    plan, runtime = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {
        row.name: (
            f"{runtime.artifacts}/{row.specs['train'].reference}",
            f"{runtime.artifacts}/{row.specs['eval'].reference}",
        )
        for row in plan.rows
    }


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Verdict]:
    """All rows over one store of activations."""
    return make(tmp_path_factory.mktemp("sick"), HEALTHY | {name: cells for name, (_, cells) in SICK.items()})


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_not_blamed(verdicts: dict[str, Verdict], name: str) -> None:
    assert verdicts[name].ok, verdicts[name].findings


@pytest.mark.parametrize("name", SICK)
def test_a_sick_run_is_named_by_what_was_done_to_it_and_by_nothing_else(
    verdicts: dict[str, Verdict], name: str
) -> None:
    assert [one.name for one in verdicts[name].diagnoses] == [SICK[name][0]], verdicts[name].findings


def test_text_that_the_model_does_not_know_is_named(tmp_path: Path) -> None:
    """The library's code in a cipher: letters stand for letters 13 places on."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    text = [json.dumps({"text": codecs.encode(path.read_text("utf-8"), "rot13")}) for path in sources]
    (tmp_path / "cipher.jsonl").write_text("\n".join(text[:80]) + "\n")
    verdicts = make(
        tmp_path,
        {"topk": TOPK},
        dataset={"name": "cipher.jsonl"},
        tokenize={"tokens": 120_000},
        train={"tokens": 100_000},
    )
    assert [one.name for one in verdicts["topk"].diagnoses] == ["unknown_text"], verdicts["topk"].findings
