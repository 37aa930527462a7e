"""The config of starting weights, without torch: the columns `init.*`, and what refuses them."""

from typing import Literal, Self

from pydantic import Field

from lmsae.config import Frozen
from lmsae.dictionary.config import DictionaryConfig

FROM_MODEL = {"transcoder": "the neurons of an MLP", "skip_transcoder": "the neurons of an MLP", "lorsa": "its heads"}
"""Geometries that can start from the language model's own weights, and from which of them."""


STARTS_AWAY = frozenset({"transcoder", "skip_transcoder", "lorsa"})
"""Geometries that read activations with a large mean, which no decoder bias takes off. With a k, they start with a
larger encoder and a bias against that mean. Without both, up to a half of their latents never fire (decision 0043)."""


class InitConfig(Frozen):
    """The columns `init.*`. All is measured on calibration tokens, in training's units; none is ever trained on."""

    seed: int = Field(default=0, ge=0, lt=2**63, description="Seed of everything that is drawn at random.")
    decoder_init: Literal["unit", "uniform", "kaiming", "datapoint", "active_subspace", "pca"] = Field(
        default="unit",
        description="Directions of decoder rows. unit: uniform on the sphere. uniform: uniform in the cube, scaled to "
        "norm 1. kaiming: uniform in the cube, with norms that vary around 1. datapoint: random calibration targets, "
        "centered, blended with random directions. active_subspace: random, within the leading principal directions of "
        "the targets. pca: these directions themselves, largest first, each with its opposite behind it.",
    )
    datapoint_blend: float = Field(
        default=0.8,
        ge=0,
        le=1,
        description="Share of the target in a row of decoder_init datapoint. The rest is a random direction.",
    )
    subspace_rank: int | None = Field(
        default=None,
        gt=0,
        description="Number of principal directions that decoder_init active_subspace keeps at each hook point. Empty: "
        "half of them.",
    )
    encoder_factor: float | None = Field(
        default=None,
        gt=0,
        description="The encoder at the start is this times the transposed decoder, if the widths allow it. Empty: 10 "
        "for a transcoder, skip transcoder or lorsa with a k, and 1 for all others.",
    )
    b_dec: Literal["mean", "zero", "geometric_median"] = Field(
        default="mean", description="Decoder bias at the start: the mean of the targets, their geometric median, or 0."
    )
    b_enc: Literal["zero", "minus_mean_pre"] | None = Field(
        default=None,
        description="Encoder bias at the start: 0, or minus each latent's mean pre-activation. Empty: minus_mean_pre "
        "for a transcoder, skip transcoder or lorsa with a k, and zero for all others.",
    )
    grid_search: bool | None = Field(
        default=None,
        description="Choose the decoder norm that reconstructs calibration activations best before training: 50 values "
        "in [0.1, 5], then 20 around the best. If the decoder is kept at norm 1, the search is over the encoder's "
        "norm. Empty: search if a dictionary writes what it reads; otherwise random directions explain next to "
        "nothing, whatever their norm.",
    )
    decoder_norm: float = Field(default=0.1, gt=0, description="Norm of decoder rows if there is no search.")
    tokens: int = Field(
        default=4096, gt=0, description="Number of calibration tokens that the grid search reconstructs."
    )
    from_model: bool = Field(
        default=False,
        description="Start a transcoder from the neurons of the model's MLP, or a lorsa from the model's attention "
        "heads. If there are more latents than neurons, the rest start as usual.",
    )

    def settled(self, dictionary: DictionaryConfig) -> Self:
        """The same for such a dictionary, with the values that empty columns stand for."""
        away = dictionary.geometry.kind in STARTS_AWAY and hasattr(dictionary.act_fn, "k") and not self.from_model
        away = away and not dictionary.act_fn.brings_bias
        chosen = (
            {"encoder_factor": 10.0, "b_enc": "minus_mean_pre"} if away else {"encoder_factor": 1.0, "b_enc": "zero"}
        )
        return self.model_copy(update={name: value for name, value in chosen.items() if getattr(self, name) is None})
