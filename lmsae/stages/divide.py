"""divide: own activations -> which of their contexts are for calibration, for training and held out."""

import json
from collections.abc import Sequence
from typing import Any

from lmsae.config import Frozen
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import Facts
from lmsae.stages.row import ResolvedRow
from lmsae.stages.stage import Done, Job, Stage, make_each
from lmsae.stages.tokenize import COUNTS
from lmsae.text.packing import TokenizeConfig


class Config(Frozen):
    """The number of contexts in the files, and how large the shares are. What the files hold does not matter here, so
    that the files of a dictionary that reads and writes several share one division."""

    contexts: int
    has_positions: bool
    """False for files of vectors that stand in no contexts; those are cut from their order."""
    packing: TokenizeConfig


def configs(row: ResolvedRow) -> list[Config]:
    """The division of the row's files; none if it reads a language model."""
    if row.in_files is None:
        return []
    packing = TokenizeConfig(**row.fields(TokenizeConfig))
    return [Config(contexts=row.in_files.contexts, has_positions=row.in_files.has_positions, packing=packing)]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `tokens.zarr`, as tokenize does, with the numbers of vectors in the place of ids; and `counts.json`."""
    del runtime
    return make_each(jobs, _make)


def _make(job: Job) -> Facts:
    from lmsae.vectors.numbering import write_numbers

    config: Config = job.config
    write_numbers(config.contexts, config.packing, job.out, job.require_claim, has_positions=config.has_positions)
    (job.out / COUNTS).write_text(json.dumps(counts_of(config), indent=1, sort_keys=True) + "\n")
    return {}


def counts_of(config: Config) -> dict[str, Any]:
    """The counts that a plan needs, which are known before anything is made: those of a tokenize artifact."""
    from lmsae.vectors.shares import count_shares

    found, size = count_shares(config.contexts, config.packing), config.packing.context_size
    return {
        "calibration_contexts": found.calibration,
        "train_contexts": found.calibration + found.train,
        "train_tokens": found.train * size,
        "train_usable": found.train * size,
        "train_usable_by_position": [found.train] * size,
        "held_out_contexts": found.held_out,
        "held_out_tokens": found.held_out * size,
    }


STAGE = Stage(
    name="divide",
    version=1,
    help="own activations -> which of them are for what",
    config=Config,
    inputs={},
    make=make,
    configs=configs,
    stands_for="tokenize",
)
