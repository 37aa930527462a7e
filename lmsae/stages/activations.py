"""activations: tokens + model + one hook point -> a Zarr array (contexts, context_size, width), in token order."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from lmsae.artifacts.artifact import Spec
from lmsae.artifacts.resuming import NOTE, discard, note_resumption
from lmsae.config import Frozen, canonical_json
from lmsae.errors import ShapeError
from lmsae.lm import ResolvedModel
from lmsae.runtime.numbers import format_bytes, format_count
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import HOUR, LEAST_FLOPS, Effort, Kind, Outlook, fact
from lmsae.stages.flops import forward_flops
from lmsae.stages.footprint import Footprint, Part, capturing_footprint, model_bytes, widest
from lmsae.stages.models import LMConfig, ModelSection, read_config, require_unchanged
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading, inputs_from
from lmsae.stages.stage import Done, Job, Stage
from lmsae.store.layout import Layout
from lmsae.text.packing import TokenizeConfig

if TYPE_CHECKING:
    from torch import Tensor

STORE, NORMS = "activations.zarr", "activations.norms.zarr"


class Capture(Frozen):
    """The capture and storage of activations."""

    dtype: Literal["float16", "bfloat16", "float32", "int8"] = Field(
        default="float16",
        description="Precision on disk. int8 takes half the bytes of float16: one byte for each value, and a scale for "
        "each token. Before that, channels are standardized by the mean and standard deviation of the first batch.",
    )
    batch_contexts: int = Field(default=32, gt=0, description="Number of contexts in one forward pass of the model.")
    source: Literal["cached", "live", "file"] = Field(
        default="cached",
        description="`cached`: all activations are stored. `live`: training captures them window by window, just in "
        "time, and drops them; only the calibration split is stored. The dictionary is the same, but the model runs "
        "again in every training pass and epoch. `file`: the activations are in `activations.files`, and there is no "
        "model (docs/own-activations.md).",
    )


class ActivationsSection(Capture, Reading):
    """The columns `activations.*`."""

    files: tuple[str, ...] | None = Field(
        default=None,
        description="Files of own activations, for the source `file`: Zarr arrays, .safetensors files, or folders of "
        "those. `name=path` gives the hook point that `sae.hook_point` names; without a name it is the file's. "
        "`path#tensor` names one of several tensors.",
    )
    token_ids: str | None = Field(
        default=None,
        description="File of the token ids of own activations, one whole number for each vector: a Zarr array, a "
        ".safetensors file, a folder of those, or `path#tensor`. With it, features tell tokens apart, and show their "
        "texts if `tokenize.tokenizer` is named, and metrics come by token frequency.",
    )


class Config(Capture):
    model: LMConfig
    hook_point: str
    width: int = Field(gt=0)


def count_stored_contexts(capture: Capture, contexts: int, calibration_contexts: int) -> int:
    """The number of contexts of the train split that are stored; live, those of batches with a calibration context."""
    if capture.source != "live":
        return contexts
    batches = -(-calibration_contexts // capture.batch_contexts)
    return min(contexts, batches * capture.batch_contexts)


def configs(row: ResolvedRow) -> list[Config]:
    """One store for every hook point of every model."""
    return [
        Config(**row.fields(Capture), model=row.models[place.model], hook_point=place.hook_point, width=width)
        for place, width in zip(row.places.all, row.widths, strict=True)
    ]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `activations.zarr` of every job: all hook points of one model and token set, in one forward pass."""
    import torch

    from lmsae.runtime.disk import require_space
    from lmsae.runtime.progress import show_progress
    from lmsae.store.layout import SMALLER
    from lmsae.text.tokens import open_tokens

    first: Config = jobs[0].config
    split = open_tokens(jobs[0].inputs["tokens"].path)
    tokens, context_size = split.train, split.context_size
    contexts = count_stored_contexts(first, len(tokens), split.calibration_contexts)
    captures = [_Capture(job, contexts, context_size) for job in jobs]
    require_space(jobs[0].out, sum(capture.bytes_to_come for capture in captures), SMALLER)
    hook_points = list(dict.fromkeys(job.config.hook_point for job in jobs))
    model = first.model.load(runtime, up_to=hook_points)
    # A pass that goes on runs the model on the same batches as an uninterrupted one: in others it rounds differently.
    begin = min(capture.kept for capture in captures) // first.batch_contexts * first.batch_contexts
    total = max(contexts - begin, 0) * context_size
    with show_progress("activations", unit="token", total=total, runtime=runtime) as progress, torch.inference_mode():
        try:
            for start in range(begin, contexts, first.batch_contexts):
                batch = torch.from_numpy(tokens[start : start + first.batch_contexts].astype("int64")).to(model.device)
                read = model.read(batch, hook_points)
                for capture in [capture for capture in captures if capture.error is None]:
                    capture.take(read[capture.job.config.hook_point], start)
                progress.advance(batch.numel())
                if all(capture.error for capture in captures):
                    break
            require_unchanged([model])
        except Exception as error:  # of the model, or of a file in its place
            for capture in captures:
                capture.fail(error)
    flops = _flops(first.model, hook_points, context_size, progress.done)
    for capture in captures:
        capture.close()
        cost = progress.facts(len(jobs), flops, flops)
        yield capture.job, capture.error or {**cost, "resumed_from_contexts": capture.resumed}


def _flops(model: LMConfig, hook_points: Sequence[str], context_size: int, tokens: int) -> float | None:
    """The FLOPs of one forward pass up to the last of the hook points, which share it, over so many tokens."""
    a_token = forward_flops(read_config(model.source), context_size, hook_points)
    return a_token and a_token * tokens


