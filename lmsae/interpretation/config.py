"""The numbers that say how much is shown of each latent, without torch."""

from pydantic import Field

from lmsae.config import Frozen


class Shown(Frozen):
    """The amount that is shown of each latent."""

    top_contexts: int = Field(
        default=20, ge=0, le=1000, description="Contexts with a latent's largest codes that are kept, each once."
    )
    quantiles: int = Field(
        default=5,
        ge=0,
        le=100,
        description="Quantile bins: the range of a latent's codes, from 0 to the largest, is divided in so many bins "
        "of equal width, and samples of each are kept. 0: none.",
    )
    quantile_samples: int = Field(default=5, ge=0, le=100, description="Tokens sampled from each quantile bin.")
    tokens_before: int = Field(default=20, ge=0, description="Tokens shown before the peak, within its context.")
    tokens_after: int = Field(default=10, ge=0, description="Tokens shown behind it.")
    histogram_bins: int = Field(default=40, gt=0, description="Bins of the histogram of a latent's codes.")
    position_bins: int = Field(
        default=16, gt=0, description="Bins of positions, of about equal width; at most one for each position."
    )
    top_tokens: int = Field(default=10, ge=0, description="Tokens kept on which a latent's codes have the largest sum.")
    logits: int = Field(default=10, ge=0, description="Tokens kept whose logits a latent raises most, and lowers most.")
    neighbors: int = Field(default=10, ge=0, description="Latents kept with the most similar decoder rows.")
    companions: int = Field(default=10, ge=0, description="Latents kept that fire on the same tokens most of all.")
    seed: int = Field(default=0, ge=0, description="Seed of the samples.")

    def position_edges(self, context_size: int) -> tuple[int, ...]:
        """The edges of the bins of positions."""
        bins = min(self.position_bins, context_size)
        return tuple(number * context_size // bins for number in range(bins + 1))
