"""The cost of evaluations in the course of training, by formulas, without torch."""

from collections.abc import Sequence
from typing import Protocol

from lmsae.artifacts.artifact import Spec
from lmsae.dictionary.config import DictionaryConfig
from lmsae.stages.flops import dictionary_flops, model_flops
from lmsae.stages.footprint import FLOAT_BYTES, ITEM_BYTES, STEP_CODES, Part, size_of
from lmsae.stages.models import LMConfig, read_config

RUNS_BEFORE = 2
"""Runs of the models before the first evaluation: as they are, and with mean activations in place."""
COPIES = 2
"""Of the weights while a dictionary is evaluated: those to evaluate, and those that training goes on with."""


class HeldOut(Protocol):
    """The models that evaluations on the way run (lmsae/stages/along.py)."""

    @property
    def models(self) -> Sequence[LMConfig]: ...
    @property
    def batch_contexts(self) -> int: ...


class Training(Protocol):
    """The config of a training, as far as evaluations on the way cost anything."""

    @property
    def dictionary(self) -> DictionaryConfig: ...
    @property
    def eval_tokens(self) -> int: ...
    @property
    def held_out(self) -> HeldOut | None: ...


def evaluation_flops(config: Training, tokens: Spec) -> float:
    """FLOPs of one evaluation: the models with the dictionary in place, and the dictionary. A model that is no
    transformer counts for nothing. `tokens` is the spec of the text."""
    if config.held_out is None:
        return 0.0
    context_size = tokens.config["packing"]["context_size"]
    models = [model_flops(read_config(model.source), context_size) or 0.0 for model in config.held_out.models]
    forward = dictionary_flops(config.dictionary, context_size).forward
    return _count_tokens(config, tokens) * (sum(models) + forward)


def evaluation_part(config: Training, tokens: Spec) -> Part:
    """The memory of evaluations beside training, without the models: activations of the text, copies of the weights,
    and the codes of a batch of contexts."""
    what, mend = "evaluations in the course of training", "lower train.eval_tokens or eval.batch_contexts"
    if config.held_out is None:
        return Part(0, what, mend)
    widths, dictionary = config.dictionary.widths, size_of(config.dictionary)
    width = sum(widths.reads) + (0 if config.dictionary.geometry.autoencodes else sum(widths.writes))
    activations = _count_tokens(config, tokens) * width * ITEM_BYTES[config.held_out.models[0].dtype]
    batch = config.held_out.batch_contexts * tokens.config["packing"]["context_size"]
    codes = min(batch, _count_tokens(config, tokens)) * dictionary.latents * STEP_CODES
    return Part(activations + FLOAT_BYTES * (COPIES * dictionary.parameters + codes), what, mend)


def _count_tokens(config: Training, tokens: Spec) -> int:
    """The largest number of tokens of an evaluation."""
    return min(config.eval_tokens, tokens.config["packing"]["held_out_tokens"])
