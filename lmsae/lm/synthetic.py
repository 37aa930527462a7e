"""The model `builtin:features`: activations that are sums of known directions, and the features behind them.

    lm = load(resolve("builtin:features?features=512"), backend="huggingface", dtype="float32", device="cpu")
    lm.amounts(tokens)                                  # (batch, context, known): how much of each feature there is
    lm.directions("blocks.0.hook_resid_pre")            # (known, width): activations = amounts @ directions + noise

Every hook point is a linear image of the same amounts. `hook_resid_pre` of layer 0 holds each feature along a unit
direction. Attention writes features of the token before, along directions of their own. The MLP turns the direction of
every feature, by 45 degrees on average, and erases some features. So the known features are the measure of a dictionary
of one hook point, of several (crosscoder), of an MLP (transcoder) and of attention.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from lmsae.lm import counter
from lmsae.lm import hook_points as points
from lmsae.lm.features import Features
from lmsae.lm.visits import Visit, VisitedModel

_EMBEDDING, _TURNS, _WRITTEN, _FIRING, _GROUPS, _NOISE, _UNEMBEDDING = range(7)


class SyntheticModel(VisitedModel):
    """Known features behind the LanguageModel protocol.

    Amounts and noise depend on the features' numbers and on the tokens from the start of the context, and on nothing
    else. The output of a sublayer does not depend on the residual stream: no layer reads an edit there, and the logits
    show it. Logits are linear in the last residual and predict no text: the cross entropy itself says nothing, but its
    changes and KL do.
    """

    def __init__(self, features: Features, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__(features.config(), device)
        self.features = features
        self._dtype = dtype
        self._directions = {name: each.to(device) for name, each in _directions(features).items()}
        self._unembedding = _draw_vectors(features, _UNEMBEDDING, features.width, features.d_vocab).to(device, dtype)
        self._firing = _Firing(features, device)
        self._noise_keys = counter.stream_keys(features.seed, _NOISE, features.width).to(device)
        self._visits: Mapping[str, Visit] = {}

    def hook_points(self) -> dict[str, int]:
        """Every hook point, in the order of a forward pass, with its width."""
        return points.hook_points(self.config)

    def directions(self, hook_point: str) -> Float[Tensor, "known width"]:
        """The direction of each feature at a hook point. It is zero for a feature that is not there.

        Directions have norm 1 in the residual stream and in the output of attention. The output of an MLP is the change
        of the residual's directions. Raises HookPointError.
        """
        points.require(hook_point, self.config)
        return self._directions[hook_point]

    def amounts(self, tokens: Int[Tensor, "batch context"]) -> Float[Tensor, "batch context known"]:
        """The amount of each feature in each token, 0 where the feature does not fire.

        Behind the features of the token itself stand those of the token before that attention writes, layer by layer.
        """
        hashes = counter.prefix_hashes(tokens.to(self.device))
        return torch.stack([self._firing.amounts(context) for context in hashes])

    def start_cache(self) -> None:
        """None: amounts depend on all tokens from the start of the context."""

    def _forward(self, tokens: Tensor, cache: object) -> Tensor:
        assert cache is None, "start_cache gave none"
        hashes, amounts = counter.prefix_hashes(tokens), self.amounts(tokens)
        residual = self._write("blocks.0.hook_resid_pre", amounts, self.features.noise * self._noise(hashes))
        for layer in range(self.features.layers):
            name = f"blocks.{layer}.hook_"
            residual = self._visit(f"{name}resid_pre", residual)
            if self.features.moved:
                residual = residual + self._visit(f"{name}attn_out", self._write(f"{name}attn_out", amounts))
            residual = self._visit(f"{name}resid_mid", residual)
            residual = residual + self._visit(f"{name}mlp_out", self._write(f"{name}mlp_out", amounts))
            residual = self._visit(f"{name}resid_post", residual)
        return residual @ self._unembedding

    def _write(self, name: str, amounts: Tensor, noise: Tensor | float = 0.0) -> Tensor:
        """The output of the embedding or of a sublayer into the residual stream (batch, context, width).

        It is computed context by context: a larger product may round otherwise, and other contexts in the batch must
        not change activations.
        """
        directions = self._directions[name]
        return (torch.stack([context @ directions for context in amounts]) + noise).to(self._dtype)

    def _noise(self, hashes: Tensor) -> Tensor:
        return torch.stack([counter.normal_numbers(counter.mix(one[:, None] ^ self._noise_keys)) for one in hashes])

    def _visit(self, name: str, activations: Tensor) -> Tensor:
        replaced = self._visits[name](activations) if name in self._visits else None
        return activations if replaced is None else replaced

    @contextmanager
    def _visiting(self, visits: Mapping[str, Visit]) -> Iterator[None]:
        for name in visits:
            points.require(name, self.config)
        self._visits = visits
        try:
            yield
        finally:
            self._visits = {}


class _Firing:
    """The amounts of the features of a token, from 64 random bits for each feature of each token.

    The upper 32 bits are a uniform number: the feature fires if it is below the feature's rate. The next 16 bits say
    if the group's number takes its place, and the last 16 give the amount. All are integers, so that no device or batch
    can round them otherwise.
    """

    def __init__(self, features: Features, device: torch.device) -> None:
        self._features = features
        groups = -(-features.parents // features.group)
        self._keys = counter.stream_keys(features.seed, _FIRING, features.features).to(device)
        self._group_keys = counter.stream_keys(features.seed, _GROUPS, groups).to(device)
        self._group_of = torch.arange(features.parents, device=device) // features.group
        # Two features both take their group's number with probability `correlation`. Otherwise they are independent.
        self._takes_groups = round(features.correlation**0.5 * 2**16)
        rates = features.rates()[: features.parents]
        rates += [features.child_probability] * (features.features - features.parents)
        self._thresholds = (torch.tensor(rates, dtype=torch.float64) * 2**32).round().long().to(device)
        self._moved = torch.arange(features.layers * features.moved, device=device)

    def amounts(self, hashes: Tensor) -> Tensor:
        """The amounts (context, known) of one context, from the hashes (context,) of its prefixes."""
        own = self._own_amounts(hashes)
        before = torch.cat([torch.zeros_like(own[:1]), own[:-1]])
        return torch.cat([own, before[:, self._moved]], dim=1)

    def _own_amounts(self, hashes: Tensor) -> Tensor:
        bits = counter.mix(hashes[:, None] ^ self._keys)
        uniform = counter.upper_bits(bits)
        parents, children = self._features.parents, self._features.children
        if self._takes_groups:
            shared = counter.upper_bits(counter.mix(hashes[:, None] ^ self._group_keys))[:, self._group_of]
            takes = ((bits[:, :parents] >> 16) & 0xFFFF) < self._takes_groups
            uniform[:, :parents] = torch.where(takes, shared, uniform[:, :parents])
        fires = uniform < self._thresholds
        fires[:, parents:] &= fires[:, :parents].repeat_interleave(children, dim=1)
        steps = (bits & 0xFFFF).float().add_(0.5).mul_(2 * self._features.spread / 2**16)
        return steps.add_(1 - self._features.spread).mul_(fires)


def _directions(features: Features) -> dict[str, Tensor]:
    """The directions (known, width) of the features at each hook point, in the order of a forward pass."""
    own, layers = slice(features.features), range(features.layers)
    drawn = [
        _draw_vectors(features, purpose, features.known * len(layers), features.width) for purpose in (_TURNS, _WRITTEN)
    ]
    turns, written = (normalize(one, dim=1).reshape(len(layers), features.known, features.width) for one in drawn)
    residual = torch.zeros(features.known, features.width)
    residual[own] = normalize(_draw_vectors(features, _EMBEDDING, features.features, features.width), dim=1)
    found: dict[str, Tensor] = {}
    for layer in layers:
        attention, mlp = torch.zeros_like(residual), torch.zeros_like(residual)
        first = features.features + layer * features.moved
        attention[first : first + features.moved] = written[layer, first : first + features.moved]
        there = residual[own].any(dim=1, keepdim=True)
        end = features.features - layer * features.erased
        there[end - features.erased : end] = False
        mlp[own] = normalize(residual[own] + turns[layer, own], dim=1) * there - residual[own]
        found |= {f"blocks.{layer}.hook_resid_pre": residual, f"blocks.{layer}.hook_attn_out": attention}
        found |= {f"blocks.{layer}.hook_resid_mid": residual + attention, f"blocks.{layer}.hook_mlp_out": mlp}
        residual = residual + attention + mlp
        found[f"blocks.{layer}.hook_resid_post"] = residual
    return found


def _draw_vectors(features: Features, purpose: int, count: int, width: int) -> Tensor:
    """Draw standard normal numbers (count, width), on the CPU: no device shall round them otherwise."""
    return counter.normal_numbers(counter.stream_keys(features.seed, purpose, count * width)).reshape(count, width)
