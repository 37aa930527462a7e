"""Training with the language model at hand, as commands run it: end-to-end losses, and starts from its weights."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.artifacts.artifact import Artifact
from lmsae.dictionary.dictionary import Dictionary
from lmsae.planning.plan import plan_of
from lmsae.stages.inputs.stored import calibration_batch
from lmsae.stages.train import Config
from tests.miniature import Said, make_until, write_sweep

HERE = {"sae.hook_point": "blocks.0.hook_resid_post", "sae.architecture": "topk", "sae.k": "4"}
E2E = HERE | {"sae.losses": "aux_k e2e_kl", "sae.e2e_kl_coefficient": "1000"}
CE = HERE | {"sae.losses": "e2e_ce", "sae.e2e_ce_coefficient": "100"}
MLP = {
    "sae.architecture": "transcoder",
    "sae.hook_point_in": "blocks.1.ln2.hook_normalized",
    "sae.hook_point_out": "blocks.1.hook_mlp_out",
    "sae.act_fn": "relu",
    "sae.losses": "l1",
    "sae.l1_coefficient": "0.01",
}
HEADS = {
    "sae.architecture": "lorsa",
    "sae.hook_point_in": "blocks.1.ln1.hook_normalized",
    "sae.hook_point_out": "blocks.1.hook_attn_out",
    "sae.lorsa_qk_heads": "2",
    "sae.lorsa_d_qk": "8",
    "sae.lorsa_rotary_dim": "2",
    "sae.k": "16",
}
FROM_MODEL = {"init.from_model": "true"}
Command = Callable[..., Said]


def made_by(stage: str, rows: dict[str, dict[str, str]]) -> dict[str, Path]:
    """The artifact that a stage makes of each row."""
    write_sweep(Path(), [{"name": name} | row for name, row in rows.items()])
    make_until(stage)
    plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {row.name: Path("artifacts", row.specs[stage].reference) for row in plan.rows}


def curves(trained: Path) -> list[dict[str, float]]:
    with open(trained / "curves.csv") as file:
        return [{name: float(value) for name, value in line.items()} for line in csv.DictReader(file)]


@pytest.mark.usefixtures("made")
def test_an_end_to_end_row_lowers_the_divergence_below_that_of_a_plain_one() -> None:
    rows = {"plain": HERE, "e2e_kl": E2E, "e2e_ce": CE}
    scored = made_by("eval", rows)
    kl = {name: json.loads((artifact / "metrics.json").read_text())["kl_div"] for name, artifact in scored.items()}
    assert kl["e2e_kl"] < 0.9 * kl["plain"]
    trained = made_by("train", rows)
    for name in ("e2e_kl", "e2e_ce"):
        points = curves(trained[name])
        assert points[-1][f"{name}_loss"] < points[0][f"{name}_loss"]


@pytest.mark.slow
@pytest.mark.usefixtures("made")
def test_rows_come_out_the_same_alone_and_in_company_of_end_to_end_rows() -> None:
    rows = {"plain": HERE, "end_to_end": E2E}
    artifacts = [made_by("train", {name: row})[name] for name, row in rows.items()]
    files = [artifact / name for artifact in artifacts for name in ("dictionary.safetensors", "curves.csv")]
    alone = [file.read_bytes() for file in files]
    for artifact in artifacts:
        shutil.rmtree(artifact)
    made_by("train", {**rows, "more": E2E | {"sae.k": "5"}, "less": E2E | {"sae.e2e_kl_coefficient": "10"}})
    assert [file.read_bytes() for file in files] == alone


def test_only_rows_with_end_to_end_losses_hold_the_model_in_their_spec(fresh: Path) -> None:
    write_sweep(fresh, [{"name": "plain"} | HERE, {"name": "end"} | E2E])
    plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), (), {})
    found = [row.specs["train"].config for row in plan.rows]
    spliced = [config["spliced"] for config in found if config["spliced"]]
    assert len(found) == 2
    assert [(one["hook_points"], one["model"]["backend"]) for one in spliced] == [
        ([HERE["sae.hook_point"]], "huggingface")
    ]


@pytest.mark.slow
@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("row", [MLP, HEADS])
def test_a_dictionary_that_starts_from_the_model_reconstructs_better_than_a_random_one(row: dict[str, str]) -> None:
    made = made_by("train", {"random": row, "model": row | FROM_MODEL})
    first = {name: curves(folder)[0]["reconstruction_loss"] for name, folder in made.items()}
    assert first["model"] < first["random"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (MLP | FROM_MODEL | {"sae.hook_point_in": "blocks.1.hook_resid_pre"}, "not from blocks.1.hook_resid_pre to"),
        (HEADS | {"train.batch_size": "16"}, "16 tokens hold no whole context of 32"),
        (E2E | {"train.batch_size": "16"}, "16 tokens hold no whole context of 32"),
        (
            E2E
            | {"sae.architecture": "crosscoder", "sae.l1_coefficient": "1", "sae.losses": "l1 e2e_kl"}
            | {"sae.k": "", "model.others": "model"},
            "e2e_kl runs one model, not several",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_planning(fresh: Path, lmsae: Command, row: dict[str, str], said: str) -> None:
    write_sweep(fresh, [{"name": "wrong"} | row])
    answer = lmsae("plan")
    assert answer.code != 0
    assert said in answer.err + answer.out


@pytest.mark.parametrize("row", ["batch", "whole"])
def test_a_learned_threshold_ends_where_l0_is_k_on_calibration_tokens(made: Path, row: str) -> None:
    """After a run so short that its running mean is far from there; also where a dictionary reads whole contexts."""
    rows = {
        "batch": HERE | {"sae.architecture": "batchtopk"},
        "whole": HEADS | {"sae.act_fn": "batchtopk", "sae.k": "3"},
    }
    trained = made_by("train", {row: rows[row]})[row]
    artifact = Artifact(trained)
    config = Config.model_validate(artifact.spec().config)
    inputs = {name: Artifact(made / "artifacts" / one) for name, one in artifact.spec().inputs.items()}
    dictionary = Dictionary.load(trained)
    batch = calibration_batch(dictionary.config, config.sites, inputs, config)
    codes = dictionary.encode(batch.x)
    codes = codes if batch.usable is None else codes[batch.usable]
    k = int(rows[row]["sae.k"])
    assert codes.count_nonzero().item() == pytest.approx(
        k * len(codes), abs=3
    )  # products of other sizes round otherwise
