"""The plan: what a row means, what moves when one of its cells does, and what shares a pass."""

from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ConfigError
from lmsae.geometry.config import SAEConfig, Widths
from lmsae.health.config import DoctorSection
from lmsae.lm.resolving import ResolvedModel
from lmsae.losses import AuxK
from lmsae.planning.catalog import CATALOG, piece_fields
from lmsae.planning.plan import Plan, plan_of
from lmsae.planning.sheet import SECTIONS, columns
from lmsae.runtime.runtime import Runtime, Wandb
from lmsae.sparsity.config import TopKConfig
from lmsae.stages import (
    ROW_STAGES,
    STAGES,
    STAND_INS,
    activations,
    evaluate,
    init,
    interpret,
    latents_page,
    norm,
    tokenize,
    train,
)
from lmsae.stages.models import LMConfig
from lmsae.stages.sites import Place, Sites
from lmsae.text.dataset import ResolvedDataset
from lmsae.text.packing import TokenizeConfig
from lmsae.training.objective import Objective
from tests.miniature import HERE, ROWS, THERE, row_of, write_sweep

CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")


def planned(*overrides: str, sweep: Path | None = SWEEP, config: Path = CONFIG) -> Plan:
    return plan_of(config, sweep, overrides, {})[0]


def keys_of(row: str, plan: Plan) -> dict[str, str]:
    (found,) = (planned.specs for planned in plan.rows if planned.name == row)
    return {stage: spec.key for stage, spec in found.items()}


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The stages of which a row wants other artifacts, be it more of them."""
    return {name.partition(".")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


# The column, another value than the row's, and the first stages that it moves. The rows are the miniature's own four
# and one of every architecture.
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
    ("dataset.divide_at", "blank_lines", ["tokenize"], "top"),
    ("dataset.documents", "7", EVERYTHING, "top"),
    ("tokenize.context_size", "16", EVERYTHING, "top"),
    ("tokenize.prepend_bos", "false", EVERYTHING, "top"),
    ("tokenize.held_out_fraction", "0.3", EVERYTHING, "top"),
    ("tokenize.tokens", "9000", EVERYTHING, "top"),
    ("tokenize.held_out_tokens", "999", EVERYTHING, "top"),
    ("tokenize.calibration_tokens", "999", EVERYTHING, "top"),
    ("tokenize.seed", "1", EVERYTHING, "top"),
    ("tokenize.tokenizer", "other", EVERYTHING, "top"),
    ("activations.dtype", "float32", ["activations"], "top"),
    ("activations.batch_contexts", "7", ["activations"], "top"),
    ("activations.source", "live", ["activations"], "top"),
    ("sae.hook_point", "blocks.1.hook_mlp_out", ["activations"], "top"),
    ("sae.architecture", "batchtopk", ["init"], "top"),
    ("sae.act_fn", "batchtopk", ["init"], "top"),
    ("sae.losses", "l1 aux_k", ["train"], "plain"),
    ("sae.d_sae", "48", ["init"], "top"),
    ("sae.expansion_factor", "3", ["init"], "top"),
    ("sae.normalize_activations", "whiten", ["init"], "top"),
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
    ("train.encoder_lr_factor", "2", ["train"], "top"),
    ("train.decoder_lr_factor", "2", ["train"], "top"),
    ("train.bias_lr_factor", "2", ["train"], "top"),
    ("train.decoder_min_cosine", "0.8", ["train"], "top"),
    ("train.shards", "2", ["train"], "top"),
    ("train.adam_beta1", "0.5", ["train"], "top"),
    ("train.adam_beta2", "0.5", ["train"], "top"),
    ("train.grad_clip", "0", ["train"], "top"),
    ("train.dead_threshold", "99", ["train"], "top"),
    ("train.precision", "bfloat16", ["train"], "top"),
    ("eval.tokens", "512", ["eval"], "top"),
    ("eval.batch_contexts", "7", ["eval"], "top"),
    ("features.tokens", "512", ["features"], "top"),
    ("features.split", "held_out", ["features"], "top"),
    ("features.batch_contexts", "7", ["features"], "top"),
    ("features.top_contexts", "3", ["features"], "top"),
    ("features.quantiles", "3", ["features"], "top"),
    ("features.quantile_samples", "3", ["features"], "top"),
    ("features.tokens_before", "3", ["features"], "top"),
    ("features.tokens_after", "3", ["features"], "top"),
    ("features.histogram_bins", "3", ["features"], "top"),
    ("features.position_bins", "3", ["features"], "top"),
    ("features.top_tokens", "3", ["features"], "top"),
    ("features.logits", "3", ["features"], "top"),
    ("features.neighbors", "3", ["features"], "top"),
    ("features.companions", "3", ["features"], "top"),
    ("features.seed", "1", ["features"], "top"),
    ("activations.skip_first_positions", "2", ["norm"], "top"),
    ("activations.skip_last_positions", "2", ["norm"], "top"),
    ("activations.max_norm_factor", "3", ["norm"], "top"),
    ("dataset.messages_column", "chat", EVERYTHING, "top"),
    ("dataset.seed", "1", EVERYTHING, "top"),
    ("model.others", "other", ["activations"], "crosscoder"),
    ("tokenize.chat_tokens", "all", EVERYTHING, "top"),
    ("tokenize.mask_special", "false", EVERYTHING, "top"),
    ("tokenize.packing", "document", EVERYTHING, "top"),
    ("init.b_dec", "zero", ["init"], "top"),
    ("init.b_enc", "minus_mean_pre", ["init"], "top"),
    ("init.datapoint_blend", "0.5", ["init"], "top"),
    ("init.decoder_init", "datapoint", ["init"], "top"),
    ("init.encoder_factor", "0.5", ["init"], "top"),
    ("init.from_model", "true", ["init"], "transcoder"),
    ("init.subspace_rank", "3", ["init"], "top"),
    ("sae.convert_to_jumprelu", "true", ["train"], "top"),
    ("sae.e2e_ce_coefficient", "2", ["train"], "top"),
    ("sae.e2e_kl_coefficient", "2", ["train"], "top"),
    ("sae.geometry", "skip_transcoder", ["init"], "transcoder"),
    ("sae.glu_encoder", "true", ["init"], "top"),
    ("sae.hook_point_in", "blocks.0.hook_mlp_out", ["activations"], "transcoder"),
    ("sae.hook_point_out", "blocks.1.hook_mlp_out", ["activations"], "transcoder"),
    ("sae.jumprelu_threshold", "direct", ["init"], "jump"),
    ("sae.lorsa_d_qk", "16", ["init"], "lorsa"),
    ("sae.lorsa_qk_heads", "4", ["init"], "lorsa"),
    ("sae.lorsa_rotary", "false", ["init"], "lorsa"),
    ("sae.lorsa_rotary_base", "100", ["init"], "lorsa"),
    ("sae.lorsa_rotary_dim", "4", ["init"], "lorsa"),
    ("sae.lp_coefficient", "2", ["train"], "plain"),
    ("sae.matryoshka_prefixes", "0.5", ["train"], "matryoshka"),
    ("sae.matryoshka_sampled", "3", ["train"], "top"),
    ("sae.molt_ranks", "4x1", ["init"], "molt"),
    ("sae.multi_topk_coefficient", "2", ["train"], "top"),
    ("sae.multi_topk_factor", "2", ["train"], "top"),
    ("sae.p", "0.25", ["train"], "plain"),
    ("sae.p_anneal_changes", "3", ["train"], "p_anneal"),
    ("sae.p_anneal_coefficient", "2", ["train"], "p_anneal"),
    ("sae.p_anneal_end", "0.8", ["train"], "p_anneal"),
    ("sae.p_anneal_start", "0.2", ["train"], "p_anneal"),
    ("sae.p_end", "0.5", ["train"], "p_anneal"),
    ("sae.p_start", "0.9", ["train"], "p_anneal"),
    ("sae.pre_act_coefficient", "2", ["train"], "clt"),
    ("sae.sparsity_include_decoder_norm", "true", ["init"], "top"),
    ("sae.tanh_coefficient", "2", ["train"], "molt"),
    ("sae.tanh_quad_coefficient", "2", ["train"], "plain"),
    ("sae.tanh_quad_saturation", "0.1", ["train"], "plain"),
    ("sae.tanh_scale", "2", ["train"], "molt"),
    ("sae.target_l0", "3", ["train"], "jump"),
    ("sae.target_l0_coefficient", "3", ["train"], "jump"),
    ("sae.tied_encoder", "true", ["init"], "top"),
    ("train.adam_eps", "1e-6", ["train"], "top"),
    ("train.ema", "0.9", ["train"], "top"),
    ("train.eval_steps", "7", ["train"], "top"),
    ("train.eval_tokens", "99", ["train"], "top"),
    ("train.keep_steps", "log", ["train"], "top"),
    ("train.gradient_accumulation", "2", ["train"], "top"),
    ("train.initial_k", "9", ["train"], "top"),
    ("train.k_cold_boot_steps", "2", ["train"], "top"),
    ("train.k_schedule", "exponential", ["train"], "top"),
    ("train.k_warm_up_steps", "2", ["train"], "top"),
    ("train.lr_schedule", "cosine", ["train"], "top"),
    ("train.optimizer", "muon", ["train"], "top"),
    ("train.resample_steps", "4", ["train"], "top"),
    ("train.resample_times", "2", ["train"], "top"),
    ("train.weight_decay", "0.1", ["train"], "top"),
]
# Only a model or dataset of the hub has revisions. tests/planning/test_adopting.py is about finished dictionaries. What
# the doctor goes by moves the report, which is not of a row (tests/commands/test_doctoring.py). Probes need a package
# that is not in the lock (tests/stages/test_probing.py). tests/planning/checks/test_without_model.py is about rows of
# files.
NOT_MOVED_HERE = {"model.revision", "dataset.revision", "sae.from", "init.from"}
NOT_MOVED_HERE |= {"activations.files", "activations.token_ids"}
NOT_MOVED_HERE |= {"eval.probes", "eval.probes_k"}
NOT_MOVED_HERE |= {f"doctor.{name}" for name in DoctorSection.model_fields}
# What a value needs beside it, in the row before the change as in the row after it.
NO_L1 = ["sae.l1_coefficient=null"]
LP = [*NO_L1, "sae.losses=lp", "sae.lp_coefficient=1", "sae.p=0.5"]
TANH_QUAD = [*NO_L1, "sae.losses=tanh_quad", "sae.tanh_quad_coefficient=1"]
TARGET_L0 = ["sae.l0_coefficient=null", "sae.losses=target_l0", "sae.target_l0=2", "sae.target_l0_coefficient=1"]
BESIDE = {
    "dataset.messages_column": ["dataset.name=tables"],
    "dataset.seed": ["dataset.name=builtin:othello", "dataset.documents=100"],
    "init.from_model": [
        "sae.hook_point_in=blocks.0.ln2.hook_normalized",
        "sae.hook_point_out=blocks.0.hook_mlp_out",
    ],
    "sae.e2e_ce_coefficient": ["sae.losses=e2e_ce", "sae.e2e_ce_coefficient=1"],
    "sae.e2e_kl_coefficient": ["sae.losses=e2e_kl", "sae.e2e_kl_coefficient=1"],
    "sae.lp_coefficient": LP,
    "sae.p": LP,
    "sae.matryoshka_sampled": ["sae.losses=nested_sampled"],
    "sae.multi_topk_coefficient": ["sae.losses=multi_topk"],
    "sae.multi_topk_factor": ["sae.losses=multi_topk"],
    "sae.tanh_quad_coefficient": TANH_QUAD,
    "sae.tanh_quad_saturation": TANH_QUAD,
    "sae.target_l0": TARGET_L0,
    "sae.target_l0_coefficient": TARGET_L0,
    "tokenize.tokens": ["train.tokens=256"],  # few, for tokenize must leave as many
    "dataset.subset": ["dataset.name=tables"],
    "dataset.split": ["dataset.name=tables"],
    "dataset.streaming": ["dataset.name=tables"],
    "dataset.tokens_column": ["dataset.name=tables"],
    "sae.expansion_factor": ["sae.d_sae=null", "sae.expansion_factor=2"],
}
BELOW = {
    "tokenize": {*ROW_STAGES} - {*STAND_INS},
    "activations": {*ROW_STAGES} - {*STAND_INS, "tokenize"},
    "norm": {"norm", "init", "train", "eval", "features", "page"},
    "init": {"init", "train", "eval", "features", "page"},
    "train": {"train", "eval", "features", "page"},
    "eval": {"eval"},
    "features": {"features", "page"},
}


@pytest.fixture
def sources(fresh: Path) -> Path:
    """Beside the miniature's model and text: another model, and a folder of tables with two subsets and splits."""
    (fresh / "other").mkdir()
    for file in (fresh / "model").iterdir():
        (fresh / "other" / file.name).write_bytes(file.read_bytes())
    (fresh / "tables").mkdir()
    rows = '{"text": "words", "ids": [1, 2], "chat": [{"role": "user", "content": "words"}]}\n'
    for split in ("train", "test"):
        (fresh / "tables" / f"{split}.jsonl").write_text(rows)
    splits = "[{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]"
    subsets = "".join(f"- config_name: {subset}\n  data_files: {splits}\n" for subset in ("default", "en"))
    (fresh / "tables" / "README.md").write_text(f"---\nconfigs:\n{subsets}---\n")
    return fresh


