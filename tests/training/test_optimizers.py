"""Optimizers by name: each trains, each parameter has one, and rates, decay and state are where they should be."""

import sys
from typing import Any, get_args

import pytest
import torch
from torch.optim import Optimizer

from lmsae.errors import SourceError
from lmsae.planning.catalog import CATALOG
from lmsae.training.config import TrainConfig
from lmsae.training.run import Run
from tests.training.runs import learn, saved, weights

OPTIMIZERS = get_args(TrainConfig.model_fields["optimizer"].annotation)
SETTINGS: dict[str, dict[str, Any]] = {"schedule_free": {"lr_schedule": "constant"}}
every_optimizer = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def make(make_run: Any, optimizer: str, name: str = "topk", steps: int = 100, **settings: Any) -> Run:
    return make_run(name, steps, **{"lr": 1e-2, "optimizer": optimizer, **SETTINGS.get(optimizer, {}), **settings})


def group_of(optimizers: tuple[Optimizer, ...], parameter: torch.nn.Parameter) -> tuple[Optimizer, dict[str, Any]]:
    """The one group that a parameter is in."""
    found = [
        (optimizer, group)
        for optimizer in optimizers
        for group in optimizer.param_groups
        if any(one is parameter for one in group["params"])
    ]
    assert len(found) == 1
    return found[0]


@every_optimizer
def test_a_dictionary_learns_with_it(optimizer: str, make_run: Any, batches_for: Any) -> None:
    first, *_, last = learn(make(make_run, optimizer, steps=50), batches_for("topk")).curves
    assert last["reconstruction_loss"] < 0.5 * first["reconstruction_loss"]


@every_optimizer
def test_the_same_start_gives_the_same_bytes_with_it(
    optimizer: str, make_run: Any, batches_for: Any, tmp_path: Any
) -> None:
    outcomes = [
        saved(learn(make(make_run, optimizer, steps=10), batches_for("topk")), tmp_path / str(i)) for i in (0, 1)
    ]
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("name", CATALOG)
@every_optimizer
def test_every_parameter_has_one_optimizer(optimizer: str, name: str, make_run: Any) -> None:
    run = make(make_run, optimizer, name)
    for parameter in run.dictionary.parameters():
        group_of(run.optimizers, parameter)


@every_optimizer
def test_thresholds_learn_at_their_own_rate(optimizer: str, make_run: Any) -> None:
    run = make(make_run, optimizer, "jumprelu", threshold_lr_factor=0.1)
    rates = {name: group_of(run.optimizers, value)[1]["base_lr"] for name, value in run.dictionary.named_parameters()}
    assert rates.pop("sparsity.log_threshold") == pytest.approx(1e-3)
    assert set(rates.values()) == {1e-2}


ROLES = {
    "threshold": {"log_threshold"},
    "bias": {"b_enc", "b_dec", "b_gate", "b_mag", "b_Q", "b_K"},
    "decoder": {"W_dec", "W_skip", "U", "V"},
    "encoder": {"W_enc", "W_Q", "W_K", "r_mag"},
}
FACTORS = {"threshold": 2.0, "bias": 3.0, "decoder": 5.0, "encoder": 7.0}


@every_optimizer
def test_thresholds_biases_what_reads_and_what_writes_have_rates_of_their_own(optimizer: str, make_run: Any) -> None:
    met = set()
    columns: dict[str, Any] = {f"{role}_lr_factor": factor for role, factor in FACTORS.items()}
    for entry in CATALOG:
        run = make(make_run, optimizer, entry, **columns)
        for name, value in run.dictionary.named_parameters():
            own = name.rstrip(".0123456789").rpartition(".")[2]
            (role,) = (role for role, names in ROLES.items() if own in names)
            assert group_of(run.optimizers, value)[1]["base_lr"] == pytest.approx(1e-2 * FACTORS[role]), name
            met.add(own)
    assert met == set().union(*ROLES.values())


@every_optimizer
def test_only_matrices_decay(optimizer: str, make_run: Any) -> None:
    run = make(make_run, optimizer, "lorsa", weight_decay=0.1)
    decays = {
        name.rpartition(".")[2]: group_of(run.optimizers, value)[1]["weight_decay"]
        for name, value in run.dictionary.named_parameters()
    }
    assert {name for name, decay in decays.items() if decay == 0.1} == {"W_Q", "W_K", "W_enc", "W_dec"}
    assert {name for name, decay in decays.items() if decay == 0} == {"b_Q", "b_K", "b_enc", "b_dec"}


