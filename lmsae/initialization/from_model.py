"""Weights of the language model as those of a dictionary that takes the place of one of its layers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.lorsa import Attention, Lorsa


class ModelWeights(Protocol):
    """Weights of one layer of a model, for raw activations; the dictionary's normalizers say what training's are."""

    def draw(
        self, dictionary: Dictionary, drawn: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Directions for `Geometry.place`, taken from the model where it has any; else those drawn."""
        ...

    def take_over(self, dictionary: Dictionary) -> None:
        """Replace weights that `Geometry.place` has set, for as many latents as the model has weights for."""
        ...


@dataclass(frozen=True, slots=True)
class Neurons:
    """An MLP: W_in (d_in, neurons), b_in (neurons,), W_out (neurons, d_out), b_out (d_out,), as in TransformerLens.

    A relu transcoder of as many latents then computes what a relu MLP computes. Of a gated MLP, W_gate stands for W_in:
    it decides which neurons are active, and the rest is for training to find.
    """

    W_in: Tensor
    b_in: Tensor
    W_out: Tensor
    b_out: Tensor

    def draw(
        self, dictionary: Dictionary, drawn: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        del dictionary, generator
        return drawn

    @torch.no_grad()
    def take_over(self, dictionary: Dictionary) -> None:
        """Neuron i becomes latent i of a transcoder, for as many as there are of both; b_dec is the MLP's."""
        weights = dict(dictionary.geometry.named_parameters())
        W_enc, W_dec = weights["W_enc"], weights["W_dec"]
        count = min(len(self.W_out), len(W_dec))
        W_in, W_out = self.W_in[:, :count].to(W_enc), self.W_out[:count].to(W_dec)
        read, write = dictionary.read.affine(), dictionary.write.affine()
        W_enc[:, :count] = read.reversed.scale_readers(W_in)
        weights["b_enc"][:count] = self.b_in[:count].to(W_in) + read.shift @ W_in
        W_dec[:count] = write.reversed.restore_writers(W_out)
        weights["b_dec"].copy_(write.reversed.restore_writers(self.b_out.to(W_out) - write.shift))


@dataclass(frozen=True, slots=True)
class Heads:
    """An attention layer, whose heads give a lorsa its QK heads, and the directions of its latents up to a factor."""

    attention: Attention

    def draw(
        self, dictionary: Dictionary, drawn: Mapping[str, Tensor], generator: torch.Generator
    ) -> Mapping[str, Tensor]:
        """Raises ShapeError where the lorsa's QK heads do not fit the model's."""
        del drawn
        lorsa = cast(Lorsa, dictionary.geometry)
        return lorsa.draw_from(self.attention, dictionary.read.affine(), dictionary.write.affine(), generator)

    def take_over(self, dictionary: Dictionary) -> None:
        del dictionary
