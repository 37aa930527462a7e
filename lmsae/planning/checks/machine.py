"""A check of a row's memory: what no machine can hold is refused when it is planned.

What only this machine cannot hold is not: it need not be the one that trains (lmsae/planning/overview.py warns of it).
"""

from collections.abc import Iterator

from lmsae.dictionary.config import DictionaryConfig
from lmsae.planning.dictionaries import SaeSection
from lmsae.planning.draft import Check, Refusal
from lmsae.runtime.numbers import format_bytes
from lmsae.stages.footprint import size_of, training_footprint
from lmsae.training.config import TrainConfig

MOST_MEMORY = 10**13
"""Bytes, several times those of a node that trains: whoever asks for more has mistyped a number."""


def memory_can_hold_a_step(train: TrainConfig, dictionary: DictionaryConfig, sae: SaeSection) -> Iterator[Refusal]:
    widths, size = dictionary.widths, size_of(dictionary)
    batch = train.batch_size // train.gradient_accumulation
    footprint = training_footprint(
        window_tokens=0,
        token_bytes=0,
        batch_size=batch,
        width=sum(widths.reads) + (sum(widths.writes) if widths.writes != widths.reads else 0),
        dictionaries=[size],
        dataset_tokens=0,
    )
    if footprint.nbytes <= MOST_MEMORY:
        return
    of_latents = "sae.expansion_factor" if sae.d_sae is None else "sae.d_sae"
    yield Refusal(
        "train.batch_size" if batch > size.latents else of_latents,
        f"a training step of {size.latents:,} latents and {batch:,} tokens takes {format_bytes(footprint.nbytes)} of "
        f"memory, {format_bytes(footprint.largest.nbytes)} of them for {footprint.largest.what}; at most "
        f"{format_bytes(MOST_MEMORY)} can be asked for. Lower it",
        depends_on_row=True,
    )


CHECKS: tuple[Check, ...] = (memory_can_hold_a_step,)
