"""A row adopts what its finished dictionary fixes, and is refused where it says otherwise."""

from pathlib import Path
from typing import Any

import pytest

from lmsae.errors import ConfigError
from lmsae.planning.plan import Plan, plan_of
from lmsae.stages.row import PlannedRow
from tests.miniature import HERE, ROWS, THERE, row_of, write_config, write_sweep
from tests.planning.peer_folders import write_peer

CONFIG, SWEEP = Path("config/config.yaml"), Path("config/sweep.tsv")


def planned(*rows: dict[str, str]) -> Plan:
    write_sweep(Path(), list(rows))
    return plan_of(CONFIG, SWEEP, [], {})[0]


def row(**cells: str) -> PlannedRow:
    (made,) = planned({"name": "theirs", **cells}).rows
    return made


def faults(**cells: str) -> str:
    with pytest.raises(ConfigError) as caught:
        row(**cells)
    return str(caught.value)


@pytest.fixture
def peer(fresh: Path) -> str:
    write_peer(fresh / "peer")
    return "peer"


def test_a_finished_dictionary_says_all_that_its_row_leaves_open(peer: str) -> None:
    made = row(**{"sae.from": peer})
    assert [*made.specs] == ["tokenize", "import", "activations", "norm", "eval", "features", "page"]
    assert made.specs["eval"].inputs["dictionary"] == made.specs["import"].reference
    settings = {name: value for name, value in made.settings.items() if name.startswith(("sae.", "train.", "init."))}
    assert settings == {
        "sae.from": "peer",
        "sae.hook_point": [HERE],
        "sae.geometry": "sae",
        "sae.act_fn": "topk",
        "sae.k": 4,
        "sae.d_sae": 64,
        "sae.normalize_activations": "none",
        "sae.sparsity_include_decoder_norm": False,
        "sae.unit_norm_decoder": False,
        "sae.convert_to_jumprelu": False,
        "sae.apply_b_dec_to_input": True,
        "sae.tied_encoder": False,
        "sae.glu_encoder": False,
    }
    assert made.settings["model.name"] == "model"


@pytest.mark.usefixtures("peer")
def test_of_the_activations_a_finished_dictionary_needs_those_of_the_calibration_split() -> None:
    ours, theirs = planned(ROWS[0], {"name": "theirs", "sae.from": "peer"}).rows
    assert ours.specs["activations"].config["source"] == "cached"
    assert theirs.specs["activations"].config["source"] == "live"


def test_what_a_row_may_say_is_what_the_dictionary_says(peer: str) -> None:
    said = {"sae.k": "4", "sae.d_sae": "64", "sae.architecture": "topk", "sae.apply_b_dec_to_input": "TRUE"}
    said |= {"sae.hook_point": HERE, "model.name": "model", "sae.normalize_activations": "none"}
    assert row(**{"sae.from": peer}, **said).specs == row(**{"sae.from": peer}).specs
    with_factor = row(**{"sae.from": peer, "sae.expansion_factor": "4"})
    assert with_factor.specs == row(**{"sae.from": peer}).specs


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"sae.k": "5"}, "column sae.k: found '5', but peer (cfg.json) has 4"),
        ({"sae.d_sae": "32"}, "column sae.d_sae: found '32', but peer (cfg.json) has 64"),
        ({"sae.expansion_factor": "2"}, "column sae.expansion_factor: found '2', but peer (cfg.json) has 64 latents"),
        ({"sae.architecture": "jumprelu"}, "jumprelu is sae with jumprelu, but peer (cfg.json) is sae with topk"),
        ({"sae.architecture": "topkk"}, "there is no architecture 'topkk'"),
        ({"sae.act_fn": "relu"}, "column sae.act_fn: found 'relu', but peer (cfg.json) has topk"),
        ({"sae.normalize_activations": "dataset"}, "column sae.normalize_activations: found 'dataset'"),
        ({"sae.tied_encoder": "true"}, "column sae.tied_encoder: found 'true', but peer (cfg.json) has false"),
        ({"sae.hook_point": THERE}, f"column sae.hook_point: found '{THERE}'"),
        ({"model.name": "other"}, "column model.name: found 'other', but peer was trained on model"),
        ({"sae.aux_k_coefficient": "1"}, "column sae.aux_k_coefficient: changes nothing in this row: peer is finished"),
        ({"train.lr": "0.1"}, "column train.lr: changes nothing in this row: peer is finished (sae.from)"),
        ({"init.seed": "1"}, "column init.seed: changes nothing in this row"),
        ({"init.from": "peer"}, "column init.from: sae.from is finished and is not trained"),
        ({"sae.hook_point_in": HERE}, "column sae.hook_point_in: a sae writes what it reads"),
    ],
    ids=str,
)
def test_what_it_may_not_say_is_refused_at_its_cell(peer: str, cells: dict[str, str], said: str) -> None:
    (Path("other")).symlink_to("model")
    told = faults(**{"sae.from": peer, **cells})
    assert "config/sweep.tsv, row theirs, " in told
    assert said in told


def test_values_that_all_rows_share_are_meant_for_those_that_train(peer: str, fresh: Path) -> None:
    wanted = row(**{"sae.from": peer}).specs
    write_config(fresh, sae={"k": 9, "d_sae": 32, "architecture": "batchtopk"}, init={"b_dec": "zero"})
    assert row(**{"sae.from": peer}).specs == wanted


def test_a_shared_model_or_hook_point_is_meant_for_all_rows(peer: str, fresh: Path) -> None:
    (fresh / "other").symlink_to("model")
    write_config(fresh, model={"name": "other"}, sae={"hook_point": THERE})
    told = faults(**{"sae.from": peer})
    assert f"config/config.yaml, column sae.hook_point: found '{THERE}', but peer was trained on {HERE}" in told
    assert "config/config.yaml, column model.name: found 'other', but peer was trained on model" in told


