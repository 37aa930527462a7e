"""Training's columns: whole batches, and a store that is too small is refused with advice that helps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from lmsae.config import read_cells
from lmsae.errors import NotEnoughTokens
from lmsae.training.config import TrainConfig


def test_steps_are_whole_batches() -> None:
    assert TrainConfig(tokens=1000, batch_size=300).steps == 3


def test_a_store_that_holds_just_enough_will_do() -> None:
    TrainConfig(tokens=1000, batch_size=300).require_tokens(900)
    TrainConfig(tokens=1000, batch_size=300, epochs=3).require_tokens(300)


def test_too_small_a_store_is_refused_with_advice_that_helps() -> None:
    with pytest.raises(NotEnoughTokens, match=r"train\.tokens is 1,000, but the store holds 400") as raised:
        TrainConfig(tokens=1000, batch_size=100).require_tokens(400)
    assert "Lower train.tokens to 400, set train.epochs to 3" in str(raised.value)
    TrainConfig(tokens=400, batch_size=100).require_tokens(400)
    TrainConfig(tokens=1000, batch_size=100, epochs=3).require_tokens(400)


def test_less_than_one_batch_is_refused() -> None:
    with pytest.raises(NotEnoughTokens, match="less than one batch of 4,096"):
        TrainConfig(tokens=4095).require_tokens(10**9)


def test_a_run_without_a_limit_on_its_rows_has_the_key_from_before_there_was_one() -> None:
    assert "decoder_min_cosine" not in TrainConfig(tokens=1000).model_dump(mode="json")
    limited = TrainConfig(tokens=1000, decoder_min_cosine=0.8)
    assert TrainConfig.model_validate(limited.model_dump(mode="json")) == limited


@pytest.mark.parametrize("duration", [0, 0.0, 1, 1.0, 0.05, 3000])
def test_a_duration_keeps_its_type(duration: float) -> None:
    config = TrainConfig(tokens=1, lr_warm_up_steps=duration)
    again = TrainConfig.model_validate_json(config.model_dump_json())
    assert type(config.lr_warm_up_steps) is type(again.lr_warm_up_steps) is type(duration)
    assert again == config


@pytest.mark.parametrize("duration", [1000.0, 1.5, "1e3"])
def test_a_share_of_more_than_all_steps_is_refused(duration: object) -> None:
    with pytest.raises(ValidationError, match="share of all steps"):
        TrainConfig.model_validate({"tokens": 1, "lr_warm_up_steps": duration})


@pytest.mark.parametrize("column", ["lr_warm_up_steps", "lr_cool_down_steps", "sparsity_warm_up_steps"])
@pytest.mark.parametrize("duration", [-1, -0.1])
def test_a_negative_duration_is_refused(column: str, duration: float) -> None:
    with pytest.raises(ValidationError, match="greater than or equal to 0"):
        TrainConfig.model_validate({"tokens": 1, column: duration})


def test_a_learning_rate_is_a_number_or_auto() -> None:
    assert TrainConfig.model_validate({"tokens": 1, "lr": "0.01"}).lr == 0.01
    assert TrainConfig(tokens=1, lr="auto").lr == "auto"


@pytest.mark.parametrize("lr", ["fast", 0, -1.0, "nan", "inf", None])
def test_any_other_learning_rate_is_one_fault(lr: object) -> None:
    with pytest.raises(ValidationError, match="wanted: a number greater than 0, or auto") as raised:
        TrainConfig.model_validate({"tokens": 1, "lr": lr})
    assert [error["loc"] for error in raised.value.errors()] == [("lr",)]


def test_an_automatic_learning_rate_is_2e_4_at_16384_latents_and_falls_with_their_root() -> None:
    config = TrainConfig(tokens=1, lr="auto")
    assert config.peak_lr(2**14) == 2e-4
    assert config.peak_lr(2**16) == 1e-4
    assert TrainConfig(tokens=1, lr=0.3).peak_lr(2**16) == 0.3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr_schedule": "exponential"}, "never reaches 0: set lr_end_ratio"),
        ({"optimizer": "schedule_free"}, "takes the place of lr_schedule trapezoid: set it to constant"),
        ({"optimizer": "schedule_free", "lr_schedule": "constant", "ema": 0.9}, "averages weights itself: leave ema 0"),
        ({"optimizer": "schedule_free", "lr_schedule": "constant", "adam_beta1": 0}, "adam_beta1 above 0"),
        ({"initial_k": 9, "k_warm_up_steps": 1.0}, "k would reach sae.k after 100 steps .* but there are 100"),
        ({"initial_k": 9, "k_warm_up_steps": 60, "k_cold_boot_steps": 0.5}, "after 110 steps"),
    ],
)
def test_settings_that_do_not_hang_together_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TrainConfig.model_validate({"tokens": 4096 * 100, **settings})


@pytest.mark.parametrize(
    ("cell", "kept", "spec"),
    [
        ("log", (1, 2, 4, 8, 16, 32, 64), ("log",)),
        ("30", (30, 60, 90), (30,)),
        (30, (30, 60, 90), (30,)),
        ("0.25", (25, 50, 75), (0.25,)),
        ("1 10 99", (1, 10, 99), (1, 10, 99)),
        ("1, 10, 99", (1, 10, 99), (1, 10, 99)),
        ([1, 10, 99], (1, 10, 99), (1, 10, 99)),
        ("0.1 0.5", (10, 50), (0.1, 0.5)),
        ("10 1000", (10,), (10, 1000)),
        ("", (), ()),
        ("0", (), ()),
    ],
)
def test_dictionaries_are_kept_on_the_way_as_a_cell_says(cell: object, kept: tuple[int, ...], spec: object) -> None:
    config = read_cells(TrainConfig, {"tokens": 100 * 4096, "keep_steps": cell})
    assert (config.kept_steps, config.keep_steps) == (kept, spec)
    again = TrainConfig.model_validate_json(config.model_dump_json())
    assert [type(mark) for mark in again.keep_steps] == [type(mark) for mark in config.keep_steps]
    assert again == config


@pytest.mark.parametrize("cell", ["often", "log 5", "5 5", "9 5", "-1", "nan", "1.000", "5 0", True, None, ["log", 5]])
def test_what_says_nothing_of_what_to_keep_is_one_fault(cell: object) -> None:
    with pytest.raises(ValidationError, match=r"wanted: log, one duration .every 500 steps.") as raised:
        read_cells(TrainConfig, {"tokens": 1, "keep_steps": cell})
    assert [error["loc"] for error in raised.value.errors()] == [("keep_steps",)]


def test_a_share_to_keep_at_is_at_most_all_steps() -> None:
    with pytest.raises(ValidationError, match="share of all steps"):
        read_cells(TrainConfig, {"tokens": 1, "keep_steps": "1.5"})


marks = st.just(("log",)) | st.tuples(st.integers(1, 400) | st.floats(0.001, 1)) | st.just(()) | st.just((2, 30, 200))


@given(st.integers(1, 300), st.integers(0, 400) | st.floats(0, 1), marks, st.integers(1, 9))
def test_the_way_is_looked_at_within_the_run_and_at_its_end(
    steps: int, eval_steps: float, keep_steps: tuple[object, ...], more: int
) -> None:
    """What is kept is evaluated; and what is counted in steps lies where it does in a longer run."""
    given_ = {"batch_size": 10, "eval_steps": eval_steps, "keep_steps": keep_steps}
    config = TrainConfig.model_validate({"tokens": 10 * steps, **given_})
    assert all(0 < kept < steps for kept in config.kept_steps)
    assert list(config.evaluated_steps) == sorted(set(config.evaluated_steps))
    if not eval_steps:
        assert config.evaluated_steps == ()
        return
    assert config.evaluated_steps[-1] == steps
    assert set(config.kept_steps) < set(config.evaluated_steps)
    if isinstance(eval_steps, int) and not any(isinstance(mark, float) for mark in keep_steps):
        longer = TrainConfig.model_validate({"tokens": 10 * (steps + more), **given_})
        assert [one for one in longer.evaluated_steps if one < steps] == list(config.evaluated_steps[:-1])
