"""The command `export`: dictionaries of a sweep in the formats of other tools, whole or not at all."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sae_lens import SAE

from lmsae.dictionary.dictionary import Dictionary
from tests.conftest import made_once
from tests.interop.circuit_tracer_reader import read_config, read_layers, run_clt, run_layer
from tests.interop.test_saebench import require_valid
from tests.miniature import Said, make_until, row_of, write_sweep

Lmsae = Callable[..., Said]
RELU = {"sae.act_fn": "relu", "sae.losses": "l1", "sae.l1_coefficient": "1", "sae.k": ""}


def at(layer: int, **cells: str) -> dict[str, str]:
    """A transcoder's row: from what the MLP of a layer reads to what it writes."""
    where = {
        "sae.hook_point_in": f"blocks.{layer}.ln2.hook_normalized",
        "sae.hook_point_out": f"blocks.{layer}.hook_mlp_out",
    }
    return row_of("transcoder", **{**where, "name": f"mlp{layer}", **cells})


GIVEN = [
    at(0),
    at(1, **RELU),
    row_of("batchtopk", name="batch"),
    row_of("matryoshka", name="nested"),
    row_of("clt", **{"sae.hook_point_in": "blocks.0.ln2.hook_normalized blocks.1.ln2.hook_normalized"}),
    row_of("molt"),
]


