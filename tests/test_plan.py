"""The plan: what a row means, what moves when one of its cells does, and what shares a pass."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from lmsae.artifact import Artifacts, Spec
from lmsae.catalog import CATALOG, Objective
from lmsae.dictionary.config import DictionaryConfig
from lmsae.experiment import plan_of
from lmsae.geometry.config import SAEConfig
from lmsae.lm.source import ResolvedModel
from lmsae.losses import AuxK
from lmsae.plan import ROW_STAGES, Plan
from lmsae.runtime import Runtime, Wandb
from lmsae.sheet import columns
from lmsae.sparsity.config import ACT_FNS, TopKConfig
from lmsae.stages import STAGES, activations, evaluate, init, norm, tokenize, train
from lmsae.stages.activations import LMConfig
from lmsae.text.packing import TokenizeConfig
from lmsae.text.source import ResolvedDataset
from tests.miniature import ROWS, write_sweep

CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")


def planned(*overrides: str, sweep: Path | None = SWEEP, config: Path = CONFIG) -> Plan:
    return plan_of(config, sweep, overrides, {})[0]


def keys_of(row: str, plan: Plan) -> dict[str, str]:
    (found,) = (planned.specs for planned in plan.rows if planned.row.name == row)
    return {stage: spec.key for stage, spec in found.items()}


# The column, another value than the miniature's, and the first stages that it moves (in a row that uses it).
EVERYTHING = ["tokenize"]
MOVES: list[tuple[str, str, Sequence[str], str]] = [
    ("model.name", "other", EVERYTHING, "top"),
    ("model.backend", "transformerlens", ["activations"], "top"),
    ("model.dtype", "bfloat16", ["activations"], "top"),
    ("dataset.name", "text/000.txt", EVERYTHING, "top"),
    ("dataset.subset", "en", EVERYTHING, "top"),
    ("dataset.split", "test", EVERYTHING, "top"),
    ("dataset.column", "body", EVERYTHING, "top"),
    ("dataset.tokens_column", "ids", EVERYTHING, "top"),
    ("dataset.streaming", "true", EVERYTHING, "top"),
    ("dataset.documents", "7", EVERYTHING, "top"),
    ("tokenize.context_size", "16", EVERYTHING, "top"),
    ("tokenize.prepend_bos", "false", EVERYTHING, "top"),
    ("tokenize.held_out_fraction", "0.3", EVERYTHING, "top"),
    ("tokenize.tokens", "9000", EVERYTHING, "top"),
    ("tokenize.held_out_tokens", "999", EVERYTHING, "top"),
    ("tokenize.aside_tokens", "999", EVERYTHING, "top"),
    ("tokenize.seed", "1", EVERYTHING, "top"),
    ("tokenize.tokenizer", "other", EVERYTHING, "top"),
    ("activations.dtype", "float32", ["activations"], "top"),
    ("activations.batch_contexts", "7", ["activations"], "top"),
    ("sae.hook_point", "blocks.1.hook_mlp_out", ["activations"], "top"),
    ("sae.architecture", "batchtopk", ["init"], "top"),
    ("sae.act_fn", "batchtopk", ["init"], "top"),
    ("sae.losses", "l1 aux_k", ["train"], "plain"),
    ("sae.d_sae", "48", ["init"], "top"),
    ("sae.expansion_factor", "3", ["init"], "top"),
    ("sae.normalize_activations", "false", ["init"], "top"),
    ("sae.unit_norm_decoder", "true", ["init"], "top"),
    ("sae.apply_b_dec_to_input", "false", ["init"], "top"),
    ("sae.k", "5", ["init"], "top"),
    ("sae.jumprelu_bandwidth", "0.25", ["init"], "jump"),
    ("sae.jumprelu_init_threshold", "0.25", ["init"], "jump"),
    ("sae.l1_coefficient", "3", ["train"], "plain"),
    ("sae.l0_coefficient", "3", ["train"], "jump"),
    ("sae.aux_k_coefficient", "0.5", ["train"], "top"),
    ("sae.k_aux", "3", ["train"], "top"),
    ("init.seed", "1", ["init"], "top"),
    ("init.grid_search", "false", ["init"], "top"),
    ("init.decoder_norm", "0.3", ["init"], "top"),
    ("init.b_dec_mean", "false", ["init"], "top"),
    ("init.tokens", "512", ["init"], "top"),
    ("train.tokens", "4096", ["train"], "top"),
    ("train.epochs", "2", ["train"], "top"),
    ("train.batch_size", "128", ["train"], "top"),
    ("train.window_tokens", "4096", ["train"], "top"),
    ("train.seed", "1", ["train"], "top"),
    ("train.lr", "0.01", ["train"], "top"),
    ("train.lr_warm_up_steps", "3", ["train"], "top"),
    ("train.lr_cool_down_steps", "3", ["train"], "top"),
    ("train.lr_end_ratio", "0.1", ["train"], "top"),
    ("train.sparsity_warm_up_steps", "3", ["train"], "top"),
    ("train.threshold_lr_factor", "2", ["train"], "top"),
    ("train.adam_beta1", "0.5", ["train"], "top"),
    ("train.adam_beta2", "0.5", ["train"], "top"),
    ("train.grad_clip", "0", ["train"], "top"),
    ("train.dead_threshold", "99", ["train"], "top"),
    ("train.precision", "bfloat16", ["train"], "top"),
    ("eval.tokens", "512", ["eval"], "top"),
    ("eval.batch_contexts", "7", ["eval"], "top"),
]
# Only a model or dataset of the hub has revisions, and there is one geometry yet.
NOT_MOVED_HERE = {"model.revision", "dataset.revision", "sae.geometry"}
# What a value needs beside it: options of datasets mean nothing for a folder of texts.
BESIDE = {
    "dataset.subset": ["dataset.name=tables"],
    "dataset.split": ["dataset.name=tables"],
    "dataset.streaming": ["dataset.name=tables"],
    "dataset.tokens_column": ["dataset.name=tables"],
    "sae.expansion_factor": ["sae.d_sae=null"],
}
BELOW = {
    "tokenize": {*ROW_STAGES},
    "activations": {*ROW_STAGES} - {"tokenize"},
    "init": {"init", "train", "eval"},
    "train": {"train", "eval"},
    "eval": {"eval"},
}


@pytest.fixture
def sources(fresh: Path) -> Path:
    """Beside the miniature's model and text: another model, and a folder of tables."""
    (fresh / "other").mkdir()
    for file in (fresh / "model").iterdir():
        (fresh / "other" / file.name).write_bytes(file.read_bytes())
    (fresh / "tables").mkdir()
    (fresh / "tables" / "train.jsonl").write_text('{"text": "words", "ids": [1, 2]}\n')
    return fresh


