"""What a start and a training cannot do for a dictionary is refused with what to do instead, before anything runs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lmsae.dictionary.config import DictionaryConfig
from lmsae.initialization.config import InitConfig
from lmsae.planning.checks.learning import columns_have_an_effect
from lmsae.planning.sheet import columns
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective
from tests.architectures import parts
from tests.dictionary.grid import ACT_FNS, GEOMETRIES, Case
from tests.miniature import ROWS, Said, row_of, write_config, write_sweep
from tests.planning.checks.refusing import refusals


def idle_of(
    name: str, init: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **sae: Any
) -> dict[str, str]:
    """The columns that change nothing in a row of a catalog entry, and why."""
    training = TrainConfig.model_validate({"tokens": 4096 * 100, **(train or {})})
    refusals = columns_have_an_effect(InitConfig(**(init or {})), training, *parts(name, 16, 64, **sae))
    return {str(refusal.column): refusal.message for refusal in refusals}


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
        ("init.tokens", "transcoder", {"init": {"b_enc": "zero"}}, {"init": {"b_enc": "minus_mean_pre"}}),
        ("init.tokens", "transcoder", {"init": {"b_enc": "zero"}}, {}),
        ("init.tokens", "topk", {"init": {"grid_search": False}}, {}),
        ("train.lr_cool_down_steps", "topk", {"train": {"lr_schedule": "cosine"}}, {}),
        ("train.lr_end_ratio", "topk", {"train": {"lr_schedule": "constant"}}, {"train": {"lr_schedule": "linear"}}),
        ("train.k_cold_boot_steps", "topk", {}, {"train": {"initial_k": 8}}),
        ("train.k_warm_up_steps", "topk", {}, {"train": {"initial_k": 8}}),
        ("train.k_schedule", "topk", {}, {"train": {"initial_k": 8}}),
        ("train.eval_tokens", "topk", {}, {"train": {"eval_steps": 10}}),
        ("train.resample_times", "topk", {}, {"train": {"resample_steps": 10}}),
        ("train.threshold_lr_factor", "topk", {}, {"act_fn": "jumprelu", "losses": ("l0",)}),
        ("train.encoder_lr_factor", "topk", {"tied_encoder": True}, {}),
        ("train.decoder_min_cosine", "topk", {"train": {"decoder_lr_factor": 0}}, {}),
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


def objective(unit_norm_decoder: bool) -> Objective:
    return Objective(losses=(), unit_norm_decoder=unit_norm_decoder)


def dictionary(act_fn: dict[str, object], geometry: dict[str, object]) -> DictionaryConfig:
    parts = {"geometry": {"kind": "sae"} | geometry, "act_fn": act_fn}
    return DictionaryConfig.model_validate({"widths": {"reads": (8,), "writes": (8,)}, "d_sae": 32, **parts})


RELU, TOPK = {"kind": "relu"}, {"kind": "topk", "k": 4}
RESAMPLED, WITH_K, SOFT_FROZEN = {"resample_steps": 0.25}, {"initial_k": 16}, {"decoder_min_cosine": 0.8}
MOLT = {"kind": "molt", "molt_ranks": ("2x1",)}


@pytest.mark.parametrize(
    ("settings", "act_fn", "geometry", "unit_rows", "column", "message"),
    [
        (RESAMPLED, RELU, {"kind": "transcoder"}, False, "resample_steps", "a transcoder writes something else"),
        (RESAMPLED, RELU, {"tied_encoder": True}, False, "resample_steps", "leave sae.tied_encoder"),
        (RESAMPLED, RELU, {"glu_encoder": True}, False, "resample_steps", "sae.glu_encoder false"),
        (RESAMPLED, {"kind": "jumprelu"}, {}, False, "resample_steps", "biases and thresholds of jumprelu"),
        (RESAMPLED, {"kind": "gated"}, {}, False, "resample_steps", "biases and thresholds of gated"),
        (RESAMPLED | {"bias_lr_factor": 0}, RELU, {}, False, "resample_steps", "what train.bias_lr_factor 0 freezes"),
        (RESAMPLED | SOFT_FROZEN, RELU, {}, False, "resample_steps", "which train.decoder_min_cosine keeps near"),
        (SOFT_FROZEN, RELU, MOLT, False, "decoder_min_cosine", "a molt writes by matrices and has no decoder rows"),
        (WITH_K, RELU, {}, False, "initial_k", "relu cannot change the number of its codes"),
        (WITH_K, {"kind": "groupmax", "k": 4}, {}, False, "initial_k", "groupmax cannot change"),
        ({"initial_k": 33}, TOPK, {}, False, "initial_k", "it is 33, but there are only 32 latents"),
        ({"optimizer": "schedule_free", "lr_schedule": "constant"}, RELU, {}, True, "optimizer", "no norm of 1"),
    ],
)
def test_what_training_cannot_do_for_a_dictionary_is_refused_with_what_to_use_instead(
    settings: dict[str, object],
    act_fn: dict[str, object],
    geometry: dict[str, object],
    unit_rows: bool,
    column: str,
    message: str,
) -> None:
    config = TrainConfig.model_validate({"tokens": 4096 * 100, **settings})
    found = refusals(train=config, dictionary=dictionary(act_fn, geometry), objective=objective(unit_rows))
    ((refused, why),) = found
    assert refused == f"train.{column}"
    assert message in why


@pytest.mark.parametrize(
    ("act_fn", "geometry", "column", "message"),
    [
        (TOPK, {}, "sae.d_sae", "it is 32, but init.decoder_init pca has 16 directions"),
        ({"kind": "abstopk", "k": 4}, {}, "init.decoder_init", "one latent of abstopk: use topk"),
        (TOPK, {"kind": "transcoder"}, "init.decoder_init", "and not for a transcoder"),
    ],
)
def test_a_pca_needs_a_latent_for_each_direction_and_its_opposite(
    act_fn: dict[str, object], geometry: dict[str, object], column: str, message: str
) -> None:
    found = refusals(
        init=InitConfig(decoder_init="pca"), dictionary=dictionary(act_fn, geometry), objective=objective(False)
    )
    ((refused, why),) = found
    assert refused == column
    assert message in why


@pytest.mark.parametrize("settings", [RESAMPLED, WITH_K, SOFT_FROZEN, {"optimizer": "muon"}, {}])
def test_what_goes_together_is_not_refused(settings: dict[str, object]) -> None:
    config = TrainConfig.model_validate({"tokens": 4096 * 100, **settings})
    assert refusals(train=config, dictionary=dictionary(TOPK, {}), objective=objective(True)) == []


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_the_defaults_go_with_every_dictionary(geometry: str) -> None:
    for act_fn in ACT_FNS:
        for unit_norm_decoder in (False, True):
            config = Case(geometry, act_fn).config
            assert refusals(init=InitConfig(), dictionary=config, objective=objective(unit_norm_decoder)) == []


@pytest.mark.parametrize(
    ("options", "case", "unit_norm_decoder", "column", "message"),
    [
        ({"decoder_init": "datapoint"}, Case("molt", "relu"), False, "decoder_init", "leave it at unit"),
        ({"decoder_init": "kaiming"}, Case("sae", "relu"), True, "decoder_init", "use uniform"),
        ({"encoder_factor": 2}, Case("sae_tied", "topk"), False, "encoder_factor", "leave the factor at 1"),
        ({"b_enc": "minus_mean_pre"}, Case("sae", "gated"), False, "b_enc", "leave it at zero"),
        ({"from_model": True}, Case("sae", "relu"), False, "from_model", "only transcoder, skip_transcoder, lorsa"),
        ({"from_model": True}, Case("transcoder", "gated"), False, "from_model", "use relu, jumprelu or topk"),
        ({"from_model": True}, Case("transcoder_glu", "relu"), False, "from_model", "leave it off"),
        ({"from_model": True}, Case("lorsa", "relu", "token"), False, "from_model", "use dataset, whiten or none"),
        (
            {"from_model": True, "decoder_init": "uniform"},
            Case("lorsa", "topk"),
            False,
            "decoder_init",
            "directions of its heads",
        ),
    ],
)
def test_what_cannot_be_is_told_with_its_column_and_what_to_do(
    options: dict, case: Case, unit_norm_decoder: bool, column: str, message: str
) -> None:
    known = {"dictionary": case.config, "objective": objective(unit_norm_decoder)}
    ((refused, why),) = refusals(init=InitConfig(**options), **known)
    assert refused == f"init.{column}"
    assert message in why
