"""Steering: text that the model writes while some latents of a dictionary are added, clamped or ablated.

Only the difference that steering makes to the reconstruction is added to the activations: what the dictionary does not
reconstruct, its error, stays. Codes are those that the dictionary has at each token by itself. A dictionary that writes
what it reads puts the sum of what it has read and the difference in the activations' place; any other adds the
difference to what is there.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lmsae.application.loaded import LoadedDictionary
from lmsae.errors import NotEnoughTokens, ShapeError
from lmsae.lm.protocol import Edit, LanguageModel

if TYPE_CHECKING:
    from transformers import Cache


@dataclass(frozen=True)
class Generation:
    """A text that a model has continued: the text given, the continuation, and the ids of both together."""

    prompt: str
    text: str
    ids: list[int]

    def __str__(self) -> str:
        return self.prompt + self.text


def generate(
    sae: LoadedDictionary,
    prompt: str | Sequence[int] | Tensor,
    *,
    add: Mapping[int, float] | None = None,
    clamp: Mapping[int, float] | None = None,
    ablate: Sequence[int] = (),
    max_new_tokens: int = 50,
    temperature: float = 1.0,
    seed: int = 0,
) -> Generation:
    """Let the model continue a text while latents are steered at every token that counts.

    Args:
        sae: the dictionary; its model writes.
        prompt: the text, or token ids.
        add: latent -> what is added to its code, in training's units, whether it fires or not.
        clamp: latent -> the code that it has instead of its own.
        ablate: latents whose code is 0 instead.
        max_new_tokens: the most tokens that are written. The end of a text (EOS) ends it earlier.
        temperature: of the distribution that tokens are drawn from; 0 takes the likeliest.
        seed: of the draws, which are made on the CPU.

    Raises:
        SourceError: if it belongs to several models, or nobody knows to which.
        ShapeError: if there is no such latent, or a latent is steered in two ways, or by no number.
        NotEnoughTokens: if text and continuation are longer than the model reads.
    """
    steering = Steering.of(sae, add or {}, clamp or {}, ablate)
    model, ids = sae.model, sae.tokenize(prompt)
    _require_room(model, ids.shape[1], max_new_tokens)
    if not (math.isfinite(temperature) and temperature >= 0):
        raise ShapeError(f"temperature is {temperature}; wanted: 0 or a number above it.")
    given, ends = ids.shape[1], {*sae.vocabulary.ends}
    generator, steered = torch.Generator().manual_seed(seed), SteeredModel(sae, steering)
    with torch.inference_mode():
        for _ in range(max_new_tokens):
            logits = steered.read_on(ids)[0, -1].float().cpu()
            token = _draw(logits, temperature, generator)
            ids = torch.cat([ids, torch.tensor([[token]])], dim=1)
            if token in ends:
                break
    return Generation(_text(sae, ids[:, :given]), _text(sae, ids[:, given:]), ids[0].tolist())


@dataclass(frozen=True)
class Steering:
    """The latents to steer: an amount for each, and whether it is the code itself or added to it."""

    latents: Int[Tensor, " chosen"]
    amounts: Float[Tensor, " chosen"]
    clamps: Tensor

    @classmethod
    def of(
        cls, sae: LoadedDictionary, add: Mapping[int, float], clamp: Mapping[int, float], ablate: Sequence[int]
    ) -> "Steering":
        clamp_all = {**clamp, **dict.fromkeys(ablate, 0.0)}
        twice = [latent for latent in add if latent in clamp_all] + [latent for latent in clamp if latent in ablate]
        if twice:
            raise ShapeError(f"latent {twice[0]} is steered in two ways: add to it, clamp it, or ablate it.")
        amounts = {**add, **clamp_all}
        if odd := [latent for latent, amount in amounts.items() if not math.isfinite(amount)]:
            raise ShapeError(f"latent {odd[0]} cannot be steered by {amounts[odd[0]]}: give a finite number.")
        return cls(
            sae.require_latents(list(amounts)),
            torch.tensor(list(amounts.values()), device=sae.device, dtype=torch.float32),
            torch.tensor([latent in clamp_all for latent in amounts], device=sae.device),
        )

    def change(self, codes: Float[Tensor, "*batch chosen"]) -> Float[Tensor, "*batch chosen"]:
        """The change of the codes."""
        return torch.where(self.clamps, self.amounts - codes, self.amounts.expand_as(codes))


class SteeredModel:
    """A model that reads a growing text with latents steered. It reads each token once where it can.

    A dictionary of several hook points, or one that reads behind what it writes, knows codes only when the model has
    passed: there the model reads every token twice, first as it is. One that reads whole contexts reads the whole text
    again for each token.
    """

    def __init__(self, sae: LoadedDictionary, steering: Steering) -> None:
        self._sae, self._steering, self._model = sae, steering, sae.model
        self._by_token = sae.config.geometry.grain == "token"
        self._reads, self._writes = sae.reads, sae.writes
        self._in_passing = self._by_token and sae.reads_in_passing
        self._caches: tuple[Cache | None, Cache | None] = (None, None)
        if self._by_token:
            self._caches = (self._model.start_cache(), self._model.start_cache())
        self._done = 0

    def read_on(self, ids: Int[Tensor, "1 position"]) -> Float[Tensor, "1 _ d_vocab"]:
        """The logits at the tokens that have not been read yet; the last is that of the whole text."""
        clean, steered = self._caches
        new = ids if steered is None else ids[:, self._done :]
        self._done = ids.shape[1]
        if not len(self._steering.latents):
            return self._model.logits_with(new, {}, steered)
        counted = self._sae.counted(new).to(self._sae.device)[..., None]
        if self._in_passing:
            return self._model.logits_with(new, self._edits_in_passing(counted), steered)
        return self._model.logits_with(new, self._edits_of(new, counted, clean), steered)

    def _edits_in_passing(self, counted: Tensor) -> dict[str, Edit]:
        (reads,), (writes,) = self._reads, self._writes
        noted: list[Tensor] = []

        def note(activations: Tensor) -> Tensor:
            noted.append(activations)
            return activations

        def steer(activations: Tensor) -> Tensor:
            change = self._change(noted.pop() if noted else activations)
            return _add(activations, change, counted)

        return {writes: steer} if reads == writes else {reads: note, writes: steer}

    def _edits_of(self, new: Tensor, counted: Tensor, cache: "Cache | None") -> dict[str, Edit]:
        """The edits by the codes of the model as it is."""
        found = self._model.read(new, self._reads, cache)
        change = self._change(torch.cat([found[name] for name in self._reads], dim=-1))
        parts = zip(self._writes, change.split(self._sae.config.widths.writes, dim=-1), strict=True)
        replaces = self._sae.config.geometry.autoencodes

        def edit(name: str, part: Tensor) -> Edit:
            return lambda activations: _add(found[name] if replaces else activations, part, counted)

        return {name: edit(name, part) for name, part in parts}

    def _change(self, x: Tensor) -> Tensor:
        """The difference that steering makes to the reconstruction, float32."""
        dictionary, x = self._sae.dictionary, x.float()
        codes = dictionary.encode_latents(x, self._steering.latents)
        return dictionary.decode_change(self._steering.change(codes), self._steering.latents, x)


def _add(activations: Tensor, change: Tensor, counted: Tensor) -> Tensor:
    return torch.where(counted, (activations.float() + change).to(activations.dtype), activations)


def _draw(logits: Float[Tensor, " d_vocab"], temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial((logits.double() / temperature).softmax(-1), 1, generator=generator))


def _require_room(model: LanguageModel, given: int, new: int) -> None:
    if new < 1:
        raise NotEnoughTokens(f"max_new_tokens is {new}; wanted: 1 or more.")
    if model.max_context is not None and given + new > model.max_context:
        raise NotEnoughTokens(
            f"the model reads at most {model.max_context:,} tokens, and the text has {given:,}: shorten it, or lower "
            f"max_new_tokens ({new:,}) to {max(model.max_context - given, 0):,}."
        )


def _text(sae: LoadedDictionary, ids: Tensor) -> str:
    """The text of ids, without special tokens."""
    shown = ids[sae.counted(ids)] if sae.home.packing.mask_special else ids[0]
    if not len(shown):
        return ""
    texts, index = sae.texts.in_contexts(shown[None].numpy())
    return "".join(texts[number] for number in index[0])
