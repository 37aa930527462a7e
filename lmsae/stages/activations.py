"""activations: tokens + model + one hook point -> a Zarr array (contexts, context_size, width), in token order."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.config import Frozen
from lmsae.lm import Backend, Dtype, ResolvedModel, read_config
from lmsae.runtime.runtime import Runtime
from lmsae.stages.flops import forward_flops
from lmsae.stages.sites import Reading
from lmsae.stages.stage import Done, Job, Stage

if TYPE_CHECKING:
    from lmsae.lm.protocol import LanguageModel


STORE, NORMS = "activations.zarr", "activations.norms.zarr"


class ModelSection(Frozen):
    """The language model: the columns `model.*`."""

    name: str = Field(
        default="builtin:stdlib-4m",
        description="A builtin model (`builtin:stdlib-4m`, or `builtin:features?features=512&width=64`, which has no "
        "weights and makes activations of known sparse features: see docs/recovery.md), a local folder, or a model on "
        "the hub.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit on the hub; empty means the main branch."
    )
    backend: Backend = Field(
        default="huggingface",
        description="The library that runs the model; both give the same activations up to rounding.",
    )
    dtype: Dtype = Field(default="float32", description="Precision the model runs in.")
    others: tuple[str, ...] = Field(
        default=(),
        description="Further models, or checkpoints, over the same tokens: `name` or `name@revision`. A crosscoder "
        "shares its latents between all of them; no other dictionary reads several models.",
    )


class LMConfig(Frozen):
    """A language model, resolved to bytes that cannot change."""

    source: ResolvedModel
    backend: Backend
    dtype: Dtype

    def load(self, runtime: Runtime) -> "LanguageModel":
        """The model itself, on the runtime's device."""
        from lmsae.lm import load

        return load(
            self.source,
            backend=self.backend,
            dtype=self.dtype,
            device=runtime.torch_device(),
            trust_remote_code=runtime.trust_remote_code,
        )


class Capture(Frozen):
    """How activations are captured and stored."""

    dtype: Literal["float16", "bfloat16", "float32", "int8"] = Field(
        default="float16",
        description="Precision on disk. int8 takes half the bytes of float16: a byte a value, with a scale for each "
        "token after a mean and a standard deviation for each channel, those of the first batch.",
    )
    batch_contexts: int = Field(default=32, gt=0, description="Contexts in one forward pass of the model.")
    source: Literal["cached", "live"] = Field(
        default="cached",
        description="`cached`: all activations are stored. `live`: training captures them window by window, just in "
        "time, and drops them; only the calibration contexts are stored. The dictionary is the same; the model runs "
        "again in every training pass and epoch.",
    )


class ActivationsSection(Capture, Reading):
    """The columns `activations.*`."""


class Config(Capture):
    model: LMConfig
    hook_point: str
    width: int = Field(gt=0)


def contexts_stored(capture: Capture, contexts: int, calibration_contexts: int) -> int:
    """How many contexts of the train split are stored: live only the model's batches that hold any calibration one."""
    if capture.source == "cached":
        return contexts
    batches = -(-calibration_contexts // capture.batch_contexts)
    return min(contexts, batches * capture.batch_contexts)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `activations.zarr` of every job, all hook points of one model and token set in one forward pass."""
    passes: dict[tuple, list[Job]] = defaultdict(list)
    for job in jobs:
        config: Config = job.config
        passes[(config.model, config.batch_contexts, config.source, job.inputs["tokens"].reference)].append(job)
    for together in passes.values():
        yield from _one_pass(together, runtime)


def _one_pass(jobs: Sequence[Job], runtime: Runtime) -> Done:
    import torch

    from lmsae.errors import ShapeError
    from lmsae.runtime.disk import require_space
    from lmsae.runtime.progress import show_progress
    from lmsae.store.layout import SMALLER
    from lmsae.text.tokens import open_tokens

    first: Config = jobs[0].config
    split = open_tokens(jobs[0].inputs["tokens"].path)
    tokens, context_size = split.train, split.context_size
    contexts = contexts_stored(first, len(tokens), split.calibration_contexts)
    captures = [_Capture(job, contexts, context_size) for job in jobs]
    require_space(jobs[0].out, sum(capture.bytes_to_come for capture in captures), SMALLER)
    model = first.model.load(runtime)
    hook_points = list(dict.fromkeys(job.config.hook_point for job in jobs))
    # Whoever goes on runs the model on the very batches of an uninterrupted pass: in others it rounds differently.
    begin = min(capture.kept for capture in captures) // first.batch_contexts * first.batch_contexts
    total = max(contexts - begin, 0) * context_size
    with show_progress("activations", unit="token", total=total, runtime=runtime) as progress, torch.inference_mode():
        for start in range(begin, contexts, first.batch_contexts):
            batch = torch.from_numpy(tokens[start : start + first.batch_contexts].astype("int64")).to(model.device)
            read = model.read(batch, hook_points)
            for capture in captures:
                activations = read[capture.job.config.hook_point]
                if activations.shape[-1] != capture.job.config.width:
                    raise ShapeError(
                        f"{capture.job.config.hook_point} of {first.model.source.name} has width "
                        f"{activations.shape[-1]}; its config.json promised {capture.job.config.width}."
                    )
                capture.writer.append(activations[max(capture.kept - start, 0) :])
            progress.advance(batch.numel())
    flops = _flops(first.model, hook_points, context_size, progress.done)
    for capture in captures:
        capture.writer.close()
        discard(capture.job.out / NOTE)
        cost = progress.facts(len(jobs), flops, flops)
        yield capture.job, {**cost, "resumed_from_contexts": capture.resumed}


def _flops(model: LMConfig, hook_points: Sequence[str], context_size: int, tokens: int) -> float | None:
    """What one forward pass up to the last of the hook points takes for so many tokens; all of them share it."""
    a_token = forward_flops(read_config(model.source), context_size, hook_points)
    return a_token and a_token * tokens


class _Capture:
    """The store of one job. Whole shards that an interrupted pass left are kept, and nothing else of it."""

    def __init__(self, job: Job, contexts: int, context_size: int) -> None:
        from lmsae.store.layout import Layout
        from lmsae.store.writer import StoreWriter, drop_unfinished, finished_contexts

        path, layout = job.out / STORE, Layout(contexts, context_size, job.config.width, job.config.dtype)
        self.job, self.kept = job, finished_contexts(path, layout)
        drop_unfinished(path, layout, self.kept)
        self.resumed = note_resumption(job.out, self.kept)
        there = sum(shard.stat().st_size for folder in (STORE, NORMS) for shard in (job.out / folder).glob("c.*"))
        self.bytes_to_come = layout.nbytes + layout.norms_nbytes - there
        self.writer = StoreWriter(path, layout, self.kept)


KEEPS = frozenset({STORE, NORMS, NOTE})
STAGE = Stage("activations", 2, Config, {"tokens": "tokenize"}, make, KEEPS)
