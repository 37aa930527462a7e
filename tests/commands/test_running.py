"""Running stages: everything once, in order, resumable, and each stage by itself."""

import csv
import errno
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.errors import NoSpaceError
from lmsae.planning.estimates import Estimator
from lmsae.runtime.limits import LIBRARIES, Limit
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.version import __version__
from lmsae.stages import STAGES, STAND_INS
from lmsae.stages.making import make_artifacts
from lmsae.stages.stage import Done, Job
from lmsae.training.config import TrainConfig
from tests.miniature import ROWS, Said, keys, make_until, manifests, write_config, write_sweep

Lmsae = Callable[..., Said]


def counts(said: Said) -> dict[str, int]:
    """How many artifacts of each stage a command made."""
    assert said.code == 0, said.err
    return {line.partition(":")[0]: int(line.split()[1]) for line in said.err.splitlines()}


def test_a_finished_sweep_holds_every_artifact_and_its_report(finished: Path) -> None:
    made = [reference.partition("/")[0] for reference in manifests(finished)]
    assert {stage: made.count(stage) for stage in STAGES} == {
        "tokenize": 1,
        "import": 0,
        "divide": 0,
        "activations": 2,
        "norm": 2,
        "init": 4,
        "train": 4,
        "eval": 4,
        "features": 4,
        "page": 4,
        "report": 1,
    }
    assert (finished / "results").is_dir()


def test_page_and_table_say_how_everything_was_made(finished: Path) -> None:
    """Each setting that all rows share stands on the page once, and every setting in the table."""
    page = (finished / "results/report.html").read_text()
    facts = dict(re.findall(r"<div><dt>(.*?)</dt><dd>(.*?)</dd></div>", page))
    shared = {"train.lr": "0.001", "train.tokens": "8,192", "train.batch_size": "256", "tokenize.context_size": "32"}
    shared |= {"train.seed": "0", "init.seed": "0", "tokenize.seed": "0", "model.dtype": "float32"}
    assert {name: facts[name] for name in shared} == shared
    assert all(page.count(f"<dt>{name}</dt>") == 1 for name in shared)
    run = json.loads((finished / "results/rows/top/train/run.json").read_text())
    assert facts["trained"].startswith(f"{run['finished'][:10]}; lmsae {__version__}")
    with open(finished / "results/table.csv", newline="") as file:
        top, batch, plain, jump = csv.DictReader(file)
    assert (top["train.lr"], top["train.tokens"], top["sae.k"], top["sae.act_fn"]) == ("0.001", "8192", "4", "topk")
    assert (top["provenance.train.finished"], top["provenance.eval.lmsae"]) == (run["finished"], __version__)
    assert (plain["sae.k"], plain["sae.l1_coefficient"], jump["sae.l0_coefficient"]) == ("", "1.0", "0.1")
    assert batch["dataset.digest"] == top["dataset.digest"] != ""
    fields = TrainConfig.model_fields.items()
    every = {f"train.{name}" for name, field in fields if field.default is not None}
    assert every <= top.keys()


def test_a_second_run_makes_nothing_and_ends_with_the_table_and_the_place_of_the_report(
    made: Path, lmsae: Lmsae
) -> None:
    said = lmsae("run")
    assert set(counts(said).values()) == {0}
    table = said.out.splitlines()
    assert [line.split()[0] for line in table if line][:5] == ["row", *(row["name"] for row in ROWS)]
    assert table[-1] == "The report is results/report.html"


