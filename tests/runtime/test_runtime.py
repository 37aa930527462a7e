"""Runtime: how to work."""

import pytest
import torch
from pydantic import ValidationError

from lmsae.errors import ConfigError
from lmsae.runtime.runtime import Runtime


def test_auto_is_the_device_that_this_machine_has() -> None:
    assert Runtime().torch_device() == ("cuda" if torch.cuda.is_available() else "cpu")
    assert Runtime(device="cpu").torch_device() == "cpu"


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused_by_name(device: str) -> None:
    with pytest.raises(ConfigError, match=f"runtime.device: {device}: "):
        Runtime(device=device).torch_device()


@pytest.mark.parametrize("field", [{"threads": 0}, {"together": 0}, {"thread": 1}, {"wandb": {"mode": "on"}}])
def test_settings_that_make_no_sense_are_refused(field: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Runtime.model_validate(field)
