"""Whether a pass fits: into the host's memory, or into that of a device and the host's beside it."""

import pytest

from lmsae.runtime.limits import LIBRARIES, Limit
from lmsae.runtime.runtime import Runtime
from lmsae.stages.fitting import Room, total
from lmsae.stages.footprint import Footprint, Part

MB = 10**6
FOOTPRINT = Footprint(
    [
        Part(30 * MB, "windows", "lower train.window_tokens", on_device=False),
        Part(200 * MB, "weights", "lower sae.d_sae"),
        Part(70 * MB, "codes", "lower train.batch_size"),
    ]
)
BASE = LIBRARIES["resident"]


def test_a_process_takes_its_libraries_and_all_parts() -> None:
    assert total(FOOTPRINT) == BASE + 300 * MB


def test_on_a_processor_all_parts_must_fit_beside_the_libraries() -> None:
    assert Room(Limit(BASE + 300 * MB, "it")).lack(FOOTPRINT) is None
    said = Room(Limit(BASE + 299 * MB, "it")).lack(FOOTPRINT)
    assert said == (
        "needs about 780 MB of memory, 480 MB of them for the libraries, and it is 779 MB. 200 MB are weights: lower "
        "sae.d_sae, or raise the limit"
    )
    assert Room(None).lack(FOOTPRINT) is None


def test_the_libraries_of_several_processes_are_told_apart_from_those_of_the_one_that_starts_them() -> None:
    several = Footprint([Part(480 * MB, "the libraries of the 4 processes", "lower train.shards", processes=4)])
    assert Room(Limit(BASE, "it")).lack(several) is not None
    assert str(Room(Limit(BASE + MB, "it")).lack(several)).startswith(
        "needs about 2.4 GB of memory, 480 MB of them for the libraries of the process that starts the others, and it"
    )


def test_what_may_fit_for_all_that_a_formula_can_tell_is_let_through() -> None:
    limit = Limit(round(0.8 * (BASE + 300 * MB)), "it")
    assert Room(limit).lack(FOOTPRINT)
    assert Room(limit).lack(FOOTPRINT, at_least=0.8) is None
    assert Room(Limit(limit.nbytes - MB, "it")).lack(FOOTPRINT, at_least=0.8)


@pytest.mark.parametrize("counted", ["resident", "mapped", "data"])
def test_a_limit_below_the_libraries_can_only_be_raised(counted: str) -> None:
    limit = Limit(400 * MB, "it", counted)  # pyright: ignore[reportArgumentType]
    said = Room(limit).lack(FOOTPRINT)
    assert said is not None
    assert said.endswith("and it is 400 MB. Raise the limit")


def test_a_device_holds_what_it_computes_with_and_the_host_the_rest() -> None:
    def lack(host: int, device: int) -> str | None:
        return Room(Limit(BASE + host, "the host"), True, Limit(device, "the device")).lack(FOOTPRINT)

    assert lack(30 * MB, 270 * MB) is None
    assert lack(30 * MB, 269 * MB) == (
        "needs about 270 MB of memory, and the device is 269 MB. 200 MB are weights: lower sae.d_sae, or raise the "
        "limit"
    )
    assert "the host is 509 MB. 30 MB are windows: lower train.window_tokens" in str(lack(29 * MB, 270 * MB))


def test_a_plan_and_a_job_ask_for_the_tightest_limit_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = Limit(5, "it")
    monkeypatch.setattr("lmsae.stages.fitting.tightest_limit", lambda: limit)
    assert Room.to_plan(Runtime(device="cpu")) == Room.of_job(Runtime(device="cpu")) == Room(limit)
    assert Room.to_plan(Runtime(device="cuda:1")) == Room(limit, on_cuda=True)