def test_training_shows_loss_l0_and_explained_variance_in_its_bar(
    fresh: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_config(fresh, runtime={"progress": True})
    write_sweep(fresh, ROWS[:1])
    make_until("train")
    bar = capfd.readouterr().err.rpartition("train: 100%")[2]
    assert re.search(r"token/s, loss [\d.]+, L0 4, explained variance 0\.\d+\]", bar)


def test_a_new_row_makes_only_what_no_earlier_row_has(made: Path, lmsae: Lmsae) -> None:
    write_sweep(made, [*ROWS, {**ROWS[0], "name": "new", "train.lr": "0.002"}])
    wanted = {"tokenize": 0, "activations": 0, "norm": 0, "init": 0, "train": 1, "eval": 1} | {
        "features": 1,
        "page": 1,
        "report": 1,
    }
    assert counts(lmsae("run")) == wanted


@pytest.mark.slow
def test_stage_after_stage_makes_the_same_as_one_run(fresh: Path, finished: Path, lmsae: Lmsae) -> None:
    lmsae("plan")
    for stage in STAGES:
        assert counts(lmsae(stage)) == {stage: len(keys(fresh, stage))}
    assert manifests(fresh) == manifests(finished)


def test_the_index_of_a_stage_is_a_digest_of_each_manifest_the_same_anywhere(made: Path, lmsae: Lmsae) -> None:
    lmsae("train")
    index = made / "artifacts" / "index" / "train.json"
    before = index.read_bytes()
    assert sorted(json.loads(before)) == sorted(f"train/{key}" for key in keys(made, "train"))
    for key in keys(made, "train"):
        Artifact(made / "artifacts" / "train" / key).clear()
    lmsae("train")
    assert index.read_bytes() == before


def test_one_artifact_can_be_made_by_its_key(made: Path, lmsae: Lmsae) -> None:
    first, second = keys(made, "train")[:2]
    for key in (first, second):
        Artifact(made / "artifacts" / "train" / key).clear()
    assert counts(lmsae("train", first[:8])) == {"train": 1}
    assert f"train/{second}" not in manifests(made)


def test_an_artifact_whose_input_is_not_made_says_which_command_makes_it(made: Path, lmsae: Lmsae) -> None:
    init = keys(made, "init")[0]
    Artifact(made / "artifacts" / "init" / init).clear()
    Artifact(made / "artifacts" / "train" / keys(made, "train")[0]).clear()
    said = lmsae("train", keys(made, "train")[0])
    assert (said.code, f"`lmsae init {init}`" in said.err) == (2, True)


def test_a_row_that_fails_costs_no_other_its_results_and_the_report_names_it(fresh: Path, lmsae: Lmsae) -> None:
    """One breaks down in training, beside another in one pass. Another reads a projection that begins at 0."""
    weights = load_file(fresh / "model/model.safetensors")
    for name in weights:
        if "layers.1.mlp.dense_4h_to_h" in name:
            weights[name].zero_()
    save_file(weights, fresh / "model/model.safetensors", metadata={"format": "pt"})
    write_config(fresh, train={"grad_clip": 0})
    zero = {**ROWS[0], "name": "zero", "sae.hook_point": "blocks.1.hook_mlp_out"}
    write_sweep(fresh, [{**ROWS[1], "name": "burst", "train.lr": "1e30"}, ROWS[0], zero])
    said = lmsae("run")
    assert said.code == 2
    assert re.search(r"train/\w+ \(row burst\): the loss is .* Lower train\.lr", said.err)
    assert re.search(r"norm/\w+ \(row zero\): blocks\.1\.hook_mlp_out is 0 at all", said.err)
    assert "init: 2 made, 0 there already\n" in said.err
    table = (fresh / "results/table.csv").read_text().splitlines()
    assert [line.partition(",")[0] for line in table] == ["name", "top"]
    assert "burst (not trained), zero (not trained)" in (fresh / "results/report.html").read_text()
    rows = {path.name: {stage.name for stage in path.iterdir()} for path in (fresh / "results/rows").iterdir()}
    assert rows["burst"] == {"tokenize", "activations", "norm", "init"}
    assert rows["zero"] == {"tokenize", "activations"}
    assert all(link.exists() for link in (fresh / "results/rows").glob("*/*"))
    assert [path.name for path in (fresh / "results/saelens").iterdir()] == ["top"]


@pytest.mark.slow
def test_the_report_of_all_rows_takes_the_place_of_one_that_lacked_some(made: Path, lmsae: Lmsae) -> None:
    whole = (made / "results/report.html").read_bytes()
    lost = Artifact(made / "artifacts/eval" / keys(made, "eval")[0])
    for artifact in (lost, Artifact(made / "artifacts/report" / keys(made, "report")[0])):
        artifact.clear()
    said = lmsae("report")
    assert said.code == 2
    assert "1 of its 12 inputs are not finished" in said.err
    assert "top (not evaluated)" in (made / "results/report.html").read_text()
    assert lmsae("run").code == 0
    assert (made / "results/report.html").read_bytes() == whole


FULL = os.strerror(errno.ENOSPC)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, FULL), SafetensorError(f"I/O error: {FULL} (os error 28)")])
def test_a_disk_that_fills_up_is_said_to_be_full_by_whichever_library_meets_it(made: Path, error: Exception) -> None:
    def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
        yield jobs[0], {}
        raise error

    references = [f"train/{key}" for key in keys(made, "train")]
    for reference in references:
        Artifact(made / "artifacts" / reference).clear()
    with pytest.raises(NoSpaceError, match=r"the disk became full.*lmsae gc.*run again"):
        make_artifacts(replace(STAGES["train"], make=make), references, Artifacts(made / "artifacts"), Runtime())
    assert len([reference for reference in manifests(made) if reference in references]) == 2  # one of each pass