def test_every_column_has_its_say_in_the_table_above() -> None:
    assert {column for column, *_ in MOVES} | NOT_MOVED_HERE == columns()


@pytest.mark.parametrize(("column", "value", "stages", "row"), MOVES, ids=[column for column, *_ in MOVES])
def test_a_changed_field_moves_what_lies_below_it_and_nothing_else(
    sources: Path, column: str, value: str, stages: Sequence[str], row: str
) -> None:
    write_sweep(sources, [cells for cells in ROWS if cells["name"] == row])
    beside = BESIDE.get(column, [])
    before_change = [text for text in beside if text != "sae.d_sae=null"]
    before = keys_of(row, planned(*before_change))
    after = keys_of(row, planned(*beside, f"{column}={value}"))
    moved = {stage for stage in ROW_STAGES if after[stage] != before[stage]}
    assert moved == set().union(*(BELOW[stage] for stage in stages))


def test_the_keys_of_a_reference_row_are_those_of_the_day_they_were_written_down() -> None:
    """A key that differs here differs for everybody: every artifact made so far is orphaned.

    That is right where a default, a field or a stage's version was changed on purpose: then write the new keys here and
    a line in CHANGELOG.md. It is a fault if nobody meant to.
    """
    model = ResolvedModel(name="builtin:stdlib-4m", revision="digest:0123456789abcdef")
    text = ResolvedDataset(name="builtin:python-stdlib", digest="fedcba9876543210")
    lm = LMConfig(source=model, backend="huggingface", dtype="float32")
    hook_point = "blocks.2.hook_resid_post"
    dictionary = DictionaryConfig(d_in=256, d_out=256, d_sae=1024, geometry=SAEConfig(), act_fn=TopKConfig(k=16))
    objective = Objective(losses=(AuxK(),), unit_norm_decoder=False)
    configs = {
        "tokenize": tokenize.Config(dataset=text, tokenizer=model, packing=TokenizeConfig()),
        "activations": activations.Config(model=lm, hook_point=hook_point, width=256),
        "norm": norm.Config(),
        "init": init.Config(dictionary=dictionary, normalize_activations=True, unit_norm_decoder=False),
        "train": train.Config(tokens=1_000_000, dictionary=dictionary, normalize_activations=True, objective=objective),
        "eval": evaluate.Config(model=lm, hook_point=hook_point),
    }
    specs: dict[str, Spec] = {}
    for stage, config in configs.items():
        inputs = {name: specs[parent].reference for name, parent in STAGES[stage].inputs.items()}
        dumped = config.model_dump(mode="json")
        specs[stage] = Spec(stage=stage, version=STAGES[stage].version, config=dumped, inputs=inputs)
    assert {stage: spec.key for stage, spec in specs.items()} == {
        "tokenize": "535fbcaa6799cb0f",
        "activations": "75686f00c488797c",
        "norm": "8f47fe96c7ff6068",
        "init": "e97d13169fc63dac",
        "train": "9332ff822175b379",
        "eval": "70de9e3d627a456b",
    }


