"""The language models that stages load: as a row names them, and resolved."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from lmsae.config import Frozen, JsonObject
from lmsae.lm import Backend, Dtype, ResolvedModel
from lmsae.lm import read_config as read_model_config
from lmsae.runtime.runtime import Runtime
from lmsae.vectors import sources

if TYPE_CHECKING:
    from lmsae.lm.protocol import LanguageModel


class ModelSection(Frozen):
    """The language model: the columns `model.*`."""

    name: str = Field(
        default="builtin:stdlib-4m",
        description="A built-in model, a local folder, or a model on the hub. `builtin:stdlib-4m` is a small language "
        "model. `builtin:features?features=512&width=64` has no weights and makes activations of known sparse features "
        "(docs/recovery.md).",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub. Empty: the main branch.")
    backend: Backend = Field(
        default="huggingface",
        description="Library that runs the model. Both give the same activations up to rounding: as a model is loaded, "
        "transformerlens is compared with huggingface on a few tokens, and refused where it differs. TransformerLens's "
        "own models (attn-only-2l, gelu-1l, solu-4l ...) run with transformerlens alone (docs/hook-points.md).",
    )
    dtype: Dtype = Field(default="float32", description="Precision that the model runs in.")
    others: tuple[str, ...] = Field(
        default=(),
        description="Further models or checkpoints that read the same tokens: `name` or `name@revision`. A crosscoder "
        "shares its latents between all of them. No other dictionary reads several models.",
    )


def read_config(model: ResolvedModel) -> JsonObject:
    """The config.json of a model, or what stands in its place for own activations."""
    return sources.config_of(model) if sources.is_source(model) else read_model_config(model)


class LMConfig(Frozen):
    """A language model, resolved to bytes that cannot change; or a source of own activations in its place."""

    source: ResolvedModel
    backend: Backend
    dtype: Dtype

    def load(self, runtime: Runtime, up_to: Sequence[str] | None = None) -> "LanguageModel":
        """The model itself, on the runtime's devices. If it only reads, `up_to` are the hook points that it reads."""
        if sources.is_source(self.source):
            from lmsae.vectors.lookup import Lookup

            return Lookup(self.source, runtime.torch_device())
        from lmsae.lm import load

        return load(
            self.source,
            backend=self.backend,
            dtype=self.dtype,
            device=runtime.torch_device(),
            trust_remote_code=runtime.trust_remote_code,
            up_to=up_to,
            device_map=runtime.device_map,
        )


class LazyModels:
    """Language models by number, each loaded when it is first asked for."""

    def __init__(self, configs: Sequence[LMConfig], runtime: Runtime) -> None:
        self._configs, self._runtime = tuple(configs), runtime
        self._loaded: dict[int, LanguageModel] = {}

    def __getitem__(self, number: int) -> "LanguageModel":
        if number not in self._loaded:
            self._loaded[number] = self._configs[number].load(self._runtime)
        return self._loaded[number]

    def all(self) -> "list[LanguageModel]":
        """All of them, by number."""
        return [self[number] for number in range(len(self._configs))]

    @property
    def loaded(self) -> "list[LanguageModel]":
        """Those that were asked for by now."""
        return [*self._loaded.values()]


def require_unchanged(models: "Iterable[LanguageModel]") -> None:
    """Raise ChangedSource if files of own activations have changed while they were read."""
    from lmsae.vectors.lookup import Lookup

    for model in models:
        if isinstance(model, Lookup):
            model.require_unchanged()
