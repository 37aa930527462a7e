"""Attribution: the share of each latent at each token in a logit of the model.

score = code * d logit / d code, gradient times activation (Marks et al. 2024, arXiv 2403.19647; Syed et al. 2023, arXiv
2310.10348): to first order, by how much the logit falls when the latent is ablated at that token. It is exact where the
logit is linear in what the latent writes. The dictionary's error stays as it is, as in steering.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.tokens_of_text import require_room, token_id
from lmsae.errors import ShapeError
from lmsae.lm.protocol import Edit


class Share(NamedTuple):
    """The share of a latent at a token: position and text of the token, latent, code there, and score."""

    position: int
    text: str
    latent: int
    code: float
    score: float


@dataclass(frozen=True)
class Attribution:
    """The scores of all latents at all tokens, 0 where a code is 0, and the codes; both (position, latents).

    `logit` is the number that they explain: a logit, or the difference of two. `token` and `minus` are their tokens,
    and `position` is where the model predicts them.
    """

    scores: Float[Tensor, "position latents"]
    codes: Float[Tensor, "position latents"]
    logit: float
    position: int
    token: int
    minus: int | None
    texts: Sequence[str]
    """Of each token of the text."""
    target: str
    """The logit in words."""

    def top(self, k: int = 10) -> list[Share]:
        """The k shares that are largest in size, whatever their sign."""
        flat = self.scores.flatten()
        order = flat.abs().topk(min(k, len(flat))).indices.tolist()
        places = [divmod(number, self.scores.shape[1]) for number in order if flat[number] != 0]
        return [
            Share(t, self.texts[int(t)], latent, float(self.codes[t, latent]), float(self.scores[t, latent]))
            for t, latent in places
        ]

    def by_latent(self) -> Float[Tensor, " latents"]:
        """The score of each latent, over all tokens."""
        return self.scores.sum(0)

    def __str__(self) -> str:
        shares = self.top()
        shown = [json.dumps(share.text, ensure_ascii=False) for share in shares]
        width = max([len("token"), *map(len, shown)])
        lines = [f"position  {'token'.ljust(width)}  latent     code    score"]
        lines += [
            f"{share.position:8}  {text.ljust(width)}  {share.latent:6}  {share.code:7.3f}  {share.score:+7.3f}"
            for share, text in zip(shares, shown, strict=True)
        ]
        return "\n".join([f"{self.target} at position {self.position}: {self.logit:.3f}", *lines])


def attribute(
    sae: LoadedDictionary,
    text: str | Sequence[int] | Tensor,
    *,
    position: int = -1,
    token: str | int | None = None,
    minus: str | int | None = None,
) -> Attribution:
    """The share of each latent in a logit of the model, or in the difference of two logits.

    Args:
        sae: the dictionary; its model predicts.
        text: the text, or token ids.
        position: of the token behind which is predicted; by default the last.
        token: the predicted token, its text or id; by default the likeliest.
        minus: a token whose logit is subtracted.

    Raises:
        SourceError: if a text is not one token, or the dictionary belongs to several models.
        ShapeError: if there is no such position or token.
    """
    model, ids = sae.model, sae.tokenize(text)
    require_room(model, ids.shape[1])
    if not -ids.shape[1] <= position < ids.shape[1]:
        raise ShapeError(f"there is no position {position}: the text has {ids.shape[1]} tokens, counted from 0.")
    position %= ids.shape[1]
    found = model.read(ids, list(dict.fromkeys([*sae.reads])))
    x = torch.cat([found[name].float() for name in sae.reads], dim=-1)
    counted = sae.counted(ids).to(x.device)[..., None]
    with torch.enable_grad():
        codes = (sae.dictionary.encode(x) * counted).detach().requires_grad_()
        logits = model.logits_with(ids, _edits(sae, codes, x, found))[0, position].float()
        chosen = int(logits.argmax()) if token is None else _require(token_id(sae, token), model.d_vocab)
        other = None if minus is None else _require(token_id(sae, minus), model.d_vocab)
        target = logits[chosen] if other is None else logits[chosen] - logits[other]
        (slope,) = torch.autograd.grad(target, codes)
    texts, index = sae.texts.in_contexts(ids.numpy())
    words = [f"logit of {sae.texts.texts[one]!r}" for one in (chosen, *([] if other is None else [other]))]
    values = codes.detach()[0]
    return Attribution(
        scores=(slope[0] * values).cpu(),
        codes=values.cpu(),
        logit=float(target.detach()),
        position=position,
        token=chosen,
        minus=other,
        texts=[texts[number] for number in index[0]],
        target=" - ".join(words),
    )


def _edits(
    sae: LoadedDictionary, codes: Float[Tensor, "1 position latents"], x: Tensor, found: dict[str, Tensor]
) -> dict[str, Edit]:
    """Edits that leave all activations as they are, and let gradients flow back to the codes.

    As in steering, activations at a hook point that is read and written are those of the model as it is: no gradient
    flows through them from one hook point to the next.
    """
    written = sae.dictionary.decode(codes, x)
    parts = (written - written.detach()).split(sae.config.widths.writes, dim=-1)
    replaces = sae.config.geometry.autoencodes

    def edit(name: str, part: Tensor) -> Edit:
        return lambda activations: (found[name] if replaces else activations).float() + part

    return {name: edit(name, part) for name, part in zip(sae.writes, parts, strict=True)}


def _require(token: int, d_vocab: int) -> int:
    if not 0 <= token < d_vocab:
        raise ShapeError(f"there is no token {token:,}: the model's vocabulary has {d_vocab:,}, counted from 0.")
    return token
