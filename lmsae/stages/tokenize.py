"""tokenize: text -> packed contexts of token ids, split into train and held-out by document."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from lmsae.config import Frozen
from lmsae.lm.source import ResolvedModel
from lmsae.runtime import Runtime
from lmsae.stages.stage import Done, Job, Stage
from lmsae.text.packing import TokenizeConfig
from lmsae.text.source import ResolvedDataset

if TYPE_CHECKING:
    from lmsae.text.tokens import TokenSet

COUNTS = "counts.json"
BLOCK = 65_536


class TokenizeSection(TokenizeConfig):
    """The columns `tokenize.*`."""

    tokenizer: str | None = Field(
        default=None, description="Model whose tokenizer is used; empty means the model's own."
    )


class Config(Frozen):
    dataset: ResolvedDataset
    tokenizer: ResolvedModel
    packing: TokenizeConfig


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `tokens.zarr` and `counts.json` (docs/artifacts.md)."""
    from lmsae.lm import load_tokenizer
    from lmsae.progress import bar
    from lmsae.text.source import documents
    from lmsae.text.tokenizing import tokenize
    from lmsae.text.tokens import open_tokens

    for job in jobs:
        config: Config = job.config
        tokenizer = load_tokenizer(config.tokenizer)
        with bar("tokenize", unit="token", total=None, runtime=runtime) as progress:
            counts = tokenize(
                documents(config.dataset),
                tokenizer,
                config.packing,
                job.out,
                progress.advance,
                stop_when_full=config.dataset.streaming,
            )
        # For the plan, which must know how much there is without opening arrays.
        counts["train_usable"] = _usable(open_tokens(job.out))
        (job.out / COUNTS).write_text(json.dumps(counts, indent=1, sort_keys=True) + "\n")
        yield job, progress.rates()


def _usable(tokens: "TokenSet") -> int:
    """Tokens that training may use: those of the train split behind the held-aside contexts, without special ones."""
    starts = range(tokens.aside_contexts, len(tokens.train), BLOCK)
    return sum(int(tokens.usable("train", slice(start, start + BLOCK)).sum()) for start in starts)


STAGE = Stage("tokenize", 1, Config, {}, make)