def test_every_column_has_its_say_in_the_table_above() -> None:
    assert {column for column, *_ in MOVES} | NOT_MOVED_HERE == columns()


@pytest.mark.parametrize(("column", "value", "stages", "row"), MOVES, ids=[column for column, *_ in MOVES])
def test_a_changed_field_moves_what_lies_below_it_and_nothing_else(
    sources: Path, column: str, value: str, stages: Sequence[str], row: str
) -> None:
    own = {cells["name"]: cells for cells in ROWS}
    write_sweep(sources, [own[row] if row in own else row_of(row)])
    beside = BESIDE.get(column, [])
    before = keys_of(row, planned(*beside))
    after = keys_of(row, planned(*beside, f"{column}={value}"))
    assert moved(before, after) == set().union(*(BELOW[stage] for stage in stages))


def values_of(column: str, near: str) -> st.SearchStrategy[Any] | None:
    """Values of a column that is a number, one of some words or a switch, numbers of the size of `near`; None for
    texts and lists."""
    section, name = column.split(".")
    own = SECTIONS[section].model_fields
    field = own[name] if name in own else piece_fields()[name][0].model_fields[name]
    options = get_args(field.annotation) if get_origin(field.annotation) in (Union, UnionType) else [field.annotation]
    limits = {name: getattr(limit, name) for limit in field.metadata for name in LIMITS if hasattr(limit, name)}
    lowest = limits.get("gt", limits.get("ge", 0))
    highest = limits.get("lt", limits.get("le"))
    kinds = []
    for option in options:
        if option is bool:
            kinds.append(st.booleans().map(lambda value: str(value).lower()))
        elif option is int:
            most = max(16, 4 * int(near))
            kinds.append(st.integers(lowest + ("gt" in limits), most if highest is None else min(most, highest - 1)))
        elif option is float:
            most = max(1.0, 4 * float(near)) if highest is None else highest
            kinds.append(st.floats(lowest, most, exclude_min="gt" in limits, exclude_max="lt" in limits))
        elif get_origin(option) is Literal:
            kinds.append(st.sampled_from(get_args(option)))
    return st.one_of(kinds) if kinds else None


