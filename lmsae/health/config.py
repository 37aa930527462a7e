"""The config of health, without torch: the columns `doctor.*`, and the presets that they choose from."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from lmsae.config import Frozen


class Thresholds(Frozen):
    """The ends of what is healthy; docs/doctor.md has the sources."""

    min_explained_variance: float
    min_ce_loss_score_mean: float
    max_dead_share: float
    max_dense_share: float
    min_l2_ratio: float
    max_l2_ratio: float
    min_l0: float
    max_l0_share: float
    max_late_gain: float
    min_path: float
    max_early_rise: float
    max_early_dead_share: float
    max_overfit: float
    max_starved_share: float
    max_l0_drift: float
    max_off_k: float
    max_ce_share: float


PRESETS = {
    "demo": Thresholds(
        min_explained_variance=0.7,
        min_ce_loss_score_mean=0.8,
        max_dead_share=0.1,
        max_dense_share=0.25,
        min_l2_ratio=0.8,
        max_l2_ratio=1.1,
        min_l0=25,
        max_l0_share=0.5,
        max_late_gain=0.35,
        min_path=1,
        max_early_rise=3,
        max_early_dead_share=0.2,
        max_overfit=0.12,
        max_starved_share=0.15,
        max_l0_drift=0.3,
        max_off_k=0.1,
        max_ce_share=0.75,
    ),
    "published": Thresholds(
        min_explained_variance=0.9,
        min_ce_loss_score_mean=0.8,
        max_dead_share=0.05,
        max_dense_share=0.1,
        min_l2_ratio=0.9,
        max_l2_ratio=1.05,
        min_l0=50,
        max_l0_share=0.25,
        max_late_gain=0.25,
        min_path=1,
        max_early_rise=3,
        max_early_dead_share=0.1,
        max_overfit=0.05,
        max_starved_share=0.1,
        max_l0_drift=0.1,
        max_off_k=0.05,
        max_ce_share=0.75,
    ),
}
"""Thresholds for small models and short training, and those of published practice."""


def _threshold(meaning: str, **limits: float) -> float | None:
    return Field(default=None, description=f"{meaning} Empty: that of the preset.", **limits)  # pyright: ignore


class DoctorSection(Frozen):
    """The columns `doctor.*`. They change what a report and `lmsae doctor` say of a dictionary, and no dictionary."""

    preset: Literal["demo", "published"] = Field(
        default="demo",
        description="Thresholds of health. demo: for small models and short training. published: for dictionaries that "
        "are to be published.",
    )
    min_explained_variance: float | None = _threshold("Least explained variance.", le=1)
    min_ce_loss_score_mean: float | None = _threshold("Least CE score against mean ablation.", le=1)
    max_dead_share: float | None = _threshold("Largest share of latents that never fire.", ge=0)
    max_dense_share: float | None = _threshold("Largest share of latents that fire on a tenth of all tokens.", ge=0)
    min_l2_ratio: float | None = _threshold("Least mean ratio of the norms of reconstruction and activation.", ge=0)
    max_l2_ratio: float | None = _threshold("Largest mean ratio of these norms.", ge=0)
    min_l0: float | None = _threshold("L0 below which a poor reconstruction is put down to sparsity.", ge=0)
    max_l0_share: float | None = _threshold("Largest L0, as a share of the width of what is read.", ge=0)
    max_late_gain: float | None = _threshold(
        "Largest share of what training gains that may come in its second half: 0.5 is a loss that falls in a straight "
        "line, 0.22 one that falls with the logarithm of training.",
        ge=0,
    )
    min_path: float | None = _threshold(
        "Least distance that Adam can carry a weight in training (the learning rates of all steps), as a multiple of "
        "1 / sqrt(width), the size of a weight.",
        ge=0,
    )
    max_early_rise: float | None = _threshold(
        "Largest reconstruction loss in the first fiftieth of training, as a multiple of the first.", ge=1
    )
    max_early_dead_share: float | None = _threshold(
        "Largest share of latents that are dead when the first can be, after `train.dead_threshold` tokens.", ge=0
    )
    max_overfit: float | None = _threshold(
        "Largest explained variance that may be lost from the last training batches to held-out text.", ge=0
    )
    max_starved_share: float | None = _threshold(
        "Largest share of latents with fewer than 50 firings to learn by.", ge=0
    )
    max_l0_drift: float | None = _threshold("Largest change of a jumprelu's L0 over the last fifth of training.", ge=0)
    max_off_k: float | None = _threshold("Largest distance of L0 from k, as a share of k.", ge=0)
    max_ce_share: float | None = _threshold("Largest loss of the model, as a share of the unigram loss.", ge=0)

    @property
    def thresholds(self) -> Thresholds:
        """The preset's thresholds, with those that the row has of its own."""
        own = self.model_dump(exclude={"preset"}, exclude_none=True)
        return PRESETS[self.preset].model_copy(update=own)


def thresholds_of(settings: Mapping[str, object]) -> Thresholds:
    """The thresholds of a row, by its settings `doctor.*`; those of the usual preset where it has none."""
    own = {name.removeprefix("doctor."): value for name, value in settings.items() if name.startswith("doctor.")}
    return DoctorSection.model_validate(own).thresholds
