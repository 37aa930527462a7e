"""Columns that change nothing beside the others of their row."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.initialization.config import InitConfig
from lmsae.planning.combinations import idle
from lmsae.planning.sheet import columns
from lmsae.training.config import TrainConfig
from tests.architectures import parts
from tests.miniature import ROWS, Said, row_of, write_config, write_sweep


def idle_of(
    name: str, init: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **sae: Any
) -> dict[str, str]:
    """The columns that change nothing in a row of a catalog entry, and why."""
    training = TrainConfig.model_validate({"tokens": 4096 * 100, **(train or {})})
    return dict(idle(InitConfig(**(init or {})), training, *parts(name, 16, 64, **sae)))


def test_what_is_idle_is_a_column() -> None:
    assert idle_of("topk").keys() <= columns()
    assert idle_of("lorsa", lorsa_rotary=False).keys() <= columns()


@pytest.mark.parametrize(
    ("column", "name", "without", "needed"),
    [
        ("init.datapoint_blend", "topk", {}, {"init": {"decoder_init": "datapoint"}}),
        ("init.subspace_rank", "topk", {}, {"init": {"decoder_init": "active_subspace"}}),
        ("init.decoder_norm", "topk", {}, {"init": {"grid_search": False}}),
        ("init.decoder_norm", "transcoder", {"init": {"grid_search": True}}, {}),
        ("init.tokens", "transcoder", {}, {"init": {"b_enc": "minus_mean_pre"}}),
        ("init.tokens", "topk", {"init": {"grid_search": False}}, {}),
        ("train.lr_cool_down_steps", "topk", {"train": {"lr_schedule": "cosine"}}, {}),
        ("train.lr_end_ratio", "topk", {"train": {"lr_schedule": "constant"}}, {"train": {"lr_schedule": "linear"}}),
        ("train.k_cold_boot_steps", "topk", {}, {"train": {"initial_k": 8}}),
        ("train.k_warm_up_steps", "topk", {}, {"train": {"initial_k": 8}}),
        ("train.k_schedule", "topk", {}, {"train": {"initial_k": 8}}),
        ("train.resample_times", "topk", {}, {"train": {"resample_steps": 10}}),
        ("train.threshold_lr_factor", "topk", {}, {"act_fn": "jumprelu", "losses": ("l0",)}),
        ("train.encoder_lr_factor", "topk", {"tied_encoder": True}, {}),
        ("train.sparsity_warm_up_steps", "topk", {}, {"losses": ("l1",)}),
        ("sae.lorsa_rotary_dim", "lorsa", {"lorsa_rotary": False}, {}),
        ("sae.lorsa_rotary_base", "lorsa", {"lorsa_rotary": False}, {}),
    ],
)
def test_a_column_is_idle_without_what_it_needs(
    column: str, name: str, without: dict[str, Any], needed: dict[str, Any]
) -> None:
    assert column in idle_of(name, **without)
    assert column not in idle_of(name, **needed)


def test_a_row_that_writes_an_idle_column_is_refused(fresh: Path, lmsae: Callable[..., Said]) -> None:
    write_sweep(fresh, [{**ROWS[0], "train.k_schedule": "exponential"}, row_of("jumprelu")])
    said = lmsae("plan")
    assert said.code == 2
    assert "row top, column train.k_schedule: changes nothing in this row: it needs train.initial_k." in said.err
    assert "row jumprelu" not in said.err


def test_what_all_rows_share_may_be_idle_in_some_and_so_may_null(fresh: Path, lmsae: Callable[..., Said]) -> None:
    write_config(fresh, train={"threshold_lr_factor": 5})
    write_sweep(fresh, [{**ROWS[0], "init.subspace_rank": "null"}, row_of("jumprelu")])
    assert lmsae("plan", "--set", "train.lr_end_ratio=0.5").code == 0
