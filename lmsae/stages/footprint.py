"""The memory of a pass, from the values of its rows, without torch, beyond that of a process with all libraries loaded.

Training: the size of the dataset hardly enters. Two windows of activations, as they are stored, are held at a time: one
that batches come from, one that is being read. Of each dictionary there are its weights and Adam's two moments.
Dictionaries that share a pass take their steps in turn, so what a step needs besides, gradients among it, is needed
once. `benchmarks/memory.py` holds this against what processes take.

When steps are done, thresholds are calibrated, and where latents are few that takes more than a step.

The passes of other stages are counted by what is large in them: weights, and the arrays of one batch. The numbers of
arrays are those of the demo and of models with large vocabularies, wide layers or many calibration tokens, by the
`peak_memory_bytes` of their run.json (torch 2.13.0 on a CPU). They were fitted to about six such cases, and there the
formulas give 0.65 to 1.25 of the peak; no other case was held against them. The pages of a model's file, which the
kernel can drop, are not counted.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmsae.dictionary.config import DictionaryConfig
from lmsae.lm.hook_points import hook_points, layers_and_width
from lmsae.sparsity.config import SelectsK
from lmsae.stages.flops import MULTIPLY_ADD, model_flops
from lmsae.vectors import sources

FLOAT_BYTES = 4
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
ORDER_BYTES = 49
"""Of a token of a window: its place in two permutations, whether it may be used, and four arrays of 8 bytes while one
of them is sorted."""
DATASET_BYTES = 0.05
"""Of a token of the dataset: its chunk's count and place in the order. Masks and ids lie on disk."""
COPIES = 3
"""Weights, and the two moments of Adam."""
STEP_COPIES = 2
"""The gradient, which is dropped when the step is done, and one array for its arithmetic."""
STEP_ACTIVATIONS = 6
"""Arrays (batch, width): raw, normalized, reconstructed, the error, and two gradients."""
STEP_CODES, STEP_CODES_SORTED = 3.0, 5.5
"""Arrays (batch, latents) that live at once in a step; where codes are selected over a whole batch, sorted ones too."""
CALIBRATED_AT_ONCE = 1 << 25
"""Pre-activations in memory while a threshold is calibrated: 128 MiB an array."""
CALIBRATED_ARRAYS = 8
"""Arrays of so many pre-activations that live at once meanwhile: they are selected over, and the largest sorted."""
FORWARD_ARRAYS = 3
"""Arrays (tokens, widest hook point) that live at once in a forward pass of a language model."""
SCORED_LOGITS = 13
"""Arrays (tokens, vocabulary) that live at once while a pass of the model is scored against its clean pass."""
SCORED_CODES = 6
"""Arrays (tokens, latents) that live at once while a dictionary is scored."""
STARTING_CODES = 6
"""Arrays (`init.tokens`, latents) while the norm of a decoder is searched. Few live at once, but freed ones are kept,
and not every one finds the place of another: nine processes of the same work had a peak of three to eight."""
CALIBRATION_COPIES = 4
"""Arrays (calibration tokens, width) of float32 that live at once while moments are computed, in float64, or weights
are placed."""


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the memory of a pass: bytes, what it is, the settings that lessen it, and if the device holds it."""

    nbytes: float
    what: str
    mend: str
    on_device: bool = True
    processes: int = 1
    """The processes that each hold as much, in one memory; with devices, each has one of its own."""

    @property
    def total(self) -> float:
        """Bytes of all processes."""
        return self.nbytes * self.processes


@dataclass(frozen=True, slots=True)
class Footprint:
    """The memory of a pass at its peak, beyond that of the libraries."""

    parts: Sequence[Part]

    @property
    def nbytes(self) -> int:
        """Bytes of all parts, which one memory holds if the device is a CPU."""
        return round(sum(part.total for part in self.parts))

    @property
    def largest(self) -> Part:
        """The part that most is for."""
        return max(self.parts, key=lambda part: part.total)

    @property
    def processes(self) -> int:
        """The processes that share the work."""
        return max(part.processes for part in self.parts)

    @property
    def of_one_process(self) -> "Footprint":
        """The memory of one of the processes that share the work."""
        return Footprint([replace(part, processes=1) for part in self.parts if part.processes == self.processes])

    def sharded(self, processes: int, dictionary: "DictionarySize", libraries: float) -> "Footprint":
        """The memory of several processes, each of which takes this much and so many bytes of libraries.

        The first has the whole state of training on the host, too, when a checkpoint is written or read. In the end its
        device holds the whole dictionary, to calibrate a threshold; that is more than in training if shards are many.
        """
        weights = FLOAT_BYTES * dictionary.parameters
        loaded = Part(libraries, f"the libraries of the {processes} processes", "lower train.shards", on_device=False)
        gathered = Part(COPIES * weights, "the whole state of training", "lower sae.d_sae", on_device=False)
        beyond = dictionary.calibrates * max(0.0, weights - self.on(device=True).nbytes)
        calibrated = Part(beyond, "the whole dictionary, to calibrate its threshold", "lower sae.d_sae")
        shared = [replace(part, processes=processes) for part in (*self.parts, loaded)]
        return Footprint([*shared, gathered, *([calibrated] if beyond else [])])

    def on(self, *, device: bool) -> "Footprint":
        """The parts that a device holds, or those that the host does beside devices of their own memory."""
        parts = [part for part in self.parts if part.on_device == device]
        return Footprint([replace(part, processes=1) for part in parts] if device else parts)


@dataclass(frozen=True, slots=True)
class DictionarySize:
    """The size of a dictionary: its parameters and latents, how its latents are selected, and the weights that a
    soft-frozen decoder started from, which stay beside them."""

    parameters: int
    latents: int
    selects_over_batch: bool = False
    calibrates: bool = False
    starts: int = 0

    def divided(self, processes: int) -> "DictionarySize":
        """The share of each of several processes, the largest one."""
        if processes == 1:
            return self
        share = {name: -(-getattr(self, name) // processes) for name in ("parameters", "latents", "starts")}
        return replace(self, **share)

    @property
    def step_codes(self) -> float:
        """Items of the arrays that a token needs in a step."""
        return self.latents * (STEP_CODES_SORTED if self.selects_over_batch else STEP_CODES)


def size_of(dictionary: DictionaryConfig, *, soft_frozen: bool = False) -> DictionarySize:
    """The size of a dictionary, by its config: the weights that a token is multiplied by once each. Biases are left
    out, as are the thresholds."""
    geometry = dictionary.geometry
    weights = geometry.products(dictionary.widths, dictionary.d_sae, context_size=0)
    latents = geometry.latents(dictionary.widths, dictionary.d_sae)
    act_fn = dictionary.act_fn
    calibrates = isinstance(act_fn, SelectsK) and act_fn.kind not in ("abstopk", "matching_pursuit")
    starts = round(weights.decode) if soft_frozen else 0
    return DictionarySize(round(sum(weights)), latents, act_fn.selects_over_batch, calibrates, starts)


def training_footprint(
    *,
    window_tokens: int,
    token_bytes: int,
    batch_size: int,
    width: int,
    dictionaries: Sequence[DictionarySize],
    dataset_tokens: int,
    calibration_tokens: int = 0,
) -> Footprint:
    """The memory of a training pass.

    Args:
        window_tokens: `train.window_tokens`; fewer if the dataset has fewer.
        token_bytes: of a token as it is stored (`Layout.token_bytes`), summed over hook points.
        batch_size: `train.batch_size`, divided by `train.gradient_accumulation` for what a step needs.
        width: of what is read and written, side by side, both counted if they differ.
        dictionaries: those of the pass.
        dataset_tokens: in the whole store.
        calibration_tokens: those of the calibration split, on which thresholds are calibrated.
    """
    count = len(dictionaries)
    fewer = "lower runtime.together or sae.d_sae" if count > 1 else "lower sae.d_sae"
    largest = max(size.parameters for size in dictionaries)
    codes = max(size.step_codes for size in dictionaries)
    calibrated = max(calibration_tokens * size.latents * size.calibrates for size in dictionaries)
    calibrating = Part(
        FLOAT_BYTES * CALIBRATED_ARRAYS * min(calibrated, CALIBRATED_AT_ONCE),
        "the pre-activations that thresholds are calibrated on",
        "lower tokenize.calibration_tokens",
    )
    step = Part(
        FLOAT_BYTES * batch_size * (codes + STEP_ACTIVATIONS * width),
        "the pre-activations and codes of a batch",
        "lower train.batch_size, raise train.gradient_accumulation, or lower sae.d_sae",
    )
    return Footprint(
        [
            Part(
                window_tokens * (2 * token_bytes + ORDER_BYTES) + DATASET_BYTES * dataset_tokens,
                "two windows of activations",
                "lower train.window_tokens",
                on_device=False,
            ),
            Part(
                FLOAT_BYTES * sum(COPIES * size.parameters + size.starts for size in dictionaries),
                f"the weights of {count} dictionar{'ies' if count > 1 else 'y'} and their moments",
                fewer,
            ),
            Part(FLOAT_BYTES * STEP_COPIES * largest, "the gradients of a dictionary", "lower sae.d_sae"),
            max(step, calibrating, key=lambda part: part.nbytes),
        ]
    )


def model_bytes(config: Mapping[str, Any], dtype: str) -> int:
    """The bytes of a language model's weights: the matrices that a token is multiplied by, and the embedding if
    config.json says that it is not the head too. Of a family whose matrices are not known, 12 d^2 for each layer, as
    most have, and the embedding; 0 if these sizes are not known either, or there are no weights (builtin:features, own
    activations)."""
    if config.get("model_type") == sources.MODEL_TYPE:
        return 0
    flops = model_flops(config, context_size=0, every_expert=True)
    if flops is None:
        layers, d_model = layers_and_width(config)
        return ITEM_BYTES[dtype] * d_model * (12 * layers * d_model + config.get("vocab_size", 0))
    is_apart = config.get("tie_word_embeddings") is False
    embedding = hook_points(config)["blocks.0.hook_resid_pre"] * config.get("vocab_size", 0) if is_apart else 0
    return round(ITEM_BYTES[dtype] * (flops / MULTIPLY_ADD + embedding))


def widest(config: Mapping[str, Any]) -> int:
    """The width of the widest hook point of a language model, or of own activations; four times that of the residual
    stream if the model has none with a name."""
    if config.get("model_type") == sources.MODEL_TYPE:
        return config["width"]
    return max(hook_points(config).values(), default=4 * layers_and_width(config)[1])


def capturing_footprint(*, model_bytes: int, batch_tokens: int, widest: int, width: int) -> Footprint:
    """The memory of a pass that captures activations: hook points of so much `width` in all, float32, of a model whose
    `widest` one is so wide."""
    batch = FLOAT_BYTES * batch_tokens * (FORWARD_ARRAYS * widest + width)
    return Footprint([_model(model_bytes), Part(batch, "a batch in the model", "lower activations.batch_contexts")])


def calibration_footprint(*, tokens: int, width: int) -> Footprint:
    """The memory of computing with the calibration split: `width` of the hook points that are read, and written."""
    nbytes = FLOAT_BYTES * CALIBRATION_COPIES * tokens * width
    return Footprint([Part(nbytes, "the activations of the calibration split", "lower tokenize.calibration_tokens")])


def starting_footprint(*, tokens: int, width: int, dictionary: DictionarySize, tried_tokens: int) -> Footprint:
    """The memory of placing a dictionary's weights: those, drawn and placed, beside the calibration split, and its
    codes on the first `tried_tokens` of it."""
    codes = FLOAT_BYTES * STARTING_CODES * min(tried_tokens, tokens) * dictionary.latents
    return Footprint(
        [
            *calibration_footprint(tokens=tokens, width=width).parts,
            Part(2 * FLOAT_BYTES * dictionary.parameters, "the weights of a dictionary", "lower sae.d_sae"),
            Part(codes, "the codes of the tokens that norms are tried on", "lower init.tokens or sae.d_sae"),
        ]
    )


def scoring_footprint(
    *, model_bytes: int, vocabulary: int, batch_tokens: int, dictionaries: Sequence[DictionarySize]
) -> Footprint:
    """The memory of an evaluation pass: the models' weights, every dictionary's, and what a batch of contexts needs."""
    together = "lower runtime.together or sae.d_sae" if len(dictionaries) > 1 else "lower sae.d_sae"
    latents = max(size.latents for size in dictionaries)
    batch = FLOAT_BYTES * batch_tokens
    return Footprint(
        [
            _model(model_bytes),
            Part(FLOAT_BYTES * sum(size.parameters for size in dictionaries), "the weights of dictionaries", together),
            Part(batch * SCORED_LOGITS * vocabulary, "the model's logits of a batch", "lower eval.batch_contexts"),
            Part(batch * SCORED_CODES * latents, "the codes of a batch", "lower eval.batch_contexts or sae.d_sae"),
        ]
    )


def _model(nbytes: int) -> Part:
    return Part(nbytes, "the weights of the language model", "choose a smaller model.name")


CODES_AT_ONCE, TOKENS_AT_ONCE = 1 << 24, 8192
"""The most codes, and the most tokens, that features computes at a time (lmsae/interpretation/gathering.py)."""
CODE_ARRAYS = 12
"""Arrays of so many codes, as measured: those of this batch and of the last one, and what lies between them."""
READ_TOKEN_BYTES = 40
"""Of a token that is read: its id, whether it counts, its text, its document, its firings, and where they begin."""
FIRINGS_BYTES = 1 << 29
"""Firings in memory while latents are described: a block of them, and the rows that pairs are counted in."""
FIRING_BYTES = 24
"""Of a firing: in its block, in its row, and while it is sorted."""
TABLES_BYTES = 1 << 27
"""The tables of a row group."""
WAITING_BYTES = 16 << 20
"""Firings of each dictionary that wait for their file, and what sorts them."""


def describing_footprint(*, tokens: int, dictionaries: Sequence[DictionarySize]) -> Footprint:
    """The memory of a features pass, beyond a language model's. The largest dictionary's rows are there twice while
    neighbors are looked for."""
    weights = FLOAT_BYTES * (sum(size.parameters for size in dictionaries) + max(s.parameters for s in dictionaries))
    latents = max(size.latents for size in dictionaries)
    at_once = max(latents, min(CODES_AT_ONCE, TOKENS_AT_ONCE * latents))
    firings = min(FIRINGS_BYTES, FIRING_BYTES * tokens * latents)
    work = max(FLOAT_BYTES * CODE_ARRAYS * at_once, firings)
    together = "lower runtime.together or sae.d_sae" if len(dictionaries) > 1 else "lower sae.d_sae"
    return Footprint(
        [
            Part(weights, "the weights of dictionaries", together),
            Part(work + TABLES_BYTES, "codes, firings and tables", "lower sae.d_sae"),
            Part(WAITING_BYTES * len(dictionaries), "firings that wait for their file", together, on_device=False),
            Part(READ_TOKEN_BYTES * tokens, "the tokens that are read", "lower features.tokens", on_device=False),
        ]
    )
