"""Hook points where there is nothing to learn: an error that names them, or a null where there is no number."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lmsae.stages import STAGES
from tests.miniature import ROWS, Said, write_sweep

HOOK = "blocks.1.hook_mlp_out"
NO_SHARE = {
    *("explained_variance", "explained_variance_legacy", "frac_variance_explained"),
    "saelens_explained_variance_legacy",
    *("ce_loss_score_mean", "kl_div_score_mean"),
}


def write_everywhere(folder: Path, value: float) -> None:
    """Make the last MLP of the miniature's model write one vector whatever it reads, of values from 0 to this."""
    file = folder / "model/model.safetensors"
    weights = load_file(file)
    for name in weights:
        if "layers.1.mlp.dense_4h_to_h" in name:
            bias = torch.linspace(0, value, len(weights[name]))
            weights[name] = bias if name.endswith("bias") else torch.zeros_like(weights[name])
    save_file(weights, file, metadata={"format": "pt"})


def make_all_but_the_report(lmsae: Callable[..., Said]) -> dict[str, Said]:
    return {
        command: lmsae(command) for command in ("plan", *[name for name in STAGES if name not in ("import", "report")])
    }


def test_a_hook_point_that_is_0_everywhere_is_named_before_anything_is_trained(
    fresh: Path, lmsae: Callable[..., Said]
) -> None:
    write_everywhere(fresh, 0.0)
    write_sweep(fresh, [{**ROWS[0], "sae.hook_point": HOOK}])
    said = make_all_but_the_report(lmsae)["norm"]
    assert said.code == 2
    assert f"{HOOK} is 0 at all" in said.err


@pytest.mark.parametrize("value", [0.5, 0.1])
def test_a_constant_hook_point_has_nulls_for_shares_of_what_is_not_there(
    value: float, fresh: Path, lmsae: Callable[..., Said]
) -> None:
    write_everywhere(fresh, value)
    constant = {**ROWS[0], "sae.hook_point": HOOK}
    write_sweep(fresh, [constant, {**constant, "name": "white", "sae.normalize_activations": "whiten"}])
    said = make_all_but_the_report(lmsae)
    assert f"{HOOK} is the same at all calibration tokens" in said["init"].err
    (evaluation,) = (fresh / "artifacts/eval").glob("*/metrics.json")
    metrics = json.loads(evaluation.read_text())
    assert {name for name, found in metrics.items() if found is None} == NO_SHARE
    assert metrics["l2_ratio"] == pytest.approx(1, abs=0.2)
    (curves,) = (fresh / "artifacts/train").glob("*/curves.csv")
    assert {line["explained_variance"] for line in csv.DictReader(curves.read_text().splitlines())} == {"nan"}
