"""init: activations + norm + architecture -> the weights that training starts from."""

from collections.abc import Sequence

from pydantic import Field

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig
from lmsae.runtime import Runtime
from lmsae.stages.stage import Done, Job, Stage


class InitSection(Frozen):
    """The columns `init.*`."""

    seed: int = Field(default=0, ge=0, description="Seed of the random decoder directions.")
    grid_search: bool = Field(
        default=True,
        description="Choose the decoder norm that reconstructs held-aside activations best before training.",
    )
    decoder_norm: float = Field(default=0.1, gt=0, description="Norm of decoder rows when `init.grid_search` is off.")
    b_dec_mean: bool = Field(default=True, description="Start the decoder bias at the mean activation instead of 0.")
    tokens: int = Field(default=4096, gt=0, description="Held-aside tokens that the grid search reconstructs.")


class Config(InitSection):
    dictionary: DictionaryConfig
    normalize_activations: bool
    unit_norm_decoder: bool


def make(jobs: Sequence[Job], runtime: Runtime) -> Done:
    """Write `weights.safetensors`, in normalised units, and `search.json`: the loss of every decoder norm tried."""
    import json

    from safetensors.torch import save_file

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.initialisation import initialise
    from lmsae.stages.reading import aside_activations, scale_of, store_for

    device = runtime.torch_device()
    for job in jobs:
        config: Config = job.config
        scale = scale_of(job.inputs["norm"], config.dictionary.d_in) if config.normalize_activations else 1.0
        store_for(config.dictionary, job.inputs["activations"])
        x = aside_activations(job.inputs["activations"], job.inputs["tokens"]).to(device) * scale
        dictionary = Dictionary(config.dictionary).to(device)
        search = initialise(
            dictionary,
            x,
            seed=config.seed,
            decoder_norm=None if config.grid_search else config.decoder_norm,
            b_dec_mean=config.b_dec_mean,
            unit_norm_decoder=config.unit_norm_decoder,
            search_tokens=config.tokens,
        )
        weights = {name: value.cpu().contiguous() for name, value in dictionary.state_dict().items()}
        save_file(weights, job.out / "weights.safetensors")
        (job.out / "search.json").write_text(json.dumps(search, indent=1) + "\n")
        yield job, {}


STAGE = Stage("init", 1, Config, {"activations": "activations", "norm": "norm", "tokens": "tokenize"}, make)