def meaning(column: str, value: Any) -> Any:
    """What a value comes to: a number of latents, a number, or a word."""
    try:
        number = float(value)
    except ValueError:
        return value
    return round(number * WIDTH) if column == "sae.expansion_factor" else number


WIDTH = 16
LIMITS = ("gt", "ge", "lt", "le")
TEXTS_AND_LISTS = {
    *("model.name", "model.others", "tokenize.tokenizer", "sae.architecture", "sae.geometry", "sae.act_fn"),
    *("dataset.name", "dataset.subset", "dataset.split", "dataset.divide_at"),
    *("dataset.column", "dataset.tokens_column", "dataset.messages_column"),
    *("sae.hook_point", "sae.hook_point_in", "sae.hook_point_out"),
    *("sae.losses", "sae.molt_ranks", "sae.matryoshka_prefixes", "train.keep_steps"),
}
DRAWN = [move for move in MOVES if values_of(*move[:2]) is not None]


def test_values_are_drawn_for_every_column_but_texts_and_lists() -> None:
    assert {column for column, *_ in MOVES} - {column for column, *_ in DRAWN} == TEXTS_AND_LISTS


@pytest.mark.slow
@pytest.mark.parametrize(("column", "value", "stages", "row"), DRAWN, ids=[column for column, *_ in DRAWN])
def test_whatever_its_two_values_a_field_moves_the_same_stages(
    sources: Path, column: str, value: str, stages: Sequence[str], row: str
) -> None:
    own = {cells["name"]: cells for cells in ROWS}
    write_sweep(sources, [own[row] if row in own else row_of(row)])
    beside, values = BESIDE.get(column, []), values_of(column, value)
    assert values is not None
    before = keys_of(row, planned(*beside, f"{column}={value}"))

    @settings(deadline=None, max_examples=10)
    @given(other=values)
    def moves_the_same(other: Any) -> None:
        assume(meaning(column, other) != meaning(column, value))
        try:
            after = keys_of(row, planned(*beside, f"{column}={other}"))
        except ConfigError:
            reject()
        assert moved(before, after) == set().union(*(BELOW[stage] for stage in stages))

    moves_the_same()


