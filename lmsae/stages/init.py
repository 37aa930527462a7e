"""init: activations + norm + architecture, or a finished dictionary -> the weights that training starts from."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lmsae.config import with_from
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import HookPointError
from lmsae.initialization.config import InitConfig
from lmsae.lm.hook_points import layer_of
from lmsae.runtime.runtime import Runtime
from lmsae.stages.effort import EACH_ALIKE, Facts, Outlook
from lmsae.stages.footprint import Footprint, size_of, starting_footprint
from lmsae.stages.models import LMConfig
from lmsae.stages.row import ResolvedRow
from lmsae.stages.sites import Reading, Sites, inputs_from
from lmsae.stages.stage import Done, Job, Stage, make_each

if TYPE_CHECKING:
    from lmsae.artifacts.artifact import Artifact, Spec
    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.dictionary.normalizer import Moments
    from lmsae.initialization.from_model import ModelWeights


_From = with_from(
    "A finished dictionary to start from, named as in `sae.from`: training goes on from its weights, thresholds and "
    "units, on this row's text and model. What the row leaves open is as it is there. If the row has more latents, the "
    "first ones are those of the dictionary, and the rest start as usual."
)


class InitSection(InitConfig, _From):
    """The columns `init.*`. What a dictionary starts from is an input of this stage, and not part of its config."""


class Layer(LMConfig):
    """The layer of a language model whose weights are taken over."""

    layer: int


class Config(InitConfig, Reading):
    dictionary: DictionaryConfig
    sites: Sites
    unit_norm_decoder: bool
    layer: Layer | None = None


def configs(row: ResolvedRow) -> list[Config]:
    """One start for the row's dictionary, which does not depend on the losses."""
    if not row.is_trained:
        return []
    layer = None
    if row.section(InitConfig).from_model:
        layer = Layer(**row.models[0].model_dump(), layer=layer_of(row.places.reads[0].hook_point))
    config = Config(
        **row.fields(InitConfig),
        **row.fields(Reading),
        dictionary=row.dictionary,
        sites=row.places.sites,
        unit_norm_decoder=row.objective.unit_norm_decoder,
        layer=layer,
    )
    return [config]


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `weights.safetensors`, in training's units and with the normalizers that lead to them, and `search.json`:
    the loss of every decoder norm tried; none where all weights are those of a finished dictionary."""
    return make_each(jobs, lambda job: _make(job, runtime))


def _make(job: Job, runtime: Runtime) -> Facts:
    import json

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.initialization.from_dictionary import take_over
    from lmsae.runtime.tensors import save_tensors

    device = runtime.torch_device()
    config: Config = job.config
    source = Dictionary.load(job.inputs["dictionary"].path).to(device) if "dictionary" in job.inputs else None
    dictionary = Dictionary(config.dictionary).to(device)
    search: list[dict[str, float]] = []
    if source is None or config.dictionary.d_sae > source.config.d_sae:
        search = _start(dictionary, source, job, runtime)
    if source is not None:
        take_over(dictionary, source, unit_norm_decoder=config.unit_norm_decoder)
    weights = {name: value.cpu().contiguous() for name, value in dictionary.state_dict().items()}
    save_tensors(weights, job.out / "weights.safetensors")
    (job.out / "search.json").write_text(json.dumps(search, indent=1) + "\n")
    return {}


def _start(dictionary: "Dictionary", source: "Dictionary | None", job: Job, runtime: Runtime) -> list[dict[str, float]]:
    """Draw and scale a dictionary's weights, in the units of `source` or else in those of the activations; returns the
    decoder norms tried, with losses."""
    from lmsae.initialization.from_dictionary import take_over_units
    from lmsae.initialization.initialize import initialize
    from lmsae.stages.inputs.stored import calibration_batch, moments_of

    config, device = job.config, runtime.torch_device()
    batch = calibration_batch(config.dictionary, config.sites, job.inputs, config).to(device)
    moments = [moments_of(norm) for norm in inputs_from("norm", job.inputs)]
    if source is not None:
        take_over_units(dictionary, source)
    else:
        if config.dictionary.normalize_activations == "whiten":
            _require_variance(inputs_from("activations", job.inputs), moments)
        x, target = (side if batch.usable is None else side[batch.usable] for side in (batch.x, batch.target))
        reads, writes = ([moments[n] for n in numbers] for numbers in (config.sites.reads, config.sites.writes))
        dictionary.fit(reads, writes, x, target)
    return initialize(
        dictionary,
        *dictionary.normalize(batch.x, batch.target),
        batch.usable,
        config,
        unit_norm_decoder=config.unit_norm_decoder,
        model_weights=_weights_of(config.layer, config.dictionary, runtime),
    )


def _require_variance(activations: "Sequence[Artifact]", moments: "Sequence[Moments]") -> None:
    """Raise HookPointError if the activations of a hook point never vary."""
    from lmsae.metrics.formulas import ROUNDING

    for stored, one in zip(activations, moments, strict=True):
        if one["variance"].sum() <= ROUNDING * one["mean"].square().sum():
            raise HookPointError(
                f"{stored.spec().config['hook_point']} is the same at all calibration tokens, so there is nothing to "
                "whiten: choose another hook point, or another sae.normalize_activations."
            )


def _weights_of(layer: Layer | None, dictionary: DictionaryConfig, runtime: Runtime) -> "ModelWeights | None":
    if layer is None:
        return None
    from lmsae.initialization.layer_weights import layer_weights

    return layer_weights(layer.load(runtime), layer.layer, dictionary)


def _memory(specs: "Sequence[Spec]", outlook: Outlook) -> Footprint:
    """The memory of the largest of them: they are made one after the other."""
    tokens = outlook.spec(specs[0].inputs["tokens"]).config["packing"]["calibration_tokens"]

    def of_one(spec: "Spec") -> Footprint:
        config = spec.config_as(Config)
        reads, writes = config.dictionary.widths.reads, config.dictionary.widths.writes
        width = sum(reads) + (sum(writes) if config.sites.writes != config.sites.reads else 0)
        size = size_of(config.dictionary)
        return starting_footprint(tokens=tokens, width=width, dictionary=size, tried_tokens=config.tokens)

    return max((of_one(spec) for spec in specs), key=lambda footprint: footprint.nbytes)


STAGE = Stage(
    name="init",
    version=2,
    help="activations + architecture -> starting weights",
    config=Config,
    inputs={"activations": "activations", "dictionary": "import", "norm": "norm", "tokens": "tokenize"},
    make=make,
    configs=configs,
    sections={"init": InitSection},
    # Starting weights take seconds, as starting a job does.
    shares=lambda spec: spec.inputs["activations"],
    goes_with="norm",
    on_device=True,
    effort=replace(EACH_ALIKE, memory=_memory, lessen="lower tokenize.calibration_tokens, init.tokens or sae.d_sae"),
)