@every_optimizer
def test_weight_decay_is_times_the_rate(optimizer: str, make_run: Any, batches_for: Any) -> None:
    """One step from the same weights and gradients: what decay adds is -lr * decay * weights."""
    plain = make(make_run, optimizer, steps=2, grad_clip=0, lr_warm_up_steps=0, lr_cool_down_steps=0)
    decayed = make(
        make_run, optimizer, steps=2, grad_clip=0, lr_warm_up_steps=0, lr_cool_down_steps=0, weight_decay=0.5
    )
    before = weights(plain)["geometry.W_dec"]
    touched = torch.ones_like(before)

    def look(*_: Any) -> None:
        touched.copy_(plain.dictionary.geometry.get_parameter("W_dec").grad != 0)

    if optimizer == "sparse_adam":
        plain.optimizers[0].register_step_pre_hook(look)
    for run in (plain, decayed):
        run.step(batches_for("topk")[0])
    change = weights(decayed)["geometry.W_dec"] - weights(plain)["geometry.W_dec"]
    torch.testing.assert_close(change, -1e-2 * 0.5 * before * touched, rtol=1e-3, atol=2e-6)


def test_muon_takes_matrices_and_adam_the_rest(make_run: Any) -> None:
    run = make(make_run, "muon", "lorsa")
    kinds = {
        name.rpartition(".")[2]: type(group_of(run.optimizers, value)[0]).__name__
        for name, value in run.dictionary.named_parameters()
    }
    assert {name for name, kind in kinds.items() if kind == "Muon"} == {"W_enc", "W_dec"}
    assert {name for name, kind in kinds.items() if kind == "Adam"} == {"W_Q", "W_K", "b_Q", "b_K", "b_enc", "b_dec"}


def test_a_muon_update_is_orthogonal_and_of_adams_size(make_run: Any, batches_for: Any) -> None:
    run = make(make_run, "muon", lr=1e-2, lr_warm_up_steps=0, lr_cool_down_steps=0, steps=2)
    before = weights(run)["geometry.W_dec"]
    run.step(batches_for("topk")[0])
    change = weights(run)["geometry.W_dec"] - before
    # 0.2 sqrt(max(d_sae, d)) times a matrix with singular values of about 1: root mean square of 0.2 * lr.
    singular = torch.linalg.svdvals(change) / (1e-2 * 0.2 * 32**0.5)
    assert 0.5 < singular.min() < singular.max() < 1.5


def test_lazy_adam_leaves_latents_alone_that_did_not_fire(make_run: Any, batches_for: Any) -> None:
    run = make(make_run, "sparse_adam", columns={"k": 1})
    before = weights(run)
    run.step(batches_for("topk")[0])
    silent = run.since_fired > 0
    assert 0 < silent.sum() < len(silent)
    after = weights(run)
    assert torch.equal(after["geometry.W_dec"][silent], before["geometry.W_dec"][silent])
    assert torch.equal(after["geometry.W_enc"][:, silent], before["geometry.W_enc"][:, silent])
    assert (after["geometry.W_dec"][~silent] != before["geometry.W_dec"][~silent]).any(1).all()


def test_what_schedule_free_saves_is_the_mean_of_its_steps(make_run: Any, batches_for: Any) -> None:
    run = make(make_run, "schedule_free", steps=8, lr_warm_up_steps=0)
    fast: list[torch.Tensor] = []
    optimizer = run.optimizers[0]
    rows = run.dictionary.geometry.get_parameter("W_dec")
    optimizer.register_step_post_hook(lambda *_: fast.append(optimizer.state[rows]["z"].double().clone()))
    learn(run, batches_for("topk"))
    # Defazio et al. 2024 (arXiv 2405.15682): x is the mean of all z, where the rate is constant.
    torch.testing.assert_close(weights(run)["geometry.W_dec"].double(), torch.stack(fast).mean(0), rtol=0, atol=1e-5)
    assert not torch.equal(weights(run)["geometry.W_dec"].double(), fast[-1])


def test_a_missing_library_is_named_with_the_command_that_installs_it(
    make_run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "schedulefree", None)
    wanted = r"schedule_free needs the library schedulefree.*pip install 'lmsae\[optimizers\]'"
    with pytest.raises(SourceError, match=wanted):
        make(make_run, "schedule_free")