@pytest.mark.usefixtures("fresh")
def test_the_inputs_of_every_spec_are_those_that_its_stage_names() -> None:
    for row in planned().rows:
        for stage, spec in row.specs.items():
            wanted = STAGES[stage].inputs
            assert {name: reference.partition("/")[0] for name, reference in spec.inputs.items()} == wanted


@pytest.mark.usefixtures("fresh")
def test_how_to_work_stands_in_no_spec() -> None:
    plan = planned()
    how = {*Runtime.model_fields, *Wandb.model_fields} - {"artifacts"}  # the report's rows list their artifacts

    def names(value: object) -> set[str]:
        if isinstance(value, dict):
            return {*value, *(name for inner in value.values() for name in names(inner))}
        return {name for inner in value for name in names(inner)} if isinstance(value, list) else set()

    for stage in STAGES:
        for spec in plan.specs(stage):
            assert not names(spec.config) & how


@pytest.mark.usefixtures("fresh")
def test_how_to_work_changes_no_key() -> None:
    there = planned()
    flags = {"artifacts": Path("elsewhere"), "results": Path("there"), "threads": 7, "together": 1, "wait": True}
    elsewhere = plan_of(CONFIG, SWEEP, [], flags)[0]
    assert [spec for stage in STAGES for spec in elsewhere.specs(stage)] == [
        spec for stage in STAGES for spec in there.specs(stage)
    ]


@pytest.mark.parametrize("architecture", CATALOG)
def test_an_architecture_is_a_macro_for_its_parts(fresh: Path, architecture: str) -> None:
    entry = CATALOG[architecture]
    common = {"name": "macro", "sae.hook_point": "blocks.0.hook_resid_post"}
    needs = (
        {"sae.k": "4"} if "k" in ACT_FNS[entry.act_fn].model_fields else {f"sae.{entry.losses[0]}_coefficient": "0.5"}
    )
    macro = {**common, **needs, "sae.architecture": architecture}
    parts = {"sae.geometry": entry.geometry, "sae.act_fn": entry.act_fn, "sae.losses": " ".join(entry.losses)}
    parts |= {f"sae.{name}": str(value) for name, value in entry.defaults.items()}
    write_sweep(fresh, [macro, {**common, **needs, **parts, "name": "hand"}])
    plan = planned()
    assert keys_of("macro", plan) == keys_of("hand", plan)


@pytest.mark.usefixtures("fresh")
def test_rows_share_every_stage_that_they_agree_on() -> None:
    plan = planned()
    counts = {stage: len(plan.specs(stage)) for stage in STAGES}
    assert counts == {"tokenize": 1, "activations": 2, "norm": 2, "init": 4, "train": 4, "eval": 4, "report": 1}
    assert {stage: len(plan.passes(stage, 16)) for stage in STAGES} == counts | {
        "activations": 1,
        "init": 2,
        "train": 2,
        "eval": 1,
    }


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(("together", "sizes"), [(1, [1, 1, 1, 1]), (2, [2, 1, 1]), (16, [3, 1])])
def test_at_most_so_many_dictionaries_are_trained_together(together: int, sizes: list[int]) -> None:
    assert [len(group) for group in planned().passes("train", together)] == sizes


def test_passes_do_not_depend_on_what_is_on_disk(made: Path) -> None:
    full = {stage: planned().passes(stage, 2) for stage in STAGES}
    (made / "artifacts").rename(made / "gone")
    assert {stage: planned().passes(stage, 2) for stage in STAGES} == full


def test_a_plan_written_twice_leaves_its_files_alone(fresh: Path) -> None:
    artifacts = Artifacts(fresh / "artifacts")
    planned().write(artifacts, 16)
    files = [path for path in (fresh / "artifacts").rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    planned().write(artifacts, 16)
    assert {path: path.stat().st_mtime_ns for path in files} == before
    assert len(files) > len(STAGES)


def test_a_thousand_rows_share_what_they_agree_on(fresh: Path) -> None:
    hook_points = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
    rows = [
        {**ROWS[0], "name": f"row{i}", "sae.hook_point": hook_points[i % 2], "train.lr": f"{1e-4 * (1 + i)}"}
        for i in range(1000)
    ]
    write_sweep(fresh, rows)
    plan = planned()
    counts = {stage: len(plan.specs(stage)) for stage in STAGES}
    assert counts == {"tokenize": 1, "activations": 2, "norm": 2, "init": 2, "train": 1000, "eval": 1000, "report": 1}
    assert len(plan.passes("train", 16)) == 2 * 32  # 500 dictionaries of each hook point, 16 at a time


def test_an_experiment_without_a_sheet_is_one_row(fresh: Path) -> None:
    experiment = fresh / "config" / "mine.toml"
    experiment.write_text('[sae]\nhook_point = "blocks.0.hook_resid_post"\narchitecture = "topk"\nk = 2\nd_sae = 8\n')
    overrides = ["model.name=model", "dataset.name=text", "train.tokens=4096", "tokenize.context_size=32"]
    plan = planned(*overrides, sweep=None, config=experiment)
    assert [row.row.name for row in plan.rows] == ["mine"]
