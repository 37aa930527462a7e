"""The language models that stages load: as a row names them, and resolved."""

from typing import TYPE_CHECKING

from pydantic import Field

from lmsae.config import Frozen
from lmsae.lm import Backend, Dtype, ResolvedModel
from lmsae.runtime.runtime import Runtime

if TYPE_CHECKING:
    from lmsae.lm.protocol import LanguageModel


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