def test_company_does_not_change_an_artifact(fresh: Path, finished: Path) -> None:
    """The last row in the same sheet as others, and all by itself with other passes."""
    write_sweep(fresh, [ROWS[2]])
    write_config(fresh, runtime={"device": "cpu", "threads": 1, "together": 1})
    make_until("eval")
    alone = manifests(fresh)
    assert len(alone) == 6
    assert alone.items() <= manifests(finished).items()


def test_provenance_stands_beside_the_manifest_and_not_in_it(finished: Path) -> None:
    for run in (finished / "artifacts").glob("*/*/run.json"):
        provenance = json.loads(run.read_text())
        assert {"lmsae", "python", "libraries", "host", "started", "seconds", "peak_memory_bytes"} <= provenance.keys()
        assert provenance["peak_memory_bytes"]["host"] > 1e6
        assert provenance["host"] not in run.with_name("manifest.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("stage", [stage for stage in STAGES if stage not in STAND_INS])
def test_a_stage_can_be_called_by_itself(finished: Path, tmp_path: Path, stage: str, monkeypatch) -> None:
    """As in a notebook: a config, opened inputs and a folder are all that it needs."""
    monkeypatch.chdir(finished)  # the names of the miniature's model and text are relative
    artifacts = Artifacts(finished / "artifacts")
    artifact = artifacts.find(f"{stage}/{keys(finished, stage)[0]}")
    spec = artifact.spec()
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    job = Job("mine", STAGES[stage].config.model_validate(spec.config), inputs, tmp_path)
    ((done, facts),) = STAGES[stage].make([job], Runtime(device="cpu"))
    assert done is job
    assert isinstance(facts, dict)
    for entry in artifact.manifest()["files"]:
        assert (tmp_path / entry["path"]).read_bytes() == (artifact.path / entry["path"]).read_bytes(), entry["path"]


def limit_memory(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    """Let passes have so much room beside the libraries, as a control group would."""
    limit = Limit(LIBRARIES["resident"] + room, "the memory limit of its control group (memory.max)")
    monkeypatch.setattr("lmsae.stages.fitting.tightest_limit", lambda: limit)


def test_a_row_that_does_not_fit_into_memory_is_told_and_costs_no_other_its_result(
    fresh: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(fresh, [ROWS[0], {**ROWS[0], "name": "huge", "sae.d_sae": "5000"}])
    assert lmsae("plan").code == 0
    for stage in ("tokenize", "activations", "norm", "init"):
        assert lmsae(stage).code == 0
    limit_memory(monkeypatch, 20_000_000)
    said = lmsae("train")
    assert said.code == 2
    assert "train: 1 made, 0 there already, 1 failed" in said.err
    told = said.err.splitlines()[-1]
    assert told.startswith(
        "lmsae train: train needs about 647 MB of memory, 480 MB of them for the libraries, and the "
    )
    assert "the memory limit of its control group (memory.max) is 500 MB. 164 MB are the pre-activations that " in told
    assert "thresholds are calibrated on: lower tokenize.calibration_tokens, or raise the limit" in told


def test_a_pass_that_does_not_fit_is_made_in_several_to_the_same_bytes(
    made: Path, lmsae: Lmsae, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, references = manifests(made), [f"train/{key}" for key in keys(made, "train")[:2]]
    for reference in references:
        Artifact(made / "artifacts" / reference).remove()
    assert lmsae("plan", "--quiet").code == 0
    artifacts = Artifacts(made / "artifacts")
    outlook = Estimator(artifacts, "cpu")
    memory = STAGES["train"].effort.memory
    footprints = [memory([outlook.spec(one) for one in some], outlook) for some in (references[:1], references)]
    one, both = (footprint.nbytes for footprint in footprints if footprint)
    assert one < both
    limit_memory(monkeypatch, (one + both) // 2)
    said = lmsae("train")
    assert said.code == 0, said.err
    assert "train: 2 passes in the place of one, which does not fit into memory" in said.err
    assert manifests(made) == before
