"""The language models that stages load: as a row names them, and resolved."""

from typing import TYPE_CHECKING

from pydantic import Field

from lmsae.config import Frozen
from lmsae.lm import Backend, Dtype, ResolvedModel
from lmsae.runtime.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        "transformerlens is compared with huggingface on a few tokens, and refused where it differs.",
    )
    dtype: Dtype = Field(default="float32", description="Precision that the model runs in.")
    others: tuple[str, ...] = Field(
        default=(),
        description="Further models or checkpoints that read the same tokens: `name` or `name@revision`. A crosscoder "
        "shares its latents between all of them. No other dictionary reads several models.",
    )


class LMConfig(Frozen):
    """A language model, resolved to bytes that cannot change."""

    source: ResolvedModel
    backend: Backend
    dtype: Dtype

    def load(self, runtime: Runtime, up_to: "Sequence[str] | None" = None) -> "LanguageModel":
        """The model itself, on the runtime's devices. If it only reads, `up_to` are the hook points that it reads."""
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
