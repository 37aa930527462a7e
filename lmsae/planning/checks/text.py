"""Checks of a row's text: the length of contexts, the positions left of them, and the number of tokens."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import NotEnoughTokens, SourceError
from lmsae.lm.hook_points import max_context
from lmsae.planning.draft import Check, Refusal
from lmsae.stages.activations import ActivationsSection
from lmsae.stages.tokenize import TokenizeSection, most_tokens_per_epoch, tokens_per_epoch
from lmsae.text.tokenizing import require_context
from lmsae.training.config import TrainConfig
from lmsae.training.objective import Objective, trains_on_contexts


def every_model_reads_the_contexts(
    tokenize: TokenizeSection, model_configs: Sequence[Mapping[str, Any]]
) -> Iterator[Refusal]:
    for config in model_configs:
        try:
            require_context(tokenize.context_size, max_context(config))
        except SourceError as error:
            yield Refusal("tokenize.context_size", str(error))


def positions_are_left(tokenize: TokenizeSection, activations: ActivationsSection) -> Iterator[Refusal]:
    size, first, last = tokenize.context_size, activations.skip_first_positions, activations.skip_last_positions
    if first + last >= size:
        column = "skip_first_positions" if first else "skip_last_positions"
        message = f"{first + last} positions are left out of contexts of {size} (tokenize.context_size)"
        yield Refusal(f"activations.{column}", f"{message}; nothing would be left")
    elif first >= size - 1:
        message = f"of contexts of {size} (tokenize.context_size) only the last position is left, which has no next "
        yield Refusal("activations.skip_first_positions", f"{message}token to score; lower it")


def norms_are_known_before_training(activations: ActivationsSection) -> Iterator[Refusal]:
    if activations.source == "live" and activations.max_norm_factor is not None:
        message = "which tokens have too large a norm must be known before the first is trained on, and with "
        message = f"{message}activations.source live no norms are stored: leave it empty, or set the source to cached"
        yield Refusal("activations.max_norm_factor", message)


def batches_hold_a_context(
    train: TrainConfig, tokenize: TokenizeSection, dictionary: DictionaryConfig, objective: Objective
) -> Iterator[Refusal]:
    batch, context = train.batch_size, tokenize.context_size
    if batch < context and trains_on_contexts(dictionary.geometry, objective.needs_model):
        message = f"{batch:,} tokens hold no whole context of {context:,} (tokenize.context_size), which this row "
        yield Refusal("train.batch_size", f"{message}trains on; raise it")


def training_has_a_step(train: TrainConfig) -> Iterator[Refusal]:
    if not train.steps:
        yield from _refuse_tokens(train, 0)


def the_limit_of_the_text_leaves_as_many_tokens_as_training_wants(
    train: TrainConfig,
    tokenize: TokenizeSection,
    activations: ActivationsSection,
    dictionary: DictionaryConfig,
    objective: Objective,
) -> Iterator[Refusal]:
    on_contexts = trains_on_contexts(dictionary.geometry, objective.needs_model)
    most = most_tokens_per_epoch(tokenize, activations, on_contexts=on_contexts)
    if train.steps and most is not None and most > 0:  # that no position is left is refused above
        yield from _refuse_tokens(train, most, f"tokenize.tokens {tokenize.tokens:,} leaves at most")


def there_are_as_many_tokens_as_training_wants(
    train: TrainConfig,
    activations: ActivationsSection,
    dictionary: DictionaryConfig,
    objective: Objective,
    token_counts: Mapping[str, Any],
) -> Iterator[Refusal]:
    on_contexts = trains_on_contexts(dictionary.geometry, objective.needs_model)
    if train.steps:
        yield from _refuse_tokens(train, tokens_per_epoch(token_counts, activations, on_contexts=on_contexts))


def _refuse_tokens(train: TrainConfig, per_epoch: int, there_are: str = "the store holds") -> Iterator[Refusal]:
    try:
        train.require_tokens(per_epoch, there_are)
    except NotEnoughTokens as error:
        # How many tokens there are depends on the row, wherever train.tokens stands.
        yield Refusal("train.tokens", str(error), depends_on_row=True)


CHECKS: tuple[Check, ...] = (
    every_model_reads_the_contexts,
    positions_are_left,
    norms_are_known_before_training,
    batches_hold_a_context,
    training_has_a_step,
    the_limit_of_the_text_leaves_as_many_tokens_as_training_wants,
    there_are_as_many_tokens_as_training_wants,
)
