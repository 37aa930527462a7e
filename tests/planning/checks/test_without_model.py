"""Rows of own activations: what needs a model or text is refused when planned, and what files lack is told."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lmsae.errors import ConfigError
from lmsae.planning.plan import Plan, plan_of
from tests.miniature import CONFIG
from tests.vectors.files import made_vectors, write_folder, write_zarr

TOKENIZE = {"context_size": 32, "calibration_tokens": 1024, "held_out_tokens": 640}
EXPERIMENT: dict[str, Any] = {
    "activations": {"source": "file", "files": "flat"},
    "tokenize": TOKENIZE,
    "sae": {"architecture": "topk", "k": 4, "d_sae": 64},
    "train": {**CONFIG["train"], "tokens": 2048},
    "runtime": CONFIG["runtime"],
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with files of vectors: flat ones, in contexts, of another number, too few."""
    monkeypatch.chdir(tmp_path)
    x = made_vectors(6000)
    write_folder(tmp_path / "flat", x, (1000,))
    write_zarr(tmp_path / "positions.zarr", x.view(300, 20, 16))
    write_folder(tmp_path / "fewer", x[:-1], ())
    write_folder(tmp_path / "few", x[:1000], ())
    (tmp_path / "two").mkdir()
    save_file({"a": x, "b": torch.randn(6000, 24)}, tmp_path / "two" / "x.safetensors")
    ids = torch.arange(6000) % 40
    (tmp_path / "ids").mkdir()
    tensors = {"flat": ids, "contexts": ids.view(300, 20).clone(), "fewer": ids[1:].clone(), "floats": ids.float()}
    save_file(tensors, tmp_path / "ids" / "x.safetensors")
    return tmp_path


def planned(**changes: dict[str, Any]) -> Plan:
    return plan_of({name: {**EXPERIMENT.get(name, {}), **changes.get(name, {})} for name in {**EXPERIMENT, **changes}},
                   None, [], {})[0]  # fmt: skip


def test_a_single_file_is_the_hook_point_by_its_name() -> None:
    (row,) = planned().rows
    assert [*row.specs] == ["divide", "activations", "norm", "init", "train", "eval", "features", "page"]
    assert row.specs["activations"].config["hook_point"] == "flat"
    assert row.specs["activations"].inputs == {"tokens": row.specs["divide"].reference}
    assert row.specs["eval"].config["groups"].keys() == {"reconstruction", "sparsity", "decoder", "conversion"}


def test_a_file_in_contexts_keeps_them_whatever_the_size_of_those_of_text() -> None:
    (row,) = planned(activations={"files": "positions.zarr"}).rows
    assert row.specs["divide"].config["packing"]["context_size"] == 20
    assert row.specs["divide"].config["contexts"] == 300


def test_a_dictionary_of_two_files_has_one_division_and_a_store_for_each() -> None:
    sae = {"architecture": "transcoder", "hook_point_in": "in", "hook_point_out": "out"}
    (row,) = planned(activations={"files": ["in=two#a", "out=two#b"]}, sae=sae).rows
    assert [spec.config["width"] for spec in row.of("activations")] == [16, 24]
    assert len({spec.inputs["tokens"] for spec in row.of("activations")}) == 1


def test_a_key_depends_on_every_byte_and_not_on_the_columns_of_models_and_text(files: Path) -> None:
    def key(**changes: dict[str, Any]) -> str:
        return planned(**changes).rows[0].specs["train"].key

    before = key()
    beside = {"model": {"dtype": "bfloat16"}, "tokenize": {"prepend_bos": False, "packing": "document"}}
    file = files / "flat" / "1.safetensors"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)
    after = key()
    changed[-1] ^= 1
    file.write_bytes(changed)
    assert (key() == before, after == before) == (True, False)
    assert key(tokenize=beside["tokenize"]) == before


def keys(**changes: dict[str, Any]) -> dict[str, str]:
    (row,) = planned(**changes).rows
    return {stage: spec.key for stage, spec in row.specs.items()}


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {stage for stage in before.keys() | after.keys() if before.get(stage) != after.get(stage)}


def test_token_ids_move_only_what_reads_them_and_a_tokenizer_only_what_shows_its_texts(files: Path) -> None:
    """So a dictionary that is trained stays trained when ids are added later."""
    files_alone, beside = {"files": "flat"}, {"files": "flat", "token_ids": "ids#flat"}
    without, with_ids = keys(activations=files_alone), keys(activations=beside)
    assert moved(without, with_ids) == {"eval", "features", "page"}
    named = keys(activations=beside, tokenize={"tokenizer": "builtin:stdlib-4m"})
    assert moved(with_ids, named) == {"features", "page"}
    assert keys(activations=files_alone, tokenize={"tokenizer": "builtin:stdlib-4m"}) == without
    save_file({"flat": torch.arange(6000) % 39}, files / "ids" / "x.safetensors")
    assert moved(with_ids, keys(activations=beside)) == {"eval", "features", "page"}


