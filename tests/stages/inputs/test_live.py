"""The live source: dictionaries are those of stored activations, and nothing is stored but the calibration contexts."""

import contextlib
import json
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lmsae.lm import load, resolve
from lmsae.lm.huggingface import HuggingFaceModel
from lmsae.planning.plan import plan_of
from lmsae.stages.activations import STORE
from lmsae.store.reader import StoreReader
from lmsae.text.tokens import open_tokens
from lmsae.training.run import Run
from tests.miniature import HERE, THERE, Said, row_of, write_config, write_model, write_sweep
from tests.stages.zygote import Order, Zygote

BATCH = 44
SECTIONS: dict[str, dict[str, Any]] = {
    # No divisor of the contexts of a window, so that batches are filled up, nor of those of the text, whose last and
    # smaller batch lies across two chunks.
    "activations": {"batch_contexts": BATCH},
}
OFTEN = {"runtime": {"device": "cpu", "threads": 1, "checkpoint_seconds": 0}}
TWICE = {"train.tokens": "46592", "train.epochs": "2"}
ROWS = [
    row_of("topk", **{"train.resample_steps": "8"}),
    row_of("batchtopk", **{"sae.convert_to_jumprelu": "true"}),
    row_of("topk", **{"name": "twice"}, **TWICE),
    row_of("topk", **{"name": "e2e", "sae.losses": "e2e_kl", "sae.e2e_kl_coefficient": "100"}),
    row_of("topk", **{"name": "int8", "activations.dtype": "int8"}),
    row_of("transcoder"),
    row_of("crosscoder", **{"model.others": "other", "activations.dtype": "float32"}),
    row_of("lorsa"),
]
NAMES = [row["name"] for row in ROWS]
RESUMED = ["topk", "batchtopk", "e2e", "transcoder"]
NOT_THE_SAME = {"spec.json", "manifest.json", ".manifest.json", "run.json"}
Command = Callable[..., Said]
pytestmark = pytest.mark.xdist_group("kills")


def live(row: dict[str, str]) -> dict[str, str]:
    return {**row, "name": f"{row['name']}-live", "activations.source": "live"}


