"""The way from what a dictionary writes to the logits of a language model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from lmsae.interpretation.schema import Location
from lmsae.lm.hook_points import split
from lmsae.lm.protocol import LanguageModel
from lmsae.lm.unembedding import STREAM, obstacle, projection_at, unembedding_rows


@dataclass(frozen=True, slots=True)
class LogitWay:
    """The way to logits: `rows` (tokens, d_model) are what each token's logit reads of the residual stream.

    `parts` are the columns of what is written that reach the stream, and the matrix that takes them there, or None.
    """

    rows: Tensor
    parts: Sequence[tuple[slice, Tensor | None]]
    explanation: str

    def to_stream(self, written: Float[Tensor, "latents d_out"]) -> Float[Tensor, "latents d_model"]:
        """The directions of the residual stream, summed over hook points."""
        total = written.new_zeros(len(written), self.rows.shape[1])
        for columns, matrix in self.parts:
            part = written[:, columns]
            total += part if matrix is None else part @ matrix
        return total


def find_way(
    writes: Sequence[Location],
    widths: Sequence[int],
    models: Sequence[str],
    configs: Sequence[Mapping[str, object]],
    load: Callable[[int], LanguageModel],
    tokens: int,
) -> LogitWay | str:
    """The way from hook points of these widths to the logits of the first `tokens` tokens, or the reason that there is
    none.

    Of several models it leads to the logits of the first one written. What is written at several places is summed where
    it is added to the residual stream; of places in the stream itself the last one counts. `load` loads a model by its
    number, and is called only if there is a way.
    """
    model = writes[0].model
    obstacles = {one: obstacle(configs[one.model], one.hook_point) for one in writes if one.model == model}
    reached = [one for one in writes if one.model == model and obstacles[one] is None]
    if not reached:
        return next(reason for reason in obstacles.values() if reason)
    in_stream = [one for one in reached if split(one.hook_point)[1] in STREAM]
    if in_stream:
        reached = [max(in_stream, key=_place)]
    loaded = load(model)
    ends = [sum(widths[: number + 1]) for number in range(len(widths))]
    columns = {one: slice(end - width, end) for one, end, width in zip(writes, ends, widths, strict=True)}
    parts = [(columns[one], projection_at(loaded, one.hook_point)) for one in reached]
    places = " + ".join(one.hook_point for one in reached)
    explanation = (
        f"what a latent writes at {places} times the unembedding of {models[model]}, with the weight of the final norm "
        "in it; without later layers and without the norm's division, which is a positive number of each token"
    )
    return LogitWay(unembedding_rows(loaded)[:tokens], parts, explanation)


def _place(one: Location) -> tuple[int, int]:
    layer, kind = split(one.hook_point)
    return layer, STREAM.index(kind)