def test_the_keys_of_a_row_of_files_are_those_of_the_day_they_were_written_down(files: Path) -> None:
    """Of a row without token ids. See test_plan.py: a key that differs here differs for everybody."""
    write_folder(files / "counted", torch.arange(6000 * 16).view(6000, 16).float(), ())
    found = keys(activations={"files": "counted"})
    assert {stage: found[stage] for stage in ("divide", "train", "eval", "features")} == {
        "divide": "68616f6504d776be",
        "train": "daa56020088593ff",
        "eval": "226d162d42d8f5c8",
        "features": "c4c4f4668ae414a3",
    }


@pytest.mark.parametrize(
    ("changes", "column", "told"),
    [
        (
            {"activations": {"token_ids": "ids#fewer"}},
            "activations.token_ids",
            "ids#fewer holds 5,999 token ids, but flat 6,000 vectors: each vector must have one token id",
        ),
        (
            {"activations": {"token_ids": "ids#contexts"}},
            "activations.token_ids",
            "ids#contexts holds 6,000 token ids in contexts of 20, but flat 6,000 vectors",
        ),
        (
            {"activations": {"token_ids": "ids#floats"}},
            "activations.token_ids",
            "tensor 'floats': is of F32; wanted: I8",
        ),
        ({"activations": {"token_ids": "ids"}}, "activations.token_ids", "holds 4 tensors"),
        ({"activations": {"token_ids": "idd"}}, "activations.token_ids", "no such file or folder; did you mean ids"),
        (
            {"activations": {"token_ids": "ids#flat"}, "tokenize": {"tokenizer": "builtin:nothing"}},
            "tokenize.tokenizer",
            "no built-in model 'builtin:nothing'",
        ),
        ({"sae": {"losses": "e2e_kl", "e2e_kl_coefficient": 1}}, "sae.losses", "e2e_kl runs the model on"),
        (
            {
                "activations": {"files": "in=two#a out=two#b"},
                "sae": {"architecture": "transcoder", "hook_point_in": "in", "hook_point_out": "out"},
                "init": {"from_model": True},
            },
            "init.from_model",
            "no language model to start from",
        ),
        ({"activations": {"skip_first_positions": 1}}, "activations.skip_first_positions", "stand in no contexts"),
        ({"activations": {"files": None}}, "sae.hook_point", "where are activations read"),
        ({"activations": {"files": "missing"}}, "activations.files", "there is no such file or folder"),
        ({"activations": {"files": "two"}}, "activations.files", "holds 2 tensors (a, b)"),
        ({"activations": {"files": "flat fewer/../flat"}}, "activations.files", "names two files alike"),
        ({"activations": {"files": "few"}}, "tokenize.calibration_tokens", "992 vectors in 31 contexts"),
        ({"sae": {"hook_point": "flit"}}, "sae.hook_point", "none called 'flit'; did you mean flat"),
        ({"train": {"tokens": 100_000}}, "train.tokens", "100,000"),
        (
            {"activations": {"files": "flat fewer"}, "sae": {"architecture": "crosscoder", "hook_point": "flat fewer"}}
            | {"sae": {"architecture": "crosscoder", "k": None, "l1_coefficient": 1, "hook_point": "flat fewer"}},
            "activations.files",
            "fewer holds 5,999 vectors, but flat 6,000 vectors",
        ),
        (
            {
                "activations": {"files": "in=two#a out=two#b"},
                "sae": {"architecture": "lorsa", "hook_point_in": "in", "hook_point_out": "out"},
            },
            "sae.architecture",
            "a lorsa attends to the positions of a context",
        ),
    ],
)
def test_what_files_cannot_give_is_refused_when_planned(
    changes: dict[str, dict[str, Any]], column: str, told: str
) -> None:
    with pytest.raises(ConfigError) as error:
        planned(**changes)
    faults = [fault for fault in error.value.faults if fault.column == column]
    assert len(faults) == 1, error.value
    assert told in faults[0].message


def test_probes_are_refused_whether_or_not_their_package_is_there() -> None:
    with pytest.raises(ConfigError) as error:
        planned(eval={"probes": "all"})
    told = [fault.message for fault in error.value.faults if fault.column == "eval.probes"]
    assert any("their texts are run through the row's model" in message for message in told)


def test_a_row_of_a_sheet_that_names_a_model_or_text_beside_files_is_refused(files: Path) -> None:
    (files / "sweep.tsv").write_text("name\tmodel.name\tdataset.column\ttokenize.tokenizer\na\tother\tbody\tgpt2\n")
    (files / "shared.json").write_text(json.dumps(EXPERIMENT))
    with pytest.raises(ConfigError) as error:
        plan_of(files / "shared.json", files / "sweep.tsv", [], {})
    assert [fault.column for fault in error.value.faults] == ["tokenize.tokenizer", "dataset.column", "model.name"]


@pytest.mark.parametrize(("column", "value"), [("files", "flat"), ("token_ids", "ids#flat")])
def test_files_without_the_source_are_refused_in_a_row_of_its_own(files: Path, column: str, value: str) -> None:
    (files / "sweep.tsv").write_text(f"name\tactivations.{column}\tactivations.source\na\t{value}\tlive\n")
    sae = {**EXPERIMENT["sae"], "hook_point": "blocks.1.hook_resid_post"}
    (files / "shared.json").write_text(json.dumps({"sae": sae}))
    with pytest.raises(ConfigError, match=rf"column activations.{column}: are read only if activations.source is file"):
        plan_of(files / "shared.json", files / "sweep.tsv", [], {})