def test_the_keys_of_a_reference_row_are_those_of_the_day_they_were_written_down() -> None:
    """A key that differs here differs for everybody: every artifact made so far is orphaned.

    That is right where a default, a field or a stage's version was changed on purpose: then write the new keys here and
    a line in CHANGELOG.md. It is a fault if nobody meant to.
    """
    model = ResolvedModel(name="builtin:stdlib-4m", revision="digest:0123456789abcdef")
    text = ResolvedDataset(name="builtin:python-stdlib", digest="fedcba9876543210")
    lm = LMConfig(source=model, backend="huggingface", dtype="float32")
    hook_point = "blocks.2.hook_resid_post"
    dictionary = DictionaryConfig(
        widths=Widths(reads=(256,), writes=(256,)), d_sae=1024, geometry=SAEConfig(), act_fn=TopKConfig(k=16)
    )
    objective = Objective(losses=(AuxK(),), unit_norm_decoder=False)
    sites = Sites(reads=(0,), writes=(0,))
    places = (Place(model=0, hook_point=hook_point),)
    about = {"models": (lm,), "places": places, "sites": sites}
    configs = {
        "tokenize": tokenize.Config(dataset=text, tokenizer=model, packing=TokenizeConfig()),
        "activations": activations.Config(model=lm, hook_point=hook_point, width=256),
        "norm": norm.Config(),
        "init": init.Config(dictionary=dictionary, sites=sites, unit_norm_decoder=False).settled(dictionary),
        "train": train.Config(tokens=1_000_000, dictionary=dictionary, sites=sites, objective=objective),
        "eval": evaluate.Config.model_validate(about),
        "features": interpret.Config.model_validate({**about, "tokenizer": model, "dataset": text.name}),
        "page": latents_page.Config(),
    }
    specs: dict[str, Spec] = {}
    for stage, config in configs.items():
        taken = {name: parent for name, parent in STAGES[stage].inputs.items() if parent != "import"}
        inputs = {name: specs[parent].reference for name, parent in taken.items()}
        dumped = config.model_dump(mode="json")
        specs[stage] = Spec(stage=stage, version=STAGES[stage].version, config=dumped, inputs=inputs)
    assert {stage: spec.key for stage, spec in specs.items()} == {
        "tokenize": "e8d99ca799f3a58f",
        "activations": "a57e4dcc9285cf64",
        "norm": "5f08a3ae35d80966",
        "init": "6c7d43ee008fbd9b",
        "train": "ca945e00fe01e306",
        "eval": "de31474d0d886766",
        "features": "93003a431e925dc1",
        "page": "967d4348b5ead46c",
    }


