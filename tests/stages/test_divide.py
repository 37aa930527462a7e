"""Own activations, from files to a report: the same dictionaries as of a model's, and what has no model is left out."""

import csv
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

import lmsae as package
from lmsae.artifacts.artifact import Artifacts
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import SourceError
from lmsae.lm import load, resolve
from lmsae.planning.plan import plan_of
from lmsae.runtime.runtime import Runtime
from lmsae.stages.inputs.silence import gather_pool
from lmsae.stages.row import PlannedRow
from lmsae.text.packing import TokenizeConfig
from lmsae.text.tokens import open_tokens
from lmsae.vectors.shares import draw_shares
from tests.miniature import CONFIG, HERE, THERE, Said, make_until, manifests, write_config, write_sweep
from tests.vectors.files import made_vectors, write_folder, write_zarr

Command = Callable[..., Said]
ALL_COUNT = {"tokenize": {"mask_special": False}}
FEW = {"features": {"tokens": 2048}}
SAE = {"sae.architecture": "batchtopk", "sae.k": "4"}
TRANSCODER = {"sae.architecture": "transcoder", "sae.k": "4"}
OF_MODEL = [
    {"name": "sae", "sae.hook_point": HERE, **SAE},
    {"name": "transcoder", "sae.hook_point_in": HERE, "sae.hook_point_out": THERE, **TRANSCODER},
]
OF_FILES = [
    {"name": "sae", "sae.hook_point": "here", **SAE},
    {"name": "transcoder", "sae.hook_point_in": "here", "sae.hook_point_out": "there", **TRANSCODER},
]
NOT_THE_SAME = {"spec.json", "manifest.json", ".manifest.json", "run.json"}


def planned_rows() -> dict[str, PlannedRow]:
    plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {row.name: row for row in plan.rows}


def payloads(row: PlannedRow, stage: str) -> list[dict[str, bytes]]:
    """What a stage wrote for a row, without what the artifact is and how it was made."""
    folders = [Path("artifacts", spec.reference) for spec in row.of(stage)]
    return [
        {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file() and file.name not in NOT_THE_SAME}
        for folder in folders
    ]


def write_captured(tokens: Path, files: dict[str, str], ids: str) -> TokenizeConfig:
    """Write what the miniature's model gives on tokens, into a Zarr array for each hook point, and the tokens' ids into
    one beside them, so that the division of the file is that of the tokens; returns the columns that divide it so."""
    split, model = open_tokens(tokens), load(resolve("model"), backend="huggingface", dtype="float32", device="cpu")
    contexts, size = len(split.train) + len(split.held_out), split.context_size
    packing = TokenizeConfig(
        context_size=size,
        prepend_bos=False,
        mask_special=False,
        calibration_tokens=split.calibration_contexts * size,
        held_out_tokens=len(split.held_out) * size,
        held_out_fraction=0.9,
    )
    shares = [*zip((split.train[:], split.held_out[:]), draw_shares(contexts, packing), strict=True)]
    beside = torch.empty(contexts, size, dtype=torch.int32)
    for found, numbers in shares:
        beside[numbers] = torch.from_numpy(found.astype("int32"))
    write_zarr(Path(ids), beside)
    for hook_point, path in files.items():
        array = torch.empty(contexts, size, 16)
        for found, numbers in shares:
            for some, places in zip(np.array_split(found, 8), np.array_split(numbers, 8), strict=True):
                with torch.inference_mode():
                    array[places] = model.read(torch.from_numpy(some.astype("int64")), [hook_point])[hook_point]
        write_zarr(Path(path), array)
    return packing


