"""activations: tokens + model + one hook point -> a Zarr array (contexts, context_size, width), in token order."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lmsae.config import Frozen
from lmsae.lm import Backend, Dtype, ResolvedModel
from lmsae.runtime import Runtime
from lmsae.stages.stage import Done, Job, Stage

if TYPE_CHECKING:
    from lmsae.lm.protocol import LanguageModel


class ModelSection(Frozen):
    """The language model: the columns `model.*`."""

    name: str = Field(
        default="builtin:stdlib-4m", description="A builtin model, a local folder, or a model on the hub."
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit on the hub; empty means the main branch."
    )
    backend: Backend = Field(
        default="huggingface",
        description="The library that runs the model; both give the same activations up to rounding.",
    )
    dtype: Dtype = Field(default="float32", description="Precision the model runs in.")


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


class ActivationsSection(Frozen):
    """The columns `activations.*`."""

    dtype: Literal["float16", "bfloat16", "float32"] = Field(default="float16", description="Precision on disk.")
    batch_contexts: int = Field(default=32, gt=0, description="Contexts in one forward pass of the model.")


class Config(ActivationsSection):
    model: LMConfig
    hook_point: str
    width: int = Field(gt=0)


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `activations.zarr` of every job, all hook points of one model and token set in one forward pass."""
    passes: dict[tuple, list[Job]] = defaultdict(list)
    for job in jobs:
        config: Config = job.config
        passes[(config.model, config.batch_contexts, job.inputs["tokens"].reference)].append(job)
    for together in passes.values():
        yield from _one_pass(together, runtime)


def _one_pass(jobs: Sequence[Job], runtime: Runtime) -> Done:
    import torch

    from lmsae.errors import ShapeError
    from lmsae.progress import bar
    from lmsae.store.layout import Layout, require_space
    from lmsae.store.writer import StoreWriter
    from lmsae.text.tokens import open_tokens

    first: Config = jobs[0].config
    tokens = open_tokens(jobs[0].inputs["tokens"].path).train
    contexts, context_size = tokens.shape
    layouts = {job.reference: Layout(contexts, context_size, job.config.width, job.config.dtype) for job in jobs}
    require_space(jobs[0].out, sum(layout.nbytes for layout in layouts.values()))
    model = first.model.load(runtime)
    writers = {job.reference: StoreWriter(job.out / "activations.zarr", layouts[job.reference]) for job in jobs}
    hook_points = list(dict.fromkeys(job.config.hook_point for job in jobs))
    total = contexts * context_size
    with bar("activations", unit="token", total=total, runtime=runtime) as progress, torch.inference_mode():
        for start in range(0, contexts, first.batch_contexts):
            batch = torch.from_numpy(tokens[start : start + first.batch_contexts].astype("int64")).to(model.device)
            read = model.read(batch, hook_points)
            for job in jobs:
                activations = read[job.config.hook_point]
                if activations.shape[-1] != job.config.width:
                    raise ShapeError(
                        f"{job.config.hook_point} of {first.model.source.name} has width {activations.shape[-1]}; "
                        f"its config.json promised {job.config.width}."
                    )
                writers[job.reference].append(activations)
            progress.advance(batch.numel())
    for job in jobs:
        writers[job.reference].close()
        yield job, progress.rates()


STAGE = Stage("activations", 1, Config, {"tokens": "tokenize"}, make)
