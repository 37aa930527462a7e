"""A dictionary's scores beside those of its controls, which are the rows that differ in what is frozen alone."""

import csv
from pathlib import Path

import pytest

from lmsae.report.controls import best_control, find_controls
from lmsae.report.results import read_results
from tests.report.sweeps import Sweep

FROZEN_DECODER = {"train.decoder_lr_factor": 0.0, "train.encoder_lr_factor": 1.0}
FROZEN_ENCODER = {"train.decoder_lr_factor": 1.0, "train.encoder_lr_factor": 0.0}
SOFT_FROZEN = {**FROZEN_DECODER, "train.decoder_lr_factor": 1.0, "train.decoder_min_cosine": 0.8}
RANDOM = {"train.decoder_lr_factor": 0.0, "train.encoder_lr_factor": 0.0, "train.bias_lr_factor": 0.0}
FREE = {"train.decoder_lr_factor": 1.0, "train.encoder_lr_factor": 1.0}


@pytest.fixture
def controlled(sweep: Sweep) -> Sweep:
    sweep.add("good", {"explained_variance": 0.9, "ce_loss_score_mean": 0.95}, FREE)
    sweep.add("fixed", {"explained_variance": 0.8, "ce_loss_score_mean": 0.9}, FROZEN_DECODER)
    sweep.add("deaf", {"explained_variance": 0.6, "ce_loss_score_mean": 0.7}, FROZEN_ENCODER)
    sweep.add("soft", {"explained_variance": 0.85, "ce_loss_score_mean": 0.92}, SOFT_FROZEN)
    sweep.add("random", {"explained_variance": 0.1, "ce_loss_score_mean": 0.2}, RANDOM)
    sweep.add("pca", {"explained_variance": 0.7}, {**RANDOM, "init.decoder_init": "pca", "sae.d_sae": 4})
    sweep.add("other-k", {"explained_variance": 0.5}, {**FREE, "sae.k": "7"})
    sweep.add("other-k-fixed", {"explained_variance": 0.4}, {**FROZEN_DECODER, "sae.k": "7"})
    sweep.add("alone", {}, {**FREE, "sae.k": "8"})
    return sweep


def test_controls_are_the_rows_that_differ_in_what_is_frozen(controlled: Sweep) -> None:
    found = find_controls(read_results(controlled.config, controlled.inputs))
    assert [(one.result.name, one.control.name, one.kind) for one in found] == [
        ("good", "fixed", "frozen decoder"),
        ("good", "deaf", "frozen encoder"),
        ("good", "soft", "soft-frozen decoder (0.8)"),
        ("good", "random", "random"),
        ("good", "pca", "PCA"),
        ("other-k", "other-k-fixed", "frozen decoder"),
    ]
    hardest = best_control(found, "good")
    assert hardest is not None
    assert hardest.name == "soft"
    assert best_control(found, "alone") is None


@pytest.mark.slow
def test_the_table_has_each_dictionarys_hardest_control_and_its_scores(controlled: Sweep) -> None:
    with open(controlled.report().path / "table.csv", newline="") as file:
        table = {line["name"]: line for line in csv.DictReader(file)}
    good, alone = table["good"], table["alone"]
    assert (good["control"], good["control.explained_variance"], good["control.ce_loss_score_mean"]) == (
        "soft",
        "0.85",
        "0.92",
    )
    assert table["other-k"]["control"] == "other-k-fixed"
    assert alone["control"] == alone["control.explained_variance"] == table["fixed"]["control"] == ""


@pytest.mark.slow
def test_the_page_says_what_a_dictionary_is_better_by(controlled: Sweep) -> None:
    html = (controlled.report().path / "report.html").read_text()
    section = html.split('id="controls"')[1].split("</table>")[0]
    cells = '<td class="n">0.900</td><td class="n">0.800</td><td class="n">0.100</td>'
    assert cells in section
    assert "frozen encoder" in section
    assert "soft-frozen decoder (0.8)" in section


@pytest.mark.slow
def test_probes_are_read_beside_those_of_controls_by_the_number_of_latents(sweep: Sweep) -> None:
    sweep.add("good", {"probe_auc[k=1]": 0.9, "probe_auc[k=16]": 0.97, "probe_auc[k=2]": 0.92}, FREE)
    sweep.add("fixed", {"probe_auc[k=1]": 0.85, "probe_auc[k=16]": 0.95, "probe_auc[k=2]": 0.9}, FROZEN_DECODER)
    folder = sweep.report().path
    header, good, *_ = csv.reader((folder / "table.csv").read_text().splitlines())
    beside = [name for name in header if name.startswith("control.probe")]
    assert beside == [f"control.probe_auc[k={k}]" for k in (1, 2, 16)]
    assert [good[header.index(name)] for name in beside] == ["0.85", "0.9", "0.95"]
    section = (folder / "report.html").read_text().split('id="controls"')[1].split("</table>")[0]
    assert '<td class="n">0.900</td><td class="n">0.850</td><td class="n">0.050</td>' in section


def test_a_sweep_without_controls_has_no_word_of_them(reported: Path) -> None:
    assert 'id="controls"' not in (reported / "report.html").read_text()
    assert "control" not in (reported / "table.csv").read_text().splitlines()[0]