def test_dictionaries_of_a_file_are_those_of_the_model_that_it_was_captured_from(fresh: Path, lmsae: Command) -> None:
    """Bit for bit: moments, starting weights, dictionaries and curves. Metrics are of the same held-out activations.

    Token ids that are named later train nothing anew. With them, features have the same texts and counts, and metrics
    the same bins, as of the model's own text.
    """
    write_config(fresh, **ALL_COUNT, **FEW)
    write_sweep(fresh, OF_MODEL)
    make_until("features")
    captured = planned_rows()
    tokens = fresh / "artifacts" / captured["sae"].specs["tokenize"].reference
    packing = write_captured(tokens, {HERE: "here.zarr", THERE: "there.zarr"}, "ids.zarr")
    columns = packing.model_dump(include={"calibration_tokens", "held_out_tokens", "held_out_fraction"})
    activations = {"source": "file", "files": ["here.zarr", "there.zarr"]}
    write_config(fresh, tokenize={**columns, "context_size": 32}, activations=activations, **FEW)
    write_sweep(fresh, OF_FILES)
    make_until("eval")
    for name, row in planned_rows().items():
        for stage in ("norm", "init", "train"):
            assert payloads(row, stage) == payloads(captured[name], stage), (name, stage)
            assert row.specs[stage].key != captured[name].specs[stage].key
        ours, theirs = (
            json.loads(Path("artifacts", one.specs["eval"].reference, "metrics.json").read_text())
            for one in (row, captured[name])
        )
        assert {name: value for name, value in theirs.items() if name in ours} == ours
        assert {"ce_difference", "ce_unigram"} <= theirs.keys() - ours.keys()
        assert [*breakdown_of(row)] == ["position"]
    before = manifests(fresh)
    beside = {**activations, "token_ids": "ids.zarr"}
    write_config(fresh, tokenize={**columns, "context_size": 32, "tokenizer": "model"}, activations=beside, **FEW)
    make_until("features")
    assert sorted(one.partition("/")[0] for one in manifests(fresh).keys() - before) == ["eval"] * 2 + ["features"] * 2
    for name, row in planned_rows().items():
        ours, theirs = breakdown_of(row), breakdown_of(captured[name])
        assert [*ours] == [*theirs] == ["position", "token_frequency"]
        assert len(ours["token_frequency"]["from"]) > 3
        for kind, found in ours.items():
            assert "explained_variance" in found["metrics"]
            assert found == {side: alike(values, theirs[kind][side]) for side, values in found.items()}
        assert described(row) == described(captured[name])
        assert pool_of(row) == pool_of(captured[name])
        assert len({text for piece in pool_of(row) for text in piece}) > 5
    assert " 0 damaged" in lmsae("verify").out


def breakdown_of(row: PlannedRow) -> dict[str, dict[str, Any]]:
    return json.loads(Path("artifacts", row.specs["eval"].reference, "breakdown.json").read_text())


def alike(few: Any, many: Any) -> Any:
    """The same of a breakdown of more metrics."""
    return {name: many[name] for name in few} if isinstance(few, dict) else many


def described(row: PlannedRow) -> dict[str, list[dict[str, object]]]:
    """The tables of features, without logits and documents."""
    folder = Path("artifacts", row.specs["features"].reference)
    gone = {"promoted", "suppressed", "document", "document_token"}
    tables = {name: pq.read_table(folder / name) for name in ("latents.parquet", "contexts.parquet")}
    return {name: one.drop_columns(sorted(gone & {*one.column_names})).to_pylist() for name, one in tables.items()}


def pool_of(row: PlannedRow) -> list[tuple[str, ...]]:
    """The texts of pieces that explanations are tested by."""
    artifacts = Artifacts(Path("artifacts"))
    features = artifacts[row.specs["features"].reference]
    pool = gather_pool(features, artifacts, Runtime(device="cpu"), [0], pieces=5, length=6, seed=0)
    return [piece.texts for piece in pool.pieces]


