"""AbsTopK: the k largest of |pre| a token, in each group of latents, with their signs."""

from typing import ClassVar, final

from jaxtyping import Float, Int
from torch import Tensor

from lmsae.sparsity.selection import SelectsByToken, choose_largest


@final
class AbsTopK(SelectsByToken):
    """A latent is one direction and its opposite."""

    signed: ClassVar[bool] = True

    def choose_latents(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, "*batch kept"]:
        return choose_largest(pre.abs(), k, self.groups)
