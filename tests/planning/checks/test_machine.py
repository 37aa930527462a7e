"""What no machine can hold is refused when it is planned, at the column that is absurd."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lmsae.planning.checks.machine import MOST_MEMORY
from lmsae.planning.dictionaries import SaeSection
from lmsae.training.config import TrainConfig
from tests.architectures import parts
from tests.miniature import ROWS, Said, write_sweep
from tests.planning.checks.refusing import refusals


def refused(
    d_sae: int, batch: int, parts_of_batch: int = 1, width: int = 256, **sae: object
) -> list[tuple[str | None, str]]:
    dictionary, _ = parts("topk", width, d_sae)
    train = TrainConfig(tokens=10**10, batch_size=batch, gradient_accumulation=parts_of_batch)
    return refusals(train=train, dictionary=dictionary, sae=SaeSection.model_validate(sae or {"d_sae": d_sae}))


def test_a_mistyped_size_is_refused_with_the_bytes_that_it_takes() -> None:
    ((column, message),) = refused(2_000_000_000, 1024)
    # two matrices with a gradient, an array for its arithmetic and two moments; codes and activations of a batch
    nbytes = 4 * (2 * 256 * 2 * 10**9 * 5 + 1024 * (3 * 2 * 10**9 + 6 * 256))
    assert column == "sae.d_sae"
    assert f"2,000,000,000 latents and 1,024 tokens takes {nbytes / 1e12:.3g} TB of memory" in message
    assert refused(2_000_000_000, 1024, expansion_factor=2**16)[0][0] == "sae.expansion_factor"


def test_a_mistyped_batch_is_refused_where_it_stands_unless_it_is_cut() -> None:
    assert [column for column, _ in refused(1024, 2**30)] == ["train.batch_size"]
    assert refused(1024, 2**30, parts_of_batch=2**10) == []


def test_the_largest_that_is_trained_anywhere_is_let_through() -> None:
    assert refused(2**24, 2**12, width=12_288) == []
    assert MOST_MEMORY > 4 * 2 * 12_288 * 2**24 * 5


@pytest.mark.parametrize(("column", "cell"), [("sae.d_sae", "2000000000"), ("train.batch_size", "9000000000")])
def test_a_plan_names_row_and_column(fresh: Path, lmsae: Callable[..., Said], column: str, cell: str) -> None:
    cells = {"train.tokens": "90000000000", "train.batch_size": "4096", "train.epochs": "10000000"}
    write_sweep(fresh, [{**ROWS[0], **cells, column: cell}])
    said = lmsae("plan")
    assert (said.code, f"row top, column {column}: a training step of" in said.err) == (2, True), said
