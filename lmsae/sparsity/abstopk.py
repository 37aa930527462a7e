"""AbsTopK: the k largest of |pre| a token, in each group of latents, with their signs."""

from typing import ClassVar, final

from jaxtyping import Float, Int
from torch import Tensor

from lmsae.sparsity.selection import SelectsByToken, largest_of_each


@final
class AbsTopK(SelectsByToken):
    """A latent is one direction and its opposite."""

    signed: ClassVar[bool] = True

    def places(self, pre: Float[Tensor, "*batch latents"], k: int) -> Int[Tensor, "*batch kept"]:
        return largest_of_each(pre.abs(), k, self.groups)