@pytest.fixture
def vision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a sweep over vectors of no language, and no model anywhere."""
    monkeypatch.chdir(tmp_path)
    write_vision(tmp_path)
    return tmp_path


def write_vision(folder: Path) -> None:
    write_folder(folder / "clip", made_vectors(), (1000, 4000))
    tokenize = {"context_size": 32, "calibration_tokens": 1024, "held_out_tokens": 640}
    write_config(
        folder,
        model={"name": "nowhere"},
        dataset={"name": "nowhere"},
        tokenize=tokenize,
        activations={"source": "file", "files": ["clip"]},
        train={"tokens": 4096, "lr": 0.01, "eval_steps": 8},
        features={"tokens": 2000},
        runtime={"artifacts": "artifacts", "results": "results"},  # dvc.yaml asks for these
    )
    rows = [{"name": "top", "sae.architecture": "topk", "sae.k": "4"}]
    write_sweep(folder, [*rows, {"name": "batch", "sae.architecture": "batchtopk", "sae.k": "4"}])


def test_vectors_of_no_language_run_through_to_a_report(vision: Path, lmsae: Command) -> None:
    plan = lmsae("plan")
    assert "5.34 k tokens, 221 kB" in plan.out
    said = lmsae("run")
    assert said.code == 0, said.err
    assert "CE" not in said.out
    with open("results/table.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["top", "batch"]
    assert all(float(row["explained_variance"]) > 0.3 for row in rows)
    assert not any(name.startswith("ce_") for name in rows[0])
    assert "model_loss" not in lmsae("doctor").out
    page = re.sub("<script.*?</script>", "", (vision / "results/report.html").read_text(), flags=re.DOTALL)
    assert "<code>l0</code>" in page
    assert "ce_loss_score" not in page, "there is no language model, and so no loss"
    assert "CE difference" not in page
    assert Path("results/plots/along-1.svg").exists()
    assert json.loads((vision / "results/rows/top/eval/breakdown.json").read_text()) == {}
    loaded = package.load("top")
    assert repr(loaded) == "<sae top: 64 latents, topk, clip>"
    with pytest.raises(SourceError, match="top is of own activations, clip: there is no language model beside it"):
        package.top_latents(loaded, "a text")
    described = package.features("top")
    assert described.info.logits == "none: own activations have no logits"
    top = pq.read_table("results/rows/top/features/contexts.parquet").to_pylist()
    dictionary = Dictionary.load(Path("results/rows/top/train"))
    x, train = made_vectors(), open_tokens(Path("results/rows/top/divide")).train
    for line in top[:5]:
        number = int(train[line["context"], line["position"]])
        part = int(line["document"][0])
        assert number == line["document_token"] + [0, 1000, 4000][part]
        codes = dictionary.encode(x[number].half().float())
        assert codes[line["latent"]].item() == pytest.approx(line["activation"], rel=1e-3)
    assert " 0 made" in lmsae("run").err


def test_evaluations_on_the_way_measure_vectors_and_no_losses(vision: Path, lmsae: Command) -> None:
    row = {"name": "top", "sae.architecture": "topk", "sae.k": "4"}
    write_sweep(vision, [{**row, "train.keep_steps": "8"}])
    make_until("eval")
    (folder,) = (vision / "artifacts" / "train").iterdir()
    with open(folder / "along.csv", newline="") as file:
        first, last = csv.DictReader(file)
    assert [*first] == ["steps", "tokens", "explained_variance", "mse", "l2_ratio", "l0", "dead"]
    (file,) = (vision / "artifacts" / "eval").glob("*/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics["tokens"] == 640
    assert {name: float(last[name]) for name in ("explained_variance", "mse", "l2_ratio", "l0")} == {
        name: metrics[name] for name in ("explained_variance", "mse", "l2_ratio", "l0")
    }
    # The other one by hand, of the dictionary that was kept there.
    dictionary = Dictionary.load(folder / "steps" / "8")
    (divided,) = (vision / "artifacts" / "divide").iterdir()
    x = made_vectors()[torch.from_numpy(open_tokens(divided).held_out[:].astype("int64")).flatten()]
    codes = dictionary.encode(x)
    error, true = (x - dictionary.decode(codes, x)).double(), x.double()
    assert (first["steps"], float(first["l0"])) == ("8", float((codes != 0).sum(1).double().mean()))
    assert float(first["mse"]) == pytest.approx(float(error.pow(2).sum(1).mean()), rel=1e-5)
    unexplained = error.pow(2).sum() / (true - true.mean(0)).pow(2).sum()
    assert float(first["explained_variance"]) == pytest.approx(1 - float(unexplained), rel=1e-5)
    assert 0 < float(first["explained_variance"]) < float(last["explained_variance"])


def write_ids(folder: Path, ids: np.ndarray) -> None:
    """Name token ids beside the vectors of `vision`, in two files that are cut elsewhere than theirs."""
    write_folder(folder / "ids", torch.from_numpy(ids), (2500,))
    config = yaml.safe_load(Path("config/config.yaml").read_text())
    config["activations"]["token_ids"] = "ids"
    Path("config/config.yaml").write_text(yaml.safe_dump(config))
    write_sweep(folder, [{"name": "top", "sae.architecture": "topk", "sae.k": "4"}])


def test_token_ids_without_a_tokenizer_are_shown_and_counted_as_numbers(vision: Path, lmsae: Command) -> None:
    ids = np.random.default_rng(0).integers(0, 40, 6000, dtype=np.int16) ** 2
    write_ids(vision, ids)
    make_until("features")
    (row,) = planned_rows().values()
    folders = {stage: Path("artifacts", spec.reference) for stage, spec in row.specs.items()}
    numbers = open_tokens(folders["divide"]).train[32:]  # behind the calibration split
    numbers = numbers[: 2000 // 32].reshape(-1)
    codes = Dictionary.load(folders["train"]).encode(made_vectors()[numbers.astype(int)].half().float()).numpy()
    latents = pq.read_table(folders["features"] / "latents.parquet").to_pylist()
    assert any(latent["top_tokens"] for latent in latents)
    for latent in latents:
        sizes = np.abs(codes[:, latent["latent"]])
        for told in latent["top_tokens"]:
            here = ids[numbers] == told["token"]
            assert told["text"] == f"{told['token']} "
            assert told["active"] == (sizes[here] > 0).sum()
            assert told["rate"] == told["active"] / here.sum()
    (line, *_) = pq.read_table(folders["features"] / "contexts.parquet").to_pylist()
    assert line["texts"] == [f"{token} " for token in line["tokens"]]
    place = line["document_token"] + [0, 1000, 4000][int(line["document"][0])]
    assert line["tokens"][line["position"] - line["start"]] == ids[place]
    said = lmsae("explain", folders["features"].name, "--endpoint", "http://127.0.0.1:1", "--model", "none")
    assert "name their token ids (activations.token_ids) and a tokenizer" in said.err


@pytest.mark.parametrize(
    ("odd", "tokenizer", "stage", "told"),
    [
        (-1, "", "eval", "wanted: 0 to 1,048,575"),
        (4096, "builtin:stdlib-4m", "features", "wanted: 0 to 4,095, those of the tokenizer of builtin:stdlib-4m"),
    ],
)
def test_a_token_id_that_is_none_is_told_with_its_file_and_place(
    vision: Path, lmsae: Command, odd: int, tokenizer: str, stage: str, told: str
) -> None:
    ids = np.zeros(6000, np.int32)
    ids[2503:] = odd
    write_ids(vision, ids)
    row = {"name": "top", "sae.architecture": "topk", "sae.k": "4"}
    write_sweep(vision, [{**row, "tokenize.tokenizer": tokenizer}])
    make_until("train")
    said = lmsae(stage)
    (divided,) = (vision / "artifacts" / "divide").iterdir()
    read = open_tokens(divided).train[0 if stage == "eval" else 32 :].reshape(-1)
    first = read[read >= 2503][0] - 2500
    assert f"1.safetensors, tensor 'x': vector {first:,} has the token id {odd}; {told}" in said.err
    assert said.code == 2


@pytest.mark.parametrize("stage", ["activations", "eval"])
def test_files_that_changed_since_the_plan_are_refused(vision: Path, lmsae: Command, stage: str) -> None:
    make_until({"activations": "divide", "eval": "train"}[stage])
    file = vision / "clip" / "1.safetensors"
    before = file.stat()
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    said = lmsae(stage)
    assert said.code == 2
    assert "clip: the files are not those that were planned" in said.err


def test_a_value_that_is_not_finite_is_told_with_its_file_and_spares_other_files(vision: Path, lmsae: Command) -> None:
    broken = made_vectors()
    broken[2000:2010, 3] = torch.nan
    shutil.rmtree("clip")
    write_folder(vision / "clip", broken, (1000,))
    write_folder(vision / "sound", made_vectors(), ())
    write_config(vision, activations={"source": "file", "files": ["clip", "sound"]}, tokenize=CONFIG["tokenize"])
    row = {"sae.architecture": "topk", "sae.k": "4", "train.tokens": "2048"}
    write_sweep(
        vision, [{"name": "a", "sae.hook_point": "clip", **row}, {"name": "b", "sae.hook_point": "sound", **row}]
    )
    for stage in ("plan", "divide"):
        assert lmsae(stage).code == 0
    said = lmsae("activations")
    assert said.code == 2
    assert "1.safetensors, tensor 'x': vector 1,000 is nan in column 3; wanted: finite numbers" in said.err
    assert len([*Path("artifacts/activations").glob("*/manifest.json")]) == 1
