"""A dictionary over several processes learns what it learns in one: the same codes, losses and weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from lmsae.geometry.codes import EntryCodes
from lmsae.geometry.config import GEOMETRIES
from lmsae.losses import LOSSES, Forward
from lmsae.planning.catalog import CATALOG
from lmsae.sparsity.config import ACT_FNS
from lmsae.training.checkpoints import Checkpoints
from lmsae.training.run import Run, State
from lmsae.training.sharded.processes import Processes
from lmsae.training.sharded.sharded_run import ShardedRun
from tests.training.conftest import BATCH, BatchesFor, MakeRun
from tests.training.processes_of_a_test import in_processes, shard_of
from tests.training.runs import learn


def is_shardable(name: str) -> bool:
    """True if all parts of a catalog entry say so."""
    entry = CATALOG[name]
    losses = [LOSSES[loss] for loss in entry.losses]
    return all(part.shardable for part in (GEOMETRIES[entry.geometry], ACT_FNS[entry.act_fn], *losses))


SHARDABLE = [name for name in CATALOG if is_shardable(name)]
LATENTS = 30
"""They cannot be divided by 4."""
STEPS = 12
NEAR: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-6}
"""The tolerance of a short training: sums of the same numbers in another order."""
IN_FOUR = [pytest.param(name, 4, marks=[] if name == "batchtopk" else pytest.mark.slow) for name in SHARDABLE]
OPTIONS: dict[str, dict[str, Any]] = {
    "auto": {"lr": "auto"},
    "ema": {"ema": 0.9},
    "lazy": {"optimizer": "sparse_adam", "weight_decay": 0.01},
    "soft_frozen": {"decoder_min_cosine": 0.999, "lr": 0.02},
    "frozen": {"bias_lr_factor": 0},
    "halves": {"precision": "bfloat16", "columns": {"k": 2, "aux_k_coefficient": 0}},
    "parts": {"gradient_accumulation": 2},
    "k": {"initial_k": 9, "k_warm_up_steps": 6},
    "clipped": {"grad_clip": 0.01},
    "unclipped": {"grad_clip": 0},
    "norms": {"columns": {"sparsity_include_decoder_norm": True}},
    "unit": {"columns": {"unit_norm_decoder": True}},
    "glu": {"columns": {"glu_encoder": True}},
    "tied": {"columns": {"tied_encoder": True}},
    "dense": {"columns": {"losses": ("aux_k", "tanh_quad"), "tanh_quad_coefficient": 0.1}},
    "sampled": {"columns": {"losses": ("nested_sampled", "aux_k"), "matryoshka_sampled": 4}},
    "batch": {"columns": {"act_fn": "batchtopk"}, "gradient_accumulation": 2, "initial_k": 9, "k_warm_up_steps": 6},
}


def make(make_run: MakeRun, name: str, **options: Any) -> Run:
    """A run in which latents are dead after one batch in which they are silent."""
    return make_run(name, STEPS, d_sae=LATENTS, **{"dead_threshold": BATCH, **options})


def codes_of(forward: Forward) -> Tensor:
    """All codes (tokens, latents)."""
    codes = forward.codes
    return codes.entries.to_dense(codes.values) if isinstance(codes, EntryCodes) else codes.values


def look(run: Run, batches: list[Any]) -> tuple[Tensor, Tensor, dict[str, float]]:
    """The codes, reconstruction and losses of a batch, where every third latent is dead."""
    numbers = torch.arange(LATENTS)
    if isinstance(run, ShardedRun):
        numbers = numbers[run._processes.latents(LATENTS)]
    run.steps_done, dead = 1, numbers % 3 == 0
    training = {loss.kind: run._describe_step(dead, run.memory[loss.kind]) for loss in run.objective.losses}
    forward, terms = run._compute_losses(batches[0], training, None)
    run.steps_done = 0
    return codes_of(forward).detach(), forward.reconstruction.detach(), {k: v.item() for k, v in terms.items()}


def flatten(state: Any, name: str = "") -> dict[str, Any]:
    """The tensors and numbers of a state, by their paths."""
    if isinstance(state, dict):
        return {k: v for key, one in state.items() for k, v in flatten(one, f"{name}/{key}").items()}
    if isinstance(state, list | tuple):
        return {k: v for key, one in enumerate(state) for k, v in flatten(one, f"{name}/{key}").items()}
    return {name: state}


def assert_near(found: State | None, wanted: State) -> None:
    """Both states have the same entries, and numbers that are near."""
    there, here = flatten(found), flatten(wanted)
    assert there.keys() == here.keys()
    for name, value in here.items():
        if torch.is_tensor(value):
            torch.testing.assert_close(there[name], value, **NEAR, msg=lambda said, name=name: f"{name}: {said}")
        else:
            assert there[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


def trained_in(processes: Processes, run: Run, batches: list[Any]) -> State | None:
    """The whole state of a run that several processes have trained, in the first of them."""
    shard = shard_of(run, processes)
    learn(shard, batches)
    shard.gather_state()
    return shard.state() if processes.is_first else None


def test_what_can_be_sharded_is_known() -> None:
    assert [
        *("standard", "standard_new", "jumprelu", "topk", "batchtopk", "matryoshka"),
        *("transcoder", "skip_transcoder", "crosscoder"),
    ] == SHARDABLE


@pytest.mark.parametrize(("name", "count"), [*((name, 2) for name in SHARDABLE), *IN_FOUR])
def test_codes_are_those_of_one_process_and_losses_and_weights_are_near(
    name: str, count: int, make_run: MakeRun, batches_for: BatchesFor
) -> None:
    batches = batches_for(name)
    one = make(make_run, name)
    codes, reconstruction, terms = look(one, batches)

    def work(processes: Processes) -> tuple[Any, ...]:
        shard = shard_of(make(make_run, name), processes)
        return *look(shard, batches), trained_in(processes, make(make_run, name), batches)

    answers = in_processes(count, work)
    assert torch.equal(torch.cat([own for own, *_ in answers], dim=1) != 0, codes != 0)
    torch.testing.assert_close(torch.cat([own for own, *_ in answers], dim=1), codes, rtol=1e-6, atol=1e-6)
    for _, found, losses, _ in answers:
        # What is small is a sum of what is large, and rounds as that does, on each processor otherwise.
        torch.testing.assert_close(found, reconstruction, rtol=0, atol=1e-6 * float(reconstruction.abs().max()))
        assert losses == pytest.approx(terms, rel=1e-6)
        assert torch.equal(found, answers[0][1])
        assert losses == answers[0][2]
    assert terms.get("aux_k", 1) > 0
    assert_near(answers[0][3], learn(one, batches).state())
    if "aux_k" in CATALOG[name].losses:
        assert one.count_dead() > 0


@pytest.mark.slow
@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_of_training_is_that_of_one_process(
    option: str, make_run: MakeRun, batches_for: BatchesFor
) -> None:
    batches, options = batches_for("topk"), OPTIONS[option]
    found, _ = in_processes(2, lambda processes: trained_in(processes, make(make_run, "topk", **options), batches))
    assert_near(found, learn(make(make_run, "topk", **options), batches).state())


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), pytest.param(2, 4, marks=pytest.mark.slow), (4, 1)])
def test_a_checkpoint_of_any_number_of_processes_goes_on_in_any_other(
    before: int, after: int, make_run: MakeRun, batches_for: BatchesFor, tmp_path: Path
) -> None:
    batches = batches_for("batchtopk")

    def begin(run: Run, processes: Processes | None) -> None:
        for step in range(STEPS // 2):
            run.step(batches[step])
        if isinstance(run, ShardedRun):
            run.gather_state()
        if processes is None or processes.is_first:
            Checkpoints(tmp_path / "checkpoint", run).write()

    def go_on(run: Run) -> State | None:
        checkpoints = Checkpoints(tmp_path / "checkpoint", run)
        assert checkpoints.restore() == STEPS // 2
        learn(run, batches)
        if isinstance(run, ShardedRun):
            run.gather_state()
            return run.state() if run._processes.is_first else None
        return run.state()

    def fresh() -> Run:
        return make(make_run, "batchtopk", ema=0.9)

    if before == 1:
        begin(fresh(), None)
    else:
        in_processes(before, lambda processes: begin(shard_of(fresh(), processes), processes))
    moved = (
        go_on(fresh()) if after == 1 else in_processes(after, lambda processes: go_on(shard_of(fresh(), processes)))[0]
    )
    assert moved is not None
    assert_near(moved, learn(fresh(), batches).state())


def test_a_run_that_is_resumed_in_as_many_processes_has_the_same_bytes(
    make_run: MakeRun, batches_for: BatchesFor
) -> None:
    batches = batches_for("topk")

    def work(processes: Processes) -> tuple[State, State] | None:
        whole = trained_in(processes, make(make_run, "topk"), batches)
        first, second = (shard_of(make(make_run, "topk"), processes) for _ in range(2))
        for step in range(STEPS // 2):
            first.step(batches[step])
        first.gather_state()
        said = [first.state() if processes.is_first else None]
        dist.broadcast_object_list(said, src=0, device=torch.device("cpu"))
        assert said[0] is not None
        second.go_on_from(said[0])
        learn(second, batches)
        second.gather_state()
        return (whole, second.state()) if whole else None

    answer = in_processes(2, work)[0]
    assert answer is not None
    whole, resumed = answer
    there, here = flatten(resumed), flatten(whole)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[n], v) if torch.is_tensor(v) else there[n] == v for n, v in here.items())