@pytest.fixture(scope="session")
def given(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with rows to give away, made as far as their features. Look, and do not touch."""

    def make(folder: Path) -> None:
        import contextlib

        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        write_sweep(folder, GIVEN)
        with contextlib.chdir(folder):
            make_until("features")

    return made_once("given", tmp_path_factory, make)


@pytest.fixture
def here(given: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: what `given` has."""
    monkeypatch.chdir(given)
    return given


def dictionary(row: str, here: Path) -> Dictionary:
    from lmsae.planning.plan import plan_of

    plan, _ = plan_of(here / "config/config.yaml", here / "config/sweep.tsv", [], {})
    (spec,) = [one.dictionary for one in plan.rows if one.name == row]
    return Dictionary.load(here / "artifacts" / spec.reference)


def noise(width: int = 16) -> torch.Tensor:
    return 3 * torch.randn(50, width, generator=torch.Generator().manual_seed(0))


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_set_of_transcoders_is_written_for_circuit_tracer_and_conversion_tells_its_cost(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    folder = tmp_path / "set"
    said = lmsae("export", "circuit-tracer", "mlp1", "mlp0", str(folder), "--convert")
    assert said.code == 0, said.err
    cost, wrote = said.out.splitlines()
    assert cost.startswith("mlp0 as jumprelu: explained variance ")
    assert wrote == f"wrote {folder} for circuit-tracer: transcoder_set, 2 layers"
    assert names_in(folder) == {"config.yaml", "layer_0.safetensors", "layer_1.safetensors"}
    assert read_config(folder) == {
        "model_kind": "transcoder_set",
        "model_name": "model",
        "feature_input_hook": "ln2.hook_normalized",
        "feature_output_hook": "hook_mlp_out",
        "scan": "set",
    }
    layers, x, ours = read_layers(folder), noise(), dictionary("mlp1", here)
    codes, output = run_layer(layers[1], x.double().numpy())
    np.testing.assert_allclose(codes, ours.encode(x), atol=1e-4)
    np.testing.assert_allclose(output, ours(x), atol=1e-4)
    assert ["activation_function.threshold" in one for one in layers] == [True, False]


def test_a_clt_is_written_for_circuit_tracer(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    assert lmsae("export", "circuit-tracer", "clt", str(tmp_path), "--scan", "my/clt").code == 0
    assert (read_config(tmp_path)["model_kind"], read_config(tmp_path)["scan"]) == ("cross_layer_transcoder", "my/clt")
    ours, x = dictionary("clt", here), noise(32)
    codes, outputs = run_clt(tmp_path, list(np.split(x.double().numpy(), 2, axis=1)))
    np.testing.assert_allclose(np.concatenate(codes, 1), ours.encode(x), atol=1e-4)
    np.testing.assert_allclose(np.concatenate(outputs, 1), ours(x), atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        (["mlp0", "mlp1"], "mlp0: circuit-tracer 0.5 has relu and jumprelu, and this is topk. --convert writes it"),
        (["mlp1"], "there is no dictionary for layer 0. Add rows"),
        (["mlp1", "batch"], "batch: circuit-tracer traces through transcoders and clts, and this is a sae."),
        (["mlp1", "nobody"], "No row is called 'nobody' either"),
        (["mlp1/features"], "is no dictionary: name a row, or a train artifact"),
    ],
)
def test_what_circuit_tracer_cannot_have_is_refused_and_nothing_written(
    here: Path, tmp_path: Path, lmsae: Lmsae, rows: list[str], why: str
) -> None:
    said = lmsae("export", "circuit-tracer", *rows, str(tmp_path / "set"))
    assert (said.code, why in said.err) == (2, True), said
    assert not [*tmp_path.iterdir()]


def test_saelens_opens_each_row_in_a_folder_of_its_own_with_what_was_measured(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    said = lmsae("export", "saelens", "batch", "nested", str(tmp_path / "hub"))
    assert said.code == 0, said.err
    for row, architecture in (("batch", "batchtopk"), ("nested", "matryoshka_batchtopk")):
        sae, ours, x = SAE.load_from_disk(str(tmp_path / "hub" / row)), dictionary(row, here), noise()
        torch.testing.assert_close(sae(x), ours(x), rtol=1e-4, atol=1e-4)
        metrics = evaluation(row, here)
        found = sae.cfg.metadata
        assert (found.l0, found.num_dead_features) == (metrics["l0"], metrics["dead"])
        assert (found.training_architecture, sae.cfg.architecture()) == (architecture, "jumprelu")
        assert found.model_name == "model"


def evaluation(row: str, here: Path) -> dict[str, Any]:
    from lmsae.planning.plan import plan_of

    plan, _ = plan_of(here / "config/config.yaml", here / "config/sweep.tsv", [], {})
    (spec,) = [one.specs["eval"] for one in plan.rows if one.name == row]
    return json.loads((here / "artifacts" / spec.reference / "metrics.json").read_text())


def test_a_transcoder_with_topk_is_converted_for_saelens_where_that_is_asked_for(
    here: Path, tmp_path: Path, lmsae: Lmsae
) -> None:
    assert lmsae("export", "saelens", "mlp0", str(tmp_path / "hub"), "--convert").code == 0
    sae = SAE.load_from_disk(str(tmp_path / "hub/mlp0"))
    assert sae.cfg.metadata.training_architecture == "topk_transcoder"
    assert sae.cfg.architecture() == "jumprelu_transcoder"


def test_a_row_that_saelens_cannot_have_costs_no_other_row(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "saelens", "molt", "batch", str(tmp_path / "hub"))
    assert said.code == 2
    assert f"wrote {tmp_path / 'hub'}, but for 1 of 2 dictionaries:\n  molt: SAELens has no molt" in said.err
    assert {path.parts[0] for path in map(Path, names_in(tmp_path / "hub"))} == {"batch"}
    alone = lmsae("export", "saelens", "molt", str(tmp_path / "none"))
    assert (alone.code, (tmp_path / "none").exists()) == (2, False)


def test_a_key_without_a_row_is_exported_with_its_own_evaluation(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    from lmsae.planning.plan import plan_of

    plan, _ = plan_of(here / "config/config.yaml", here / "config/sweep.tsv", [], {})
    reference = plan.rows[2].dictionary.reference
    assert lmsae("export", "saelens", reference, str(tmp_path / "hub")).code == 0
    config = json.loads((tmp_path / "hub" / reference.replace("/", "-") / "cfg.json").read_text())
    assert config["metadata"]["l0"] == evaluation("batch", here)["l0"]


def test_a_folder_with_something_in_it_is_left_alone(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    said = lmsae("export", "saelens", "batch", str(tmp_path))
    assert (said.code, f"{tmp_path} is not empty; name a new folder" in said.err) == (2, True)
    assert names_in(tmp_path) == {"mine.txt"}


def test_saebench_gets_a_core_result_of_each_row(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "saebench", "batch", "mlp0", "molt", str(tmp_path / "results"), "--release", "mine")
    assert said.code == 0, said.err
    core = tmp_path / "results" / "eval_results" / "core"
    assert names_in(core) == {f"mine_{row}_eval_results.json" for row in ("batch", "mlp0", "molt")}
    for row in ("batch", "mlp0", "molt"):
        result, metrics = json.loads((core / f"mine_{row}_eval_results.json").read_text()), evaluation(row, here)
        require_valid(result)
        found = result["eval_result_metrics"]
        assert found["model_performance_preservation"]["ce_loss_with_sae"] == metrics["ce_spliced"]
        assert found["shrinkage"]["l2_norm_in"] == metrics["l2_norm_in"] > 0
        assert found["sparsity"]["l0"] == metrics["l0"]
        assert found["misc_metrics"]["frac_alive"] == pytest.approx(1 - metrics["dead_share"])
        assert result["sae_cfg_dict"]["training_tokens"] == 8192
        assert result["eval_config"]["n_eval_reconstruction_batches"] == 2  # 1024 tokens in contexts of 32, 16 at once
    batch = json.loads((core / "mine_batch_eval_results.json").read_text())
    assert batch["sae_cfg_dict"]["architecture"] == "jumprelu"
    assert max(latent["consistent_activation_heuristic"] for latent in batch["eval_result_details"]) > 1
    again = tmp_path / "again"
    assert lmsae("export", "saebench", "batch", str(again), "--release", "mine").code == 0
    same = again / "eval_results/core/mine_batch_eval_results.json"
    assert same.read_bytes() == (core / "mine_batch_eval_results.json").read_bytes()


def test_a_clt_has_no_result_there(here: Path, tmp_path: Path, lmsae: Lmsae) -> None:
    said = lmsae("export", "saebench", "clt", str(tmp_path / "results"))
    assert (said.code, "SAEBench scores dictionaries of one hook point" in said.err) == (2, True)
    assert not [*tmp_path.iterdir()]
