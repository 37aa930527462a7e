"""A factor of 0 freezes weights: no optimizer, constraint, decay or mean moves a bit of them."""

from typing import Any

import pytest
import torch

from lmsae.planning.catalog import CATALOG
from tests.training.runs import learn, weights
from tests.training.test_optimizers import ROLES, every_optimizer, make

FACTORS = [f"{role}_lr_factor" for role in ROLES]


def role_of(name: str) -> str:
    own = name.rstrip(".0123456789").rpartition(".")[2]
    return next(role for role, names in ROLES.items() if own in names)


def moved_roles(run: Any, batches: Any) -> tuple[set[str], set[str]]:
    """The roles of parameters that training has moved, and of those that it has not."""
    before = weights(run)
    learn(run, batches)
    roles: tuple[set[str], set[str]] = (set(), set())
    for name, value in run.dictionary.named_parameters():
        roles[torch.equal(value, before[name])].add(role_of(name))
    return roles


@pytest.mark.parametrize("name", CATALOG)
@pytest.mark.parametrize("role", ["encoder", "decoder", "bias"])
def test_what_is_frozen_stays_to_the_bit_and_all_else_learns(
    name: str, role: str, make_run: Any, batches_for: Any
) -> None:
    run = make(make_run, "adam", name, steps=5, weight_decay=0.1, ema=0.9, **{f"{role}_lr_factor": 0.0})
    present = {role_of(one) for one, _ in run.dictionary.named_parameters()}
    moved, kept = moved_roles(run, batches_for(name))
    assert role not in moved
    assert moved | {role} >= present - {"threshold"}
    assert kept <= {role, "threshold"}


@every_optimizer
@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_no_optimizer_moves_what_is_frozen(optimizer: str, role: str, make_run: Any, batches_for: Any) -> None:
    run = make(make_run, optimizer, "topk", steps=5, weight_decay=0.1, **{f"{role}_lr_factor": 0.0})
    moved, kept = moved_roles(run, batches_for("topk"))
    assert kept == {role}
    assert moved == {"encoder", "decoder", "bias"} - {role}


def test_a_frozen_decoder_of_unit_rows_is_not_even_brought_to_norm_1_again(make_run: Any, batches_for: Any) -> None:
    """Dividing a row by its norm of 1, as it was rounded, would move its last bits."""
    run = make(make_run, "adam", "standard", steps=5, decoder_lr_factor=0.0)
    rows = run.dictionary.geometry.get_parameter("W_dec")
    with torch.no_grad():
        rows.mul_(1 + 1e-6)
    before = rows.clone()
    learn(run, batches_for("standard"))
    assert torch.equal(rows, before)


def test_the_gradient_of_frozen_weights_takes_nothing_of_the_clip(make_run: Any, batches_for: Any) -> None:
    """The others move as if the frozen weights were no parameters at all."""
    run = make(make_run, "adam", "topk", steps=1, grad_clip=1e-3, decoder_lr_factor=0.0)
    clipped = []
    for optimizer in run.optimizers:
        optimizer.register_step_pre_hook(
            lambda one, *_: clipped.extend(p.grad.clone() for g in one.param_groups for p in g["params"])
        )
    run.step(batches_for("topk")[0])
    norm = torch.cat([grad.flatten() for grad in clipped]).norm().item()
    assert norm == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("name", ["topk", "jumprelu", "gated", "clt"])
def test_a_dictionary_that_is_frozen_whole_passes_over_its_batches(name: str, make_run: Any, batches_for: Any) -> None:
    """A random control: its curves are recorded, latents are counted, and no weight moves."""
    run = make(make_run, "adam", name, steps=5, ema=0.9, **dict.fromkeys(FACTORS, 0.0))
    before = weights(run)
    learn(run, batches_for(name))
    assert run.optimizers == ()
    assert len(run.curves) == 5
    assert all(torch.equal(value, before[name]) for name, value in run.dictionary.named_parameters())
