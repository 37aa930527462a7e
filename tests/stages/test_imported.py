"""import: any finished dictionary becomes an artifact like that of training, and its row is evaluated like others."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.cli import main
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import ChangedSource, FolderError, MissingArtifact
from lmsae.planning.plan import plan_of
from lmsae.runtime.runtime import Runtime
from lmsae.stages.imported import STAGE
from lmsae.stages.making import make_artifacts
from lmsae.stages.stage import Job
from tests.interop import test_dictionary_learning, test_openmoss, test_sparsify
from tests.interop.peers import exported, made_as, rewritten, saelens
from tests.miniature import ROWS, THERE, Said, keys, make_until, row_of, write_config, write_sweep
from tests.planning.peer_folders import write_peer

Lmsae = Callable[..., Said]
CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")


def metrics(row: str) -> dict[str, Any]:
    planned = {one.name: one for one in plan_of(CONFIG, SWEEP, [], {})[0].rows}
    return json.loads((Path("artifacts") / planned[row].specs["eval"].reference / "metrics.json").read_text())


def dictionary_of(row: str) -> Path:
    planned = {one.name: one for one in plan_of(CONFIG, SWEEP, [], {})[0].rows}
    return Path("artifacts") / planned[row].dictionary.reference


def assert_nearly(found: dict[str, Any], wanted: dict[str, Any], relative: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == pytest.approx(value, rel=relative, nan_ok=True), name


@pytest.mark.usefixtures("made")
def test_a_dictionary_that_went_to_saelens_and_back_is_evaluated_as_its_own_row() -> None:
    names = [row["name"] for row in ROWS]
    back = [{"name": f"{name}-back", "sae.from": f"results/saelens/{name}"} for name in names]
    own = [{"name": f"{name}-key", "sae.from": keys(Path(), "train")[number]} for number, name in enumerate(names)]
    write_sweep(Path(), [*ROWS, *back, *own])
    make_until("eval")
    for name in names:
        # As an artifact it is the same to the bit. In SAELens scales are folded into the weights, which rounds.
        assert metrics(f"{name}-key") == metrics(name)
        assert_nearly(metrics(f"{name}-back"), metrics(name), relative=2e-5)
    config = Dictionary.load(dictionary_of("batch-back")).config
    assert (config.act_fn.kind, config.normalize_activations) == ("batchtopk", "none")


@pytest.mark.usefixtures("made")
def test_the_report_and_results_have_an_imported_dictionary_as_any_other() -> None:
    shutil.copytree("results/saelens/top", "peer")
    write_sweep(Path(), [ROWS[0], {"name": "theirs", "sae.from": "peer"}])
    assert main(["run"]) == 0
    with open("results/table.csv", newline="") as file:
        ours, theirs = csv.DictReader(file)
    assert (theirs["sae.d_sae"], theirs["sae.k"], theirs["sae.act_fn"]) == ("64", "4", "topk")
    assert (theirs["sae.from"], theirs["model.name"], theirs["sae.hook_point"]) == (
        "peer",
        "model",
        "blocks.0.hook_resid_post",
    )
    assert (ours["train.lr"], theirs["train.lr"], theirs["artifacts.train"]) == ("0.001", "", "")
    assert theirs["artifacts.import"] == dictionary_of("theirs").relative_to("artifacts").as_posix()
    assert float(theirs["explained_variance"]) == pytest.approx(float(ours["explained_variance"]), rel=1e-5)
    assert (Path("results/rows/theirs/import") / "dictionary.json").is_file()
    exported_again = Dictionary.load(dictionary_of("theirs"))
    x = torch.randn(32, 16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(saelens(Path("results/saelens/theirs"))(x), exported_again(x), rtol=1e-4, atol=1e-4)
    metadata = json.loads(Path("results/saelens/theirs/cfg.json").read_text())["metadata"]
    assert (metadata["model_name"], metadata["hook_name"]) == ("model", "blocks.0.hook_resid_post")
    assert "theirs" in Path("results/report.html").read_text()
    assert "theirs" in Path("results/cost.html").read_text()


FORMATS: dict[str, Callable[[Path], object]] = {
    "saelens": lambda folder: rewritten(exported(made_as("jumprelu"), folder)),
    "dictionary_learning": lambda folder: test_dictionary_learning.written(folder, "BatchTopKSAE"),
    "sparsify": test_sparsify.written,
    "openmoss": test_openmoss.written,
    "lmsae": lambda folder: made_as("gated").save(folder),
}


def job_of(folder: Path, out: Path, note: str | None = None) -> Job:
    """The job of an import, with nothing but what a plan leaves beside its spec."""
    from lmsae.artifacts.digests import DigestCache
    from lmsae.planning.finder import Finder

    artifacts = Artifacts(out / "artifacts")
    found = Finder(artifacts, DigestCache(artifacts.root)).find(str(folder))
    config = STAGE.config.model_validate(found.content.model_dump())
    out.mkdir(exist_ok=True)
    (out / "source.json").write_text(json.dumps({"name": "any", "folder": str(folder)}) if note is None else note)
    return Job("import/mine", config, {}, out)


def made_of(job: Job) -> Path:
    ((done, ended),) = STAGE.make([job], Runtime(device="cpu"))
    assert done is job
    if isinstance(ended, Exception):
        raise ended
    return job.out


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_becomes_the_dictionary_that_its_loader_gives(tmp_path: Path, kind: str) -> None:
    from lmsae.interop.loading import load

    folder = tmp_path / "theirs"
    folder.mkdir()
    FORMATS[kind](folder)
    wanted, found = load(folder), Dictionary.load(made_of(job_of(folder, tmp_path / "out")))
    assert found.config == wanted.config
    x = torch.randn(16, wanted.config.d_in, generator=torch.Generator().manual_seed(0))
    assert torch.equal(found.encode(x), wanted.encode(x))
    assert torch.equal(found(x), wanted(x))


def test_files_that_changed_since_the_plan_are_refused(tmp_path: Path) -> None:
    folder = write_peer(tmp_path / "peer")
    job = job_of(folder, tmp_path / "out")
    config = json.loads((folder / "cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "device": "cuda"}))
    with pytest.raises(ChangedSource, match=r"are not those that were planned .* Plan again"):
        made_of(job)
    (folder / "cfg.json").unlink()
    with pytest.raises(FolderError, match=r"cfg.json: there is no such file"):
        made_of(job)


@pytest.mark.parametrize("note", ["", "{}", "[]", '{"folder": null}', "\\xff"])
def test_a_note_that_does_not_say_where_to_look_is_refused(tmp_path: Path, note: str) -> None:
    job = job_of(write_peer(tmp_path / "peer"), tmp_path / "out", note)
    with pytest.raises(MissingArtifact, match=r"source.json does not say where the dictionary lies"):
        made_of(job)


def test_a_config_that_promises_another_dictionary_than_the_weights_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    test_dictionary_learning.written(folder, "BatchTopKSAE")
    config = json.loads((folder / "config.json").read_text())
    k = test_dictionary_learning.load(folder).config.act_fn.model_dump()["k"]
    config["trainer"] |= {
        "k": k + 1,
        "activation_dim": 6,
        "dict_size": test_dictionary_learning.load(folder).config.d_sae,
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FolderError, match=rf"two dictionaries \(act_fn .*{k + 1}.* and .*{k}"):
        made_of(job_of(folder, tmp_path / "out"))


@pytest.mark.usefixtures("made")
def test_a_folder_that_is_moved_is_the_same_artifact_and_its_evaluation_stays() -> None:
    shutil.copytree("results/saelens/top", "peer")
    write_sweep(Path(), [{"name": "theirs", "sae.from": "peer"}])
    before = {name: spec.key for name, spec in plan_of(CONFIG, SWEEP, [], {})[0].rows[0].specs.items()}
    make_until("import")
    shutil.move("peer", "elsewhere")
    write_sweep(Path(), [{"name": "theirs", "sae.from": "elsewhere"}])
    after = plan_of(CONFIG, SWEEP, [], {})[0]
    assert {name: spec.key for name, spec in after.rows[0].specs.items()} == before
    after.write_specs(Artifacts(Path("artifacts")))
    note = json.loads((dictionary_of("theirs") / "source.json").read_text())
    assert note == {"name": "peer", "folder": "peer"}, "a finished artifact keeps the place that it was read from"
    assert Artifact(dictionary_of("theirs")).damaged_files() == []


@pytest.mark.usefixtures("fresh")
def test_a_job_takes_the_folder_of_the_last_plan() -> None:
    write_peer(Path("one"))
    write_sweep(Path(), [{"name": "theirs", "sae.from": "one"}])
    artifacts = Artifacts(Path("artifacts"))
    plan_of(CONFIG, SWEEP, [], {})[0].write_specs(artifacts)
    shutil.move("one", "two")
    write_sweep(Path(), [{"name": "theirs", "sae.from": "two"}])
    plan = plan_of(CONFIG, SWEEP, [], {})[0]
    plan.write_specs(artifacts)
    reference = plan.rows[0].dictionary.reference
    assert make_artifacts(STAGE, [reference], artifacts, Runtime(device="cpu")) == [reference]


GEOMETRIES = ("topk", "transcoder", "skip_transcoder", "crosscoder", "clt", "lorsa", "molt")


def test_a_start_from_any_geometry_is_that_dictionary_in_raw_units(fresh: Path) -> None:
    """Through the pipeline: each is trained a little, and another row starts from its key."""
    write_config(fresh, train={"tokens": 1024}, sae={"d_sae": 48})
    columns = {"sae.normalize_activations": "dataset"}
    write_sweep(fresh, [row_of(name, **columns) for name in GEOMETRIES])
    make_until("train")
    trained = {name: dictionary_of(name) for name in GEOMETRIES}
    write_sweep(fresh, [{**row_of(name), "init.from": trained[name].name} for name in GEOMETRIES])
    make_until("init")
    for row in plan_of(CONFIG, SWEEP, [], {})[0].rows:
        source, started = Dictionary.load(trained[row.name]), Dictionary.load(trained[row.name])
        for parameter in started.state_dict().values():
            parameter.zero_()
        started.load_state_dict(load_file(f"artifacts/{row.specs['init'].reference}/weights.safetensors"))
        x = 5 * torch.randn(3, 32, source.config.d_in, generator=torch.Generator().manual_seed(0))
        assert (source.encode(x) != 0).any()
        assert torch.equal(started.encode(x), source.encode(x)), row.name
        assert torch.equal(started(x), source(x)), row.name
        assert json.loads(Path(f"artifacts/{row.specs['init'].reference}/search.json").read_text()) == []


@pytest.mark.usefixtures("made")
def test_training_that_goes_on_reconstructs_other_text_better() -> None:
    text = "zyxwvutsrq"
    Path("other").mkdir()
    for file in Path("text").iterdir():
        table = str.maketrans("abcdefghij", text)
        (Path("other") / file.name).write_text(file.read_text().translate(table))
    write_config(Path(), dataset={"name": "other"})
    start = {"sae.from": "results/saelens/jump"}
    more = {"init.from": "results/saelens/jump", "sae.losses": "l0", "sae.l0_coefficient": "0.1"}
    wider = {**more, "sae.d_sae": "96"}
    write_sweep(Path(), [{"name": "as-it-was", **start}, {"name": "more", **more}, {"name": "wider", **wider}])
    make_until("eval")
    explained = {name: metrics(name)["explained_variance"] for name in ("as-it-was", "more", "wider")}
    assert explained["more"] > explained["as-it-was"] + 0.01
    assert explained["wider"] > explained["as-it-was"] + 0.01
    assert metrics("wider")["d_sae"] == 96
    before, after = (Dictionary.load(dictionary_of(name)).sparsity.state_dict() for name in ("as-it-was", "more"))
    assert not torch.equal(before["direct_threshold"], after["direct_threshold"]), "thresholds learn on"
    assert plan_of(CONFIG, SWEEP, [], {})[0].rows[1].settings["sae.hook_point"][0] == THERE


SIZES = ("tokenize.context_size=32", "tokenize.calibration_tokens=1024", "tokenize.held_out_tokens=2048")
SIZES += ("tokenize.held_out_fraction=0.2", "eval.tokens=1024")


@pytest.mark.usefixtures("made")
def test_a_dictionary_is_evaluated_without_a_sheet(lmsae: Lmsae) -> None:
    sets = [part for size in SIZES for part in ("--set", size)]
    said = lmsae("eval", "--dictionary", "results/saelens/top", "--dataset", "text", *sets)
    assert said.code == 0, said.err
    table = dict(line.split() for line in said.out.splitlines())
    assert float(table["explained_variance"]) == pytest.approx(metrics("top")["explained_variance"], rel=1e-4)
    assert [*table][:2] == ["l0", "explained_variance"]
    assert "eval: 1 made, 0 there already" in said.err
    again = lmsae("eval", "--dictionary", "results/saelens/top", "--dataset", "text", *sets)
    assert again.out == said.out
    assert "eval: 0 made, 1 there already" in again.err
    assert "train" not in again.err
    elsewhere = lmsae("eval", "--dictionary", "results/saelens/top", "--hook-point", THERE, "--dataset", "text", *sets)
    assert (elsewhere.code, elsewhere.out) == (2, "")
    assert "results/saelens/top was trained on blocks.0.hook_resid_post" in elsewhere.err
    missing = lmsae("eval", "--dataset", "text")
    assert (missing.code, "--dictionary, column sae.from: is missing" in missing.err) == (2, True)


def test_errors_of_an_import_are_for_people(fresh: Path, lmsae: Lmsae) -> None:
    write_peer(fresh / "peer")
    (fresh / "peer" / "sae_weights.safetensors").write_bytes(b"damaged")
    sets = [part for size in SIZES for part in ("--set", size)]
    said = lmsae("eval", "--dictionary", "peer", "--dataset", "text", *sets)
    assert said.code == 2
    assert "sae_weights.safetensors' cannot be read" in said.err