@pytest.mark.usefixtures("fresh")
def test_the_inputs_of_every_spec_are_those_that_its_stage_names() -> None:
    write_sweep(Path(), [*ROWS, *(row_of(architecture) for architecture in CATALOG)])
    for row in planned().rows:
        for name, spec in row.specs.items():
            assert name.partition(".")[0] == spec.stage
            of = {name.partition(".")[0]: reference.partition("/")[0] for name, reference in spec.inputs.items()}
            assert of == {name: parent for name, parent in STAGES[spec.stage].inputs.items() if parent != "import"}


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
    parts = {"sae.geometry": entry.geometry, "sae.act_fn": entry.act_fn, "sae.losses": " ".join(entry.losses)}
    parts |= {f"sae.{name}": str(value) for name, value in entry.defaults.items()}
    by_hand = {**row_of(architecture), "name": "hand", "sae.architecture": "", **parts}
    write_sweep(fresh, [row_of(architecture), by_hand])
    plan = planned()
    assert keys_of(architecture, plan) == keys_of("hand", plan)


def test_hook_points_side_by_side_are_numbered_and_shared_with_rows_that_read_one_of_them(fresh: Path) -> None:
    crosscoder, transcoder = row_of("crosscoder"), row_of("transcoder")
    write_sweep(fresh, [ROWS[0], ROWS[3], crosscoder, transcoder, row_of("clt")])
    plan = planned()
    here, there = (plan.rows[i].specs["activations"] for i in range(2))
    assert (here.config["hook_point"], there.config["hook_point"]) == (HERE, THERE)
    for row in plan.rows[2:4]:
        assert (row.specs["activations"], row.specs["activations.1"]) == (here, there)
        assert [spec.config["hook_point"] for spec in row.of("activations")] == [HERE, THERE]
        assert [spec.inputs["activations"] for spec in row.of("norm")] == [here.reference, there.reference]
    assert [row.specs["train"].config["sites"] for row in plan.rows] == [
        {"reads": [0], "writes": [0]},
        {"reads": [0], "writes": [0]},
        {"reads": [0, 1], "writes": [0, 1]},
        {"reads": [0], "writes": [1]},
        {"reads": [0, 1], "writes": [2, 3]},
    ]
    assert {stage: len(plan.specs(stage)) for stage in ROW_STAGES} == {
        "tokenize": 1,
        "import": 0,
        "divide": 0,
        "activations": 4,
        "norm": 4,
        "init": 5,
        "train": 5,
        "eval": 5,
        "features": 5,
        "page": 5,
    }
    assert len(plan.passes("activations", 16)) == 1


