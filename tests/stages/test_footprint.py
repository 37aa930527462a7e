"""What passes take of memory, worked out by hand and held against processes, as benchmarks/memory.py does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lmsae.artifacts.artifact import Artifacts
from lmsae.lm.resolving import read_config, resolve
from lmsae.planning.estimates import Estimator
from lmsae.stages import STAGES
from lmsae.stages.fitting import total
from lmsae.stages.footprint import (
    DictionarySize,
    capturing_footprint,
    describing_footprint,
    model_bytes,
    scoring_footprint,
    size_of,
    starting_footprint,
    training_footprint,
)
from tests.architectures import parts
from tests.miniature import ROWS, keys, write_config, write_sweep

SMALL = DictionarySize(parameters=2 * 256 * 2048, latents=2048)
CASE: dict[str, Any] = {
    "window_tokens": 65_536,
    "token_bytes": 512,
    "batch_size": 2048,
    "width": 256,
    "dictionaries": [SMALL],
    "dataset_tokens": 10**6,
}


def grown(**changes: Any) -> int:
    return training_footprint(**CASE | changes).nbytes - training_footprint(**CASE).nbytes


def test_a_case_by_hand() -> None:
    windows = 2 * 65_536 * 512 + 65_536 * 49
    weights_and_moments, gradient = 3 * 4 * 2 * 256 * 2048, 2 * 4 * 2 * 256 * 2048
    step = 2048 * (3 * 4 * 2048 + 6 * 4 * 256)
    assert training_footprint(**CASE).nbytes == windows + weights_and_moments + gradient + step + 50_000


def test_the_dataset_hardly_enters() -> None:
    assert grown(dataset_tokens=10**9 + 10**6) == 50_000_000  # of half a terabyte at this width


def test_another_dictionary_costs_its_weights_and_moments() -> None:
    assert grown(dictionaries=[SMALL, SMALL]) == 12 * SMALL.parameters


def test_a_soft_frozen_decoder_costs_its_start() -> None:
    config = parts("topk", 256, 2048)[0]
    free, limited = size_of(config), size_of(config, soft_frozen=True)
    assert grown(dictionaries=[limited]) - grown(dictionaries=[free]) == 4 * 256 * 2048


def test_a_window_is_held_twice_as_it_is_stored() -> None:
    assert grown(window_tokens=2 * 65_536) == 65_536 * (2 * 512 + 49)
    assert grown(token_bytes=260) == -2 * 65_536 * 252


@pytest.mark.parametrize("selects", [False, True])
def test_codes_grow_with_batch_and_latents(selects: bool) -> None:
    one, two = (DictionarySize(SMALL.parameters, latents, selects) for latents in (2048, 4096))
    arrays = 5.5 if selects else 3
    assert grown(dictionaries=[two]) - grown(dictionaries=[one]) == 2048 * 2048 * 4 * arrays


def test_calibration_counts_where_it_takes_more_than_a_step() -> None:
    size = DictionarySize(SMALL.parameters, 2048, calibrates=True)
    step = 2048 * (3 * 4 * 2048 + 6 * 4 * 256)
    assert grown(dictionaries=[size], calibration_tokens=512) == 0
    assert grown(dictionaries=[size], calibration_tokens=8192) == 8 * 4 * 8192 * 2048 - step
    assert grown(dictionaries=[size], calibration_tokens=10**9) == 8 * 4 * 2**25 - step  # in parts of so many
    assert grown(dictionaries=[SMALL], calibration_tokens=10**9) == 0


def test_the_largest_part_names_the_setting_to_change() -> None:
    def mend(**changes: Any) -> str:
        return training_footprint(**CASE | changes).largest.mend

    assert mend(window_tokens=10**6) == "lower train.window_tokens"
    assert mend(batch_size=10**5).startswith("lower train.batch_size, raise train.gradient_accumulation")
    assert mend(dictionaries=[SMALL] * 50) == "lower runtime.together or sae.d_sae"
    assert mend(dictionaries=[DictionarySize(2 * 256 * 10**6, 10**4)]) == "lower sae.d_sae"


def test_a_device_holds_the_dictionaries_and_the_host_the_windows() -> None:
    footprint = training_footprint(**CASE)
    host, device = footprint.on(device=False), footprint.on(device=True)
    assert host.nbytes == 65_536 * (2 * 512 + 49) + 50_000
    assert host.nbytes + device.nbytes == footprint.nbytes


def test_each_of_several_processes_has_its_share_of_a_dictionary() -> None:
    share = SMALL.divided(4)
    assert (share.parameters, share.latents) == (SMALL.parameters // 4, SMALL.latents // 4)
    case: dict[str, Any] = CASE | {"dictionaries": [share]}
    one = training_footprint(**case)
    four = one.sharded(4, SMALL, libraries=1000)
    weights, step = 5 * 4 * SMALL.parameters // 4, 2048 * (3 * 4 * 512 + 6 * 4 * 256)
    windows, state = 2 * 65_536 * 512 + 65_536 * 49 + 50_000, 3 * 4 * SMALL.parameters
    assert four.on(device=True).nbytes == weights + step
    assert four.on(device=False).nbytes == 4 * (windows + 1000) + state
    assert four.nbytes == 4 * (weights + step + windows + 1000) + state
    assert (four.processes, four.of_one_process.nbytes) == (4, weights + step + windows + 1000)
    assert (one.processes, one.of_one_process) == (1, one)


def test_a_device_holds_the_whole_dictionary_where_its_threshold_is_calibrated() -> None:
    size = DictionarySize(parameters=2 * 4096 * 2**20, latents=2**20, calibrates=True)
    case: dict[str, Any] = CASE | {"dictionaries": [size.divided(64)], "batch_size": 64}
    assert training_footprint(**case).sharded(64, size, 0).on(device=True).nbytes == 4 * size.parameters


def test_the_weights_of_a_model_are_counted_as_they_are_stored() -> None:
    """All but norms and biases, which are few."""
    folder = Path(__file__).parents[2] / "lmsae/lm/stdlib-4m"
    stored = (folder / "model.safetensors").stat().st_size
    config = read_config(resolve("builtin:stdlib-4m", None))
    assert 0.98 * stored < model_bytes(config, "float16") < stored  # as which it is stored
    assert model_bytes(config, "bfloat16") == model_bytes(config, "float32") // 2
    apart = model_bytes({**config, "tie_word_embeddings": False}, "float32") - model_bytes(config, "float32")
    assert apart == 4 * config["vocab_size"] * config["hidden_size"]
    assert model_bytes(read_config(resolve("builtin:features", None)), "float32") == 0


def test_other_passes_by_hand() -> None:
    captured = capturing_footprint(model_bytes=1000, batch_tokens=32, widest=64, width=48)
    assert captured.nbytes == 1000 + 4 * 32 * (3 * 64 + 48)
    scored = scoring_footprint(model_bytes=1000, vocabulary=500, batch_tokens=32, dictionaries=[SMALL, SMALL])
    assert scored.nbytes == 1000 + 2 * 4 * SMALL.parameters + 4 * 32 * (13 * 500 + 6 * 2048)
    started = starting_footprint(tokens=4096, width=256, dictionary=SMALL, tried_tokens=1024)
    assert started.nbytes == 4 * (4 * 4096 * 256 + 2 * SMALL.parameters + 6 * 1024 * 2048)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can forget a peak")
def test_processes_take_what_the_formulas_say(fresh: Path) -> None:
    """Each stage in a process of its own, with enough to do that its libraries are not all that it takes."""
    write_config(
        fresh,
        sae={"d_sae": 8192},
        init={"tokens": 4096},
        tokenize={"calibration_tokens": 8192, "tokens": 12_000},
        eval={"batch_contexts": 128, "tokens": 4096},
    )
    write_sweep(fresh, ROWS[:1])
    for command in ("plan", "tokenize", "activations", "norm", "init", "train", "eval"):
        subprocess.run([sys.executable, "-m", "lmsae.cli", command], check=True, capture_output=True)
    artifacts = Artifacts(fresh / "artifacts")
    outlook, ratios = Estimator(artifacts, "cpu"), {}
    for stage in ("activations", "norm", "init", "train", "eval"):
        (key,) = keys(fresh, stage)
        footprint = STAGES[stage].effort.memory([outlook.spec(f"{stage}/{key}")], outlook)
        assert footprint is not None
        run = json.loads((artifacts.root / stage / key / "run.json").read_text())
        ratios[stage] = run["peak_memory_bytes"]["host"] / total(footprint)
    # Of the same work, one process takes up to 1.6 times what another does: see STARTING_CODES.
    assert all(0.7 < ratio < 1.5 for ratio in ratios.values()), ratios


def test_features_by_hand() -> None:
    """Few tokens: codes are the most. Many: firings are, up to a bound; then only tokens and weights grow."""
    few = describing_footprint(tokens=1000, dictionaries=[SMALL]).nbytes
    assert few == 2 * 4 * SMALL.parameters + 12 * 4 * 2**24 + 2**27 + 2**24 + 40 * 1000
    assert describing_footprint(tokens=10**6, dictionaries=[SMALL]).nbytes - few == 40 * (10**6 - 1000)
    small = DictionarySize(parameters=1, latents=64)
    assert describing_footprint(tokens=10**6, dictionaries=[small]).nbytes == 8 + 2**29 + 2**27 + 2**24 + 40 * 10**6
    assert describing_footprint(tokens=1000, dictionaries=[SMALL, SMALL]).nbytes - few == 4 * SMALL.parameters + 2**24


def test_features_reckon_with_the_batches_that_they_compute() -> None:
    from lmsae.interpretation.gathering import CODES_AT_ONCE
    from lmsae.stages import footprint
    from lmsae.stages.inputs.passages import READ_TOKENS

    assert (footprint.CODES_AT_ONCE, footprint.TOKENS_AT_ONCE) == (CODES_AT_ONCE, READ_TOKENS)