@pytest.fixture(scope="module")
def both(pristine: Path, tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    """Every row twice, from stored activations and live; up to training. Look, and do not touch."""
    folder = tmp_path_factory.mktemp("both") / "here"
    shutil.copytree(pristine, folder)
    write_model(folder, "other", seed=1)
    write_config(folder, **SECTIONS)
    write_sweep(folder, [*ROWS, *map(live, ROWS)])
    for stage in ("plan", "tokenize", "activations", "norm", "init", "train"):
        ended = zygote.run(Order(str(folder), [stage]))
        assert ended.status == 0, ended.said
    return folder


@pytest.fixture(scope="module")
def found(both: Path) -> dict[str, dict[str, Path]]:
    """Of every row the artifacts by stage, relative to the folder."""
    with contextlib.chdir(both):
        plan, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {
        row.name: {name: Path("artifacts", spec.reference) for name, spec in row.specs.items()} for row in plan.rows
    }


@pytest.fixture
def folder(both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a copy in which some live rows only are wanted, and nothing is trained; from now on
    there is a checkpoint after every step."""
    folder = shutil.copytree(both, tmp_path / "here")
    monkeypatch.chdir(folder)
    write_config(folder, **SECTIONS, **OFTEN)
    shutil.rmtree(folder / "artifacts" / "train")
    write_sweep(folder, [live(row) for row in ROWS if row["name"] in RESUMED])
    return folder


def payload(path: Path) -> dict[str, bytes]:
    """What a stage wrote: the files of an artifact, but for what it is and how it was made."""
    return {file.name: file.read_bytes() for file in path.iterdir() if file.is_file() and file.name not in NOT_THE_SAME}


def recorded(monkeypatch: pytest.MonkeyPatch, pause: float = 0.0) -> list[np.ndarray]:
    """The batches that models will read, as they come."""
    real, batches = HuggingFaceModel.read, []

    def read(model: HuggingFaceModel, tokens: Any, hook_points: Any) -> Any:
        batches.append(tokens.numpy())
        time.sleep(pause)
        return real(model, tokens, hook_points)

    monkeypatch.setattr(HuggingFaceModel, "read", read)
    return batches


@pytest.mark.parametrize("name", NAMES)
def test_a_dictionary_is_the_one_of_stored_activations_bit_for_bit(
    name: str, both: Path, found: dict[str, dict[str, Path]]
) -> None:
    stored, alive = found[name], found[f"{name}-live"]
    for stage in ("norm", "init", "train"):
        assert stored[stage] != alive[stage]
        wrote = payload(both / alive[stage])
        assert len(wrote) >= 1
        assert wrote == payload(both / stored[stage])
    assert {"dictionary.safetensors", "curves.csv"} <= payload(both / alive["train"]).keys()


@pytest.mark.parametrize("name", NAMES)
def test_only_the_batches_with_held_calibration_contexts_are_stored(
    name: str, both: Path, found: dict[str, dict[str, Path]]
) -> None:
    tokens = open_tokens(both / found[name]["tokenize"])
    assert tokens.calibration_contexts == 32
    for stage in found[name]:
        if not stage.startswith("activations"):
            continue
        stored, alive = (StoreReader(both / found[row][stage] / STORE) for row in (name, f"{name}-live"))
        assert (stored.contexts, alive.contexts) == (len(tokens.train), BATCH)
        assert torch.equal(alive.read(0, BATCH), stored.read(0, BATCH))
        sizes = [sum(file.stat().st_size for file in store.path.rglob("*")) for store in (stored, alive)]
        assert sizes[1] / sizes[0] < 2 * alive.contexts / stored.contexts  # metadata, and a chunk that is filled up


def test_models_run_in_batches_of_the_sizes_that_a_capture_of_everything_has(
    folder: Path, lmsae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(folder, [live(row) | TWICE | {"train.batch_size": "512"} for row in ROWS[:2]])
    tokens = open_tokens(next((folder / "artifacts" / "tokenize").iterdir())).train[:]
    assert lmsae("plan").code == lmsae("init").code == 0
    batches = recorded(monkeypatch)
    assert lmsae("train").code == 0
    number = {context.tobytes(): index for index, context in enumerate(tokens.astype("int64"))}
    numbers = [[number[context.tobytes()] for context in batch] for batch in batches]
    rest = len(tokens) % BATCH
    assert rest > 0
    for batch in numbers:
        assert len(batch) == BATCH or batch == [*range(len(tokens) - rest, len(tokens))]
    # Both rows share the model's passes. Every context is run once an epoch.
    runs = np.bincount([run for batch in numbers for run in set(batch)], minlength=len(tokens))
    assert (runs[32 : len(tokens) - rest] == 2).all()


@pytest.mark.parametrize("kills", [2, pytest.param(6, marks=pytest.mark.slow)])
def test_live_training_killed_at_any_change_of_a_file_goes_on_to_the_same_bytes(
    kills: int, both: Path, folder: Path, found: dict[str, dict[str, Path]], zygote: Zygote
) -> None:
    assert zygote.run(Order(str(folder), ["plan"])).status == 0
    draw = random.Random(0)
    ended = [zygote.run(Order(str(folder), ["train"], draw.randint(50, 250))).status for _ in range(kills)]
    assert -signal.SIGKILL in ended
    assert zygote.run(Order(str(folder), ["train"])).status == 0
    resumed = 0
    for row in (f"{name}-live" for name in RESUMED):
        made = folder / found[row]["train"]
        assert payload(made) == payload(both / found[row]["train"])
        resumed += len(json.loads((made / "run.json").read_text())["facts"]["resumed_from_steps"])
    assert resumed > 0


def test_training_that_is_asked_to_stop_does_not_wait_for_a_window(
    folder: Path, lmsae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_config(folder, **OFTEN, activations={"batch_contexts": 1})
    write_sweep(folder, [live(ROWS[0])])
    assert lmsae("plan").code == lmsae("activations").code == lmsae("norm").code == lmsae("init").code == 0
    batches = recorded(monkeypatch, pause=0.02)
    real = Run.step

    def step(run: Run, batch: Any) -> None:
        real(run, batch)
        if run.steps_done == 8:  # of the second window, while the third is begun
            threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr(Run, "step", step)
    with pytest.raises(SystemExit) as stop:
        lmsae("train")
    assert stop.value.code == 143
    assert 2 * 64 < len(batches) < 3 * 64  # contexts of a window
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lmsae")]
    assert list(folder.glob("artifacts/train/*/checkpoint/*.pt"))


def test_activations_that_the_dtype_cannot_hold_are_refused_with_their_context(
    folder: Path, lmsae: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_sweep(folder, [live(ROWS[0])])
    assert lmsae("plan").code == 0
    real = HuggingFaceModel.read
    larger = lambda *asked: {name: 1e6 * x for name, x in real(*asked).items()}  # noqa: E731
    monkeypatch.setattr(HuggingFaceModel, "read", larger)
    said = lmsae("train")
    assert said.code != 0
    assert f"{HERE}: context " in said.err
    assert "float16 ends at 65,504: set activations.dtype=bfloat16" in said.err


def test_threads_that_share_a_model_get_their_own_activations(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(both)
    model = load(resolve("model"), backend="huggingface", dtype="float32", device="cpu")
    draw = np.random.default_rng(0)
    asked = [torch.from_numpy(draw.integers(0, 200, (4, 32))) for _ in range(4)]
    alone = [model.read(tokens, [HERE, THERE]) for tokens in asked]
    doubled = [model.logits_with(tokens, {HERE: lambda x: 2 * x}) for tokens in asked]
    right: list[bool] = []

    def work(number: int) -> None:
        for _ in range(30):
            read = model.read(asked[number], [HERE, THERE])
            right.append(all(torch.equal(read[name], alone[number][name]) for name in (HERE, THERE)))
            logits = model.logits_with(asked[number], {HERE: lambda x: 2 * x})
            right.append(torch.equal(logits, doubled[number]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert right == [True] * 4 * 30 * 2


def test_the_plan_counts_the_bytes_that_will_be_stored(folder: Path, lmsae: Command) -> None:
    shutil.rmtree(folder / "artifacts" / "activations")
    costs = []
    for row in (ROWS[5], live(ROWS[5])):
        write_sweep(folder, [row])
        costs.append(next(line for line in lmsae("plan").out.splitlines() if line.startswith("activations")))
        assert lmsae("activations").code == 0
    contexts = len(open_tokens(next((folder / "artifacts" / "tokenize").iterdir())).train)
    assert f"{2 * contexts * 32 / 1000:.3g} k tokens" in costs[0]
    assert f"{2 * BATCH * 32 / 1000:.3g} k tokens" in costs[1]


def test_a_filter_by_norms_is_refused_live(folder: Path, lmsae: Command) -> None:
    write_sweep(folder, [row | {"activations.max_norm_factor": "3"} for row in (ROWS[0], live(ROWS[0]))])
    said = lmsae("plan")
    assert said.code == 2
    assert "row topk-live, column activations.max_norm_factor" in said.err
    assert "set the source to cached" in said.err
    assert "row topk," not in said.err