class _Capture:
    """The store of one job, up to its first error. Whole shards that an interrupted pass left are kept, and nothing
    else of it."""

    error: Exception | None = None

    def __init__(self, job: Job, contexts: int, context_size: int) -> None:
        from lmsae.store.layout import Layout
        from lmsae.store.writer import StoreWriter, drop_unfinished, finished_contexts

        path, layout = job.out / STORE, Layout(contexts, context_size, job.config.width, job.config.dtype)
        self.job, self.kept = job, finished_contexts(path, layout)
        drop_unfinished(path, layout, self.kept)
        self.resumed = note_resumption(job.out, self.kept)
        kept = (file for folder in (STORE, NORMS) for file in (job.out / folder / "c").rglob("*") if file.is_file())
        self.bytes_to_come = layout.nbytes + layout.norms_nbytes - sum(file.stat().st_size for file in kept)
        self._writer = StoreWriter(path, layout, self.kept, self.job.require_claim)

    def take(self, activations: "Tensor", start: int) -> None:
        """Write the activations of contexts from `start` on (contexts, context_size, width), but for those kept."""
        config: Config = self.job.config
        try:
            if activations.shape[-1] != config.width:
                raise ShapeError(
                    f"{config.hook_point} of {config.model.source.name} has width {activations.shape[-1]}; its "
                    f"config.json promised {config.width}."
                )
            self._writer.append(activations[max(self.kept - start, 0) :])
        except Exception as error:
            self.fail(error)

    def close(self) -> None:
        """Finish the store, unless there was an error."""
        try:
            if self.error is None:
                self._writer.close()
                discard(self.job.out / NOTE)
        except Exception as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Drop what is unfinished of the store."""
        self.error = self.error or error
        self._writer.abandon()


def estimate_contexts(spec: Spec, outlook: Outlook) -> int | None:
    """The largest number of contexts that an artifact will store; None if the text must be tokenized first."""
    tokens = outlook.spec(spec.inputs["tokens"])
    packing = TokenizeConfig.model_validate(tokens.config["packing"])
    counts = outlook.token_counts(tokens)
    contexts = counts["train_contexts"] if counts else packing.most_train_contexts
    if contexts is None:
        return None
    capture = Capture.model_validate({name: spec.config[name] for name in Capture.model_fields})
    return count_stored_contexts(capture, contexts, packing.calibration_contexts)


def _context_size(spec: Spec, outlook: Outlook) -> int:
    return outlook.spec(spec.inputs["tokens"]).config["packing"]["context_size"]


def _flops_to_come(spec: Spec, outlook: Outlook) -> float | None:
    contexts, size = estimate_contexts(spec, outlook), _context_size(spec, outlook)
    config = read_config(ResolvedModel.model_validate(spec.config["model"]["source"]))
    a_token = forward_flops(config, size, [spec.config["hook_point"]])
    return None if contexts is None or a_token is None else contexts * size * a_token


def _kind(spec: Spec, outlook: Outlook) -> Kind:
    del outlook
    model = spec.config["model"]
    return model["dtype"], model["backend"], model["source"]["name"], spec.config["dtype"], spec.config["source"]


def _size(specs: Sequence[Spec], outlook: Outlook) -> str:
    """The tokens that will be stored, and their bytes."""
    tokens, size, at_most = 0, 0, ""
    for spec in specs:
        contexts, context_size = estimate_contexts(spec, outlook), _context_size(spec, outlook)
        if contexts is None:
            return "known once tokenized"
        at_most = at_most if outlook.token_counts(outlook.spec(spec.inputs["tokens"])) else "at most "
        tokens += contexts * context_size
        layout = Layout(contexts, context_size, spec.config["width"], spec.config["dtype"])
        size += layout.nbytes + layout.norms_nbytes
    return f"{at_most}{format_count(tokens)} tokens, {format_bytes(size)}"


def _memory(specs: Sequence[Spec], outlook: Outlook) -> Footprint:
    """The memory of a pass over all of its hook points."""
    config = specs[0].config_as(Config)
    model, contexts = read_config(config.model.source), estimate_contexts(specs[0], outlook)
    return capturing_footprint(
        model_bytes=model_bytes(model, config.model.dtype),
        batch_tokens=min(config.batch_contexts, contexts or config.batch_contexts) * _context_size(specs[0], outlook),
        widest=widest(model),
        width=sum(spec.config["width"] for spec in specs),
    )


def live_parts(spec: Spec, outlook: Outlook) -> list[Part]:
    """The memory of the models that a job runs itself, since its activations are captured live; none if all are
    stored."""
    by_model: dict[str, list[Spec]] = defaultdict(list)
    for capture in map(outlook.spec, inputs_from("activations", spec.inputs)):
        if capture.config["source"] == "live":
            by_model[canonical_json(capture.config["model"])].append(capture)
    return [part for captures in by_model.values() for part in _memory(captures, outlook).parts]


def _shares(spec: Spec) -> str:
    """All hook points of a model are read in one forward pass, up to the last of them."""
    return canonical_json(
        [spec.inputs["tokens"], *(spec.config[name] for name in ("model", "batch_contexts", "source"))]
    )


STAGE = Stage(
    name="activations",
    version=3,
    help="tokens + model -> activations of one hook point",
    config=Config,
    inputs={"tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"model": ModelSection, "activations": ActivationsSection},
    keeps=frozenset({STORE, NORMS, NOTE}),
    is_per_hook_point=True,
    shares=_shares,
    on_device=True,
    effort=Effort(
        _flops_to_come,
        fact("flops_per_second"),
        _kind,
        max,
        _size,
        memory=_memory,
        lessen="lower activations.batch_contexts, or name fewer hook points",
        given_seconds=12 * HOUR,
        least_rate=LEAST_FLOPS,
    ),
)
