"""tokenize: text -> packed contexts of token ids, split into train and held-out by document."""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from lmsae.artifacts.artifact import Artifacts, Spec
from lmsae.config import Frozen
from lmsae.errors import DamagedArtifact
from lmsae.lm.resolving import ResolvedModel
from lmsae.runtime.numbers import format_share
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import HOUR, Effort, Kind, Outlook, fact
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading
from lmsae.stages.stage import Done, Job, Stage
from lmsae.text.dataset import DatasetConfig, ResolvedDataset, ResolvedMixture
from lmsae.text.packing import TokenizeConfig

if TYPE_CHECKING:
    from lmsae.text.encoding import Encoder
    from lmsae.text.tokens import TokenSet

COUNTS = "counts.json"
BLOCK = 65_536
LARGE_OVERLAP = 0.01


class TokenizeSection(TokenizeConfig):
    """The columns `tokenize.*`."""

    tokenizer: str | None = Field(
        default=None,
        description="Model whose tokenizer is used. Empty: the model's own. A text of token ids needs none. Of "
        "`activations.token_ids` it gives the texts.",
    )


class Config(Frozen):
    dataset: ResolvedDataset | ResolvedMixture
    tokenizer: ResolvedModel
    packing: TokenizeConfig


def configs(row: ResolvedRow) -> list[Config]:
    """The row's text, tokenizer and packing; none if it reads own activations."""
    if row.text is None:
        return []
    packing = TokenizeConfig(**row.fields(TokenizeConfig))
    return [Config(dataset=row.text, tokenizer=row.tokenizer, packing=packing)]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `tokens.zarr`, `documents.parquet` and `counts.json` (docs/artifacts.md)."""
    from lmsae.runtime.progress import show_progress
    from lmsae.text.overlap import held_out_overlap
    from lmsae.text.pinning import documents, holds_ids
    from lmsae.text.tokenizing import TextSource, tokenize
    from lmsae.text.tokens import open_tokens

    for job in jobs:
        config: Config = job.config
        texts = config.dataset.weighted()
        sources = [TextSource(documents(text), text.name, weight, text.streaming) for weight, text in texts]
        has_chats = any(text.messages_column is not None for _, text in texts)
        with show_progress("tokenize", unit="token", total=None, runtime=runtime) as progress:
            counts = tokenize(
                sources,
                _encoder(config, needs_tokenizer=not all(holds_ids(text) for _, text in texts)),
                job.out,
                progress.advance,
                job.require_claim,
                masked=has_chats and config.packing.chat_tokens != "all",
            )
        # The plan must know how much there is without opening arrays.
        tokens = open_tokens(job.out)
        usable = _usable(tokens)
        told = {
            **counts,
            "train_usable": int(usable.sum()),
            "train_usable_by_position": usable.tolist(),
            "held_out_overlap": held_out_overlap(tokens, skip=int(config.packing.prepend_bos)),
        }
        (job.out / COUNTS).write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
        print(f"{job.reference}: {_tell_overlap(told)}")
        yield job, progress.facts()


def _encoder(config: Config, *, needs_tokenizer: bool) -> "Encoder":
    """The encoder of the tokenizer or, for a model without one, of texts that are ids of its vocabulary already.

    Raises SourceError where there is no tokenizer though it is needed.
    """
    from lmsae.lm import load_tokenizer, read_config
    from lmsae.lm.resolving import NoTokenizer
    from lmsae.text.encoding import Encoder, Vocabulary

    try:
        tokenizer = load_tokenizer(config.tokenizer)
    except NoTokenizer:
        if needs_tokenizer:
            raise
        return Encoder(None, Vocabulary(read_config(config.tokenizer)["vocab_size"]), config.packing)
    return Encoder(tokenizer, Vocabulary.from_tokenizer(tokenizer), config.packing)


def _usable(tokens: "TokenSet") -> np.ndarray:
    """Tokens of each position that training may use, behind the calibration contexts: int (context_size,)."""
    starts = range(tokens.calibration_contexts, len(tokens.train), BLOCK)
    return sum(
        (tokens.usable("train", slice(start, start + BLOCK)).sum(axis=0) for start in starts),
        np.zeros(tokens.context_size, np.int64),
    )


def token_counts(spec: Spec, artifacts: Artifacts) -> dict[str, Any] | None:
    """The counts of a tokenize artifact (docs/artifacts.md), or None while it is not finished. Those of own activations
    are known before."""
    from lmsae.stages import divide  # which takes the place of this stage

    if spec.stage == divide.STAGE.name:
        return divide.counts_of(divide.Config.model_validate(spec.config))
    artifact = artifacts[spec.reference]
    if not artifact.is_finished:
        return None
    path = artifact.path / COUNTS
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        message = f"{path}: it is not what was written. Delete {artifact.path} and run the workflow again"
        raise DamagedArtifact(f"{message}; `lmsae verify` looks at every artifact.") from None


def _tell_overlap(counts: Mapping[str, Any]) -> str:
    """A sentence on the held-out text that stands in the training text too."""
    share = counts["held_out_overlap"]
    told = f"{format_share(share)} of the held-out windows of 32 tokens stand in the training text too"
    return f"{told}: near-duplicates make scores look better than they are" if share > LARGE_OVERLAP else told


def _remark(spec: Spec, outlook: Outlook) -> str | None:
    counts = outlook.token_counts(spec)
    return None if counts is None else _tell_overlap(counts)


def tokens_per_epoch(counts: Mapping[str, Any], reading: Reading, *, on_contexts: bool) -> int:
    """The tokens that training may read in an epoch, by the counts of a finished artifact. Norms are not looked at."""
    by_position = counts["train_usable_by_position"]
    if on_contexts:
        return (counts["train_contexts"] - counts["calibration_contexts"]) * len(by_position)
    return sum(by_position[reading.skip_first_positions : len(by_position) - reading.skip_last_positions])


def most_tokens_per_epoch(packing: TokenizeConfig, reading: Reading, *, on_contexts: bool) -> int | None:
    """The most tokens that training may read in an epoch, before there is any; None without a limit of the text."""
    if packing.tokens is None:
        return None
    first = max(reading.skip_first_positions, packing.prepend_bos and packing.mask_special)
    positions = packing.context_size - (0 if on_contexts else first + reading.skip_last_positions)
    return packing.tokens // packing.context_size * positions


def _count_asked_tokens(spec: Spec, outlook: Outlook) -> float | None:
    del outlook
    return spec.config["packing"]["tokens"]


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    del outlook
    return spec.config["tokenizer"]["name"], spec.config["dataset"]["name"]


STAGE = Stage(
    name="tokenize",
    version=4,
    help="text -> packed contexts of token ids",
    config=Config,
    inputs={},
    make=make,
    configs=configs,
    sections={"dataset": DatasetConfig, "tokenize": TokenizeSection},
    remark=_remark,
    effort=Effort(
        _count_asked_tokens,
        fact("tokens_per_second"),
        _kind,
        given_seconds=4 * HOUR,
        given_bytes=16 * 10**9,
    ),
)