def test_two_models_have_stores_of_their_own_over_the_same_tokens(sources: Path) -> None:
    write_sweep(sources, [ROWS[0], row_of("crosscoder", **{"model.others": "other", "sae.hook_point": HERE})])
    alone, both = planned().rows
    assert both.specs["activations"] == alone.specs["activations"]
    assert both.specs["activations.1"].config["model"]["source"]["name"] == "other"
    assert {spec.inputs["tokens"] for spec in both.of("activations")} == {alone.specs["tokenize"].reference}
    assert both.specs["eval"].config["places"] == [{"model": m, "hook_point": HERE} for m in range(2)]
    assert len(planned().passes("activations", 16)) == 2


def test_the_hook_points_of_a_single_row_are_captured_in_one_pass(fresh: Path) -> None:
    write_sweep(fresh, [row_of("clt")])
    assert [len(group) for group in planned().passes("activations", 16)] == [4]


def test_only_dictionaries_of_one_stream_are_trained_in_one_pass(fresh: Path) -> None:
    same = ["transcoder", "skip_transcoder", "molt"]
    others = ["topk", "crosscoder", "clt", "lorsa"]
    write_sweep(fresh, [row_of(architecture) for architecture in [*same, *others]])
    assert [len(group) for group in planned().passes("train", 16)] == [3, 1, 1, 1, 1]


@pytest.mark.usefixtures("fresh")
def test_rows_share_every_stage_that_they_agree_on() -> None:
    plan = planned()
    counts = {stage: len(plan.specs(stage)) for stage in STAGES}
    wanted = {
        "tokenize": 1,
        "activations": 2,
        "norm": 2,
        "init": 4,
        "train": 4,
        "eval": 4,
        "features": 4,
        "page": 4,
        "report": 1,
    }
    assert counts == {"import": 0, "divide": 0, **wanted}
    assert {stage: len(plan.passes(stage, 16)) for stage in STAGES} == counts | {
        "activations": 1,
        "init": 2,
        "train": 2,
        "eval": 1,
        "features": 2,
        "page": 2,
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
    wanted = {
        "tokenize": 1,
        "activations": 2,
        "norm": 2,
        "init": 2,
        "train": 1000,
        "eval": 1000,
        "features": 1000,
        "page": 1000,
        "report": 1,
    }
    assert counts == {"import": 0, "divide": 0, **wanted}
    assert len(plan.passes("train", 16)) == 2 * 32  # 500 dictionaries of each hook point, 16 at a time


def test_an_experiment_without_a_sheet_is_one_row(fresh: Path) -> None:
    experiment = fresh / "config" / "mine.toml"
    experiment.write_text('[sae]\nhook_point = "blocks.0.hook_resid_post"\narchitecture = "topk"\nk = 2\nd_sae = 8\n')
    overrides = ["model.name=model", "dataset.name=text", "train.tokens=4096", "tokenize.context_size=32"]
    plan = planned(*overrides, sweep=None, config=experiment)
    assert [row.name for row in plan.rows] == ["mine"]


@pytest.mark.usefixtures("fresh")
def test_a_rows_settings_tell_defaults_that_its_keys_leave_out() -> None:
    alone, together = planned().rows[0], planned("train.shards=2").rows[0]
    assert (alone.settings["train.shards"], together.settings["train.shards"]) == (1, 2)
    assert "shards" not in alone.specs["train"].config
    assert alone.settings["eval.probes_k"] == [1, 16]
    assert alone.settings["eval.probes"] == []