def test_in_an_experiment_everything_is_meant_for_its_dictionary(peer: str) -> None:
    experiment: dict[str, Any] = {"sae": {"from": peer, "d_sae": 32}, "dataset": {"name": "text"}}
    with pytest.raises(ConfigError, match=r"column sae.d_sae: found 32, but peer \(cfg.json\) has 64"):
        plan_of(experiment, None, [], {})


def test_a_local_folder_may_hold_the_model_that_is_named_otherwise(fresh: Path) -> None:
    write_peer(fresh / "peer", named={"model_name": "pythia-70m", "hook_name": HERE})
    assert (
        row(**{"sae.from": "peer", "model.name": "model"}).specs["eval"].config["models"][0]["source"]["name"]
        == "model"
    )


def test_a_dictionary_of_another_width_is_refused(fresh: Path) -> None:
    write_peer(fresh / "peer", named={})
    cells = {"sae.from": "peer", "sae.hook_point": "blocks.0.mlp.hook_post"}
    assert "column sae.from: peer reads and writes widths 16, and the hook points here have 32" in faults(**cells)
    assert "column sae.hook_point: is missing" in faults(**{"sae.from": "peer"})


def test_a_name_that_is_no_text_or_names_nothing_is_refused(fresh: Path) -> None:
    with pytest.raises(ConfigError, match=r"column sae.from: found 7; wanted: a valid string"):
        plan_of({"sae": {"from": 7}}, None, [], {})
    assert "row theirs, column sae.from: no dictionary 'nowhere'" in faults(**{"sae.from": "nowhere"})
    assert f"column init.from: {fresh.name}" not in faults(**{"init.from": "model"})
    assert "config.json is damaged, or the config of no dictionary" in faults(**{"init.from": "model"})


START = {"init.from": "peer", "sae.architecture": "topk"}


@pytest.mark.usefixtures("peer")
def test_a_start_says_what_its_row_leaves_open() -> None:
    made = row(**START)
    assert [*made.specs] == ["tokenize", "import", "activations", "norm", "init", "train", "eval", "features", "page"]
    assert made.specs["init"].inputs["dictionary"] == made.specs["import"].reference
    assert made.specs["eval"].inputs["dictionary"] == made.specs["train"].reference
    built = made.specs["train"].config["dictionary"]
    assert (built["d_sae"], built["normalize_activations"], built["act_fn"]) == (64, "none", {"kind": "topk", "k": 4})
    assert made.specs["train"].config["objective"]["losses"][0]["kind"] == "aux_k"
    assert made.settings["sae.hook_point"] == [HERE]


@pytest.mark.usefixtures("peer")
def test_a_start_may_go_on_wider_with_another_k_and_elsewhere(fresh: Path) -> None:
    (fresh / "other").symlink_to("model")
    elsewhere = {"model.name": "other", "sae.hook_point": THERE, "sae.k": "6", "sae.d_sae": "80", "init.seed": "3"}
    built = row(**START, **elsewhere).specs["train"].config["dictionary"]
    assert (built["d_sae"], built["act_fn"]["k"]) == (80, 6)


@pytest.mark.usefixtures("peer")
@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"sae.d_sae": "48"}, "column sae.d_sae: peer has 64 latents, and none can be left out; this row wants 48"),
        ({"sae.architecture": "batchtopk"}, "batchtopk is sae with batchtopk, but peer (cfg.json) is sae with topk"),
        ({"sae.normalize_activations": "dataset"}, "column sae.normalize_activations: found 'dataset', but peer"),
        ({"sae.hook_point": "blocks.0.mlp.hook_post"}, "peer reads and writes widths 16, and the hook points of this"),
        ({"init.b_dec": "zero"}, "column init.b_dec: changes nothing in this row: it starts from peer"),
        ({"init.grid_search": "false"}, "column init.grid_search: changes nothing in this row"),
        ({"init.b_dec": "zero", "sae.d_sae": "80"}, "column init.b_dec: changes nothing in this row"),
        ({"init.from_model": "true"}, "column init.from_model: the row starts from peer (init.from)"),
    ],
    ids=str,
)
def test_a_start_that_says_otherwise_is_refused_at_its_cell(cells: dict[str, str], said: str) -> None:
    assert said in faults(**{**START, **cells})


def test_what_is_shared_gives_way_to_what_a_start_is(peer: str, fresh: Path) -> None:
    write_config(fresh, sae={"d_sae": 32, "k": 9, "normalize_activations": "whiten", "architecture": "topk"})
    built = row(**{"init.from": peer}).specs["train"].config["dictionary"]
    assert (built["d_sae"], built["act_fn"]["k"], built["normalize_activations"]) == (64, 4, "none")


def test_molts_and_lorsas_are_widened_in_whole_blocks(fresh: Path) -> None:
    from lmsae.dictionary.dictionary import Dictionary
    from tests.architectures import parts

    (fresh / "own").mkdir()
    Dictionary(parts("molt", 16, 24, out_width=16, molt_ranks="4x1 2x1")[0]).save(fresh / "own")
    cells = {name: cell for name, cell in row_of("molt").items() if name != "name"}
    start = {**cells, "init.from": "own", "sae.molt_ranks": ""}
    assert row(**start, **{"sae.d_sae": "32"}).specs["train"].config["dictionary"]["d_sae"] == 32
    assert "column sae.molt_ranks: found '4x1'" in faults(**{**start, "sae.molt_ranks": "4x1"})
