"""The geometry of some of the latents of an SAE, transcoder or crosscoder, in one of several processes."""

from typing import final

from jaxtyping import Float
from torch import Tensor

from lmsae.geometry.config import LinearConfig, Widths
from lmsae.geometry.geometry import Chosen
from lmsae.geometry.linear import Linear
from lmsae.kernels.entries import Entries
from lmsae.kernels.precision import widen
from lmsae.training.sharded.processes import Processes


@final
class ShardedLinear(Linear):
    """It encodes its own latents, and writes what the latents of all processes write together.

    b_dec and W_skip are the same in every process. They learn from the whole reconstruction, so each computes the
    whole of their gradients, but for that of b_dec by way of the encoder: of that each has the part of its latents.
    """

    def __init__(
        self, config: LinearConfig, widths: Widths, latents: int, encoder_bias: bool, processes: Processes
    ) -> None:
        super().__init__(
            widths,
            latents,
            encoder_bias=encoder_bias,
            glu=config.glu_encoder,
            tied=getattr(config, "tied_encoder", False),
            skip=config.passes_x_on,
            apply_b_dec_to_input=getattr(config, "apply_b_dec_to_input", False),
        )
        self._processes = processes

    def b_dec_to_read(self) -> Float[Tensor, " d_out"]:
        return self._processes.share(self.b_dec)

    def write(
        self, codes: Float[Tensor, "*batch chosen"], chosen: Chosen, x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d_out"]:
        # In float32 also under autocast: another process may compute its part at few entries, which is float32.
        return self._processes.sum(widen(super().write(codes, chosen, x)))

    def write_at(self, codes: Float[Tensor, " entries"], entries: Entries) -> Float[Tensor, "tokens d_out"]:
        return self._processes.sum(super().write_at(codes, entries))
