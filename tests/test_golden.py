"""Every catalog entry whole, a Matryoshka crosscoder and encoders with a gate: forward pass and losses against NumPy in
float64, written from the formulas and sharing no code with the package; and which weights the losses reach."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import GEOMETRIES
from lmsae.losses import Forward, TrainingStep, reconstruction_loss
from lmsae.planning.catalog import CATALOG
from lmsae.sparsity.config import ACT_FNS
from lmsae.training.objective import Objective
from tests.architectures import parts

WIDTH, OUT, D_SAE, CONTEXTS, POSITIONS, K, THETA = 4, 3, 12, 2, 5, 3, 0.25
COLUMNS: dict[str, Any] = {
    "k": K,
    "jumprelu_init_threshold": THETA,
    "lorsa_rotary": False,
    "matryoshka_prefixes": "0.25 1",
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in CATALOG} | {
    "matryoshka crosscoder": ("crosscoder", {"act_fn": "batchtopk", "losses": ("nested", "aux_k")}),
    "topk with a gate": ("topk", {"glu_encoder": True}),
    "skip transcoder with a gate": ("skip_transcoder", {"glu_encoder": True}),
}
EVERY = pytest.mark.parametrize("name", CASES)
DEAD = np.arange(2 * D_SAE) % 4 == 1
Arrays = dict[str, np.ndarray]


def made(name: str, **columns: Any) -> tuple[Dictionary, Objective, Tensor, Tensor]:
    """A small dictionary of random weights, what trains it, and contexts of inputs and targets."""
    entry, own = CASES[name]
    config, objective = parts(entry, WIDTH, D_SAE, out_width=OUT, **COLUMNS | own | columns)
    dictionary, generator = Dictionary(config).double().train(), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for full_name, parameter in dictionary.named_parameters():
            if full_name == "sparsity.log_threshold":
                parameter.fill_(math.log(THETA))
            else:
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        if objective.unit_norm_decoder:
            dictionary.geometry.get_parameter("W_dec").div_(dictionary.geometry.norms()[:, None])
    shape = (CONTEXTS, POSITIONS)
    x = torch.randn(*shape, config.d_in, generator=generator, dtype=torch.float64)
    target = x if config.geometry.autoencodes else torch.randn(*shape, config.d_out, generator=generator, dtype=x.dtype)
    return dictionary, objective, x, target


def forward_of(dictionary: Dictionary, x: Tensor, target: Tensor) -> Forward:
    if dictionary.config.geometry.grain == "context":
        return dictionary.training_pass(x, target, torch.ones(x.shape[:2], dtype=torch.bool))
    return dictionary.training_pass(x.flatten(0, 1), target.flatten(0, 1))


def arrays(module: torch.nn.Module) -> Arrays:
    return {name: value.detach().numpy() for name, value in module.named_parameters()}


def relu(values: np.ndarray) -> np.ndarray:
    return np.maximum(values, 0)


def largest(values: np.ndarray, count: int, by: np.ndarray) -> np.ndarray:
    """The `count` values of a flat array that are largest in `by`, zeros elsewhere."""
    kept = np.zeros_like(values)
    chosen = np.argsort(-by)[:count]
    kept[chosen] = values[chosen]
    return kept


# What each geometry computes: pre from contexts x, and the reconstruction from codes (tokens, latents) and tokens x.


def attended(x: np.ndarray, w: Arrays) -> np.ndarray:
    """Lorsa's pre, position by position."""
    heads, latents = len(w["W_Q"]), w["W_enc"].shape[1]
    pre = np.zeros((*x.shape[:2], latents))
    for context, position, latent in np.ndindex(*pre.shape):
        head = latent // (latents // heads)
        query = x[context, position] @ w["W_Q"][head] + w["b_Q"][head]
        keys = x[context, : position + 1] @ w["W_K"][head] + w["b_K"][head]
        weights = np.exp(keys @ query / math.sqrt(len(query)))
        values = x[context, : position + 1] @ w["W_enc"][:, latent] + w["b_enc"][latent]
        pre[context, position, latent] = weights @ values / weights.sum()
    return pre


def layered(x: np.ndarray, w: Arrays) -> np.ndarray:
    """The pre of a CLT: each layer's own."""
    layers = [x[..., i * WIDTH : (i + 1) * WIDTH] @ w["W_enc"][i] for i in range(2)]
    return np.concatenate(layers, axis=-1) + w["b_enc"]


PRE = {
    "sae": lambda x, w: (x - w["b_dec"]) @ w.get("W_enc", w["W_dec"].T) + w.get("b_enc", 0),
    "transcoder": lambda x, w: x @ w["W_enc"] + w["b_enc"],
    "skip_transcoder": lambda x, w: x @ w["W_enc"] + w["b_enc"],
    "crosscoder": lambda x, w: sum(x[..., part] @ w["W_enc"][part] for part in SITES) + w["b_enc"],
    "clt": layered,
    "lorsa": attended,
    "molt": lambda x, w: x @ w["W_enc"] + w["b_enc"],
}
SITES = (slice(0, WIDTH), slice(WIDTH, 2 * WIDTH))


def rows(w: Arrays) -> np.ndarray:
    """What each latent of a CLT writes, to all layers side by side."""
    below = np.concatenate([np.zeros((D_SAE, OUT)), w["W_dec.1"]], axis=1)
    return np.concatenate([w["W_dec.0"], below])


def transforms(w: Arrays) -> np.ndarray:
    """The matrix of each latent of a MOLT (latents, d_in, d_out)."""
    groups = sorted(int(name[2:]) for name in w if name.startswith("U."))
    return np.concatenate([np.einsum("nri,nro->nio", w[f"V.{g}"], w[f"U.{g}"]) for g in groups])


WRITTEN = {
    "clt": lambda codes, x, w: codes @ rows(w),
    "molt": lambda codes, x, w: np.einsum("tn,nio,ti->to", codes, transforms(w), x),
}
NORMS = {
    "crosscoder": lambda w: sum(np.linalg.norm(w["W_dec"][:, part], axis=1) for part in SITES),
    "clt": lambda w: np.linalg.norm(rows(w), axis=1),
    "molt": lambda w: np.sqrt((transforms(w) ** 2).sum((1, 2))),
}


def written(kind: str, codes: np.ndarray, x: np.ndarray, w: Arrays) -> np.ndarray:
    """What codes write, without b_dec and what is skipped."""
    return WRITTEN[kind](codes, x, w) if kind in WRITTEN else codes @ w["W_dec"]


def norms(kind: str, w: Arrays) -> np.ndarray:
    return NORMS[kind](w) if kind in NORMS else np.linalg.norm(w["W_dec"], axis=1)


def pursued(pre: np.ndarray, w: Arrays) -> np.ndarray:
    """Matching pursuit on one token's pre."""
    codes, left = np.zeros_like(pre), pre.copy()
    for _ in range(K):
        best = left.argmax()
        amount = max(left[best], 0)
        codes[best] += amount
        left = left - amount * (w["W_dec"][best] @ w["W_dec"].T)
    return codes


def gated(pre: np.ndarray, s: Arrays) -> np.ndarray:
    return (pre + s["b_gate"] > 0) * relu(pre * np.exp(s["r_mag"]) + s["b_mag"])


def group_maxima(pre: np.ndarray) -> np.ndarray:
    groups = relu(pre).reshape(len(pre), K, -1)
    return np.where(groups == groups.max(-1, keepdims=True), groups, 0).reshape(pre.shape)


CODES = {
    "relu": lambda pre, w, s: relu(pre),
    "gated": lambda pre, w, s: gated(pre, s),
    "jumprelu": lambda pre, w, s: np.where(pre > THETA, pre, 0),
    "topk": lambda pre, w, s: np.stack([largest(token, K, token) for token in relu(pre)]),
    "batchtopk": lambda pre, w, s: largest(relu(pre).ravel(), K * len(pre), relu(pre).ravel()).reshape(pre.shape),
    "abstopk": lambda pre, w, s: np.stack([largest(token, K, abs(token)) for token in pre]),
    "groupmax": lambda pre, w, s: group_maxima(pre),
    "matching_pursuit": lambda pre, w, s: np.stack([pursued(token, w) for token in pre]),
}


def squared(error: np.ndarray) -> float:
    """The mean over tokens of squared norms."""
    return (error**2).sum(1).mean()


class Expected:
    """A catalog entry in NumPy: everything from weights and inputs."""

    def __init__(self, dictionary: Dictionary, x: Tensor, target: Tensor) -> None:
        self.kind, self.act_fn = dictionary.config.geometry.kind, dictionary.config.act_fn.kind
        self.w, self.s = arrays(dictionary.geometry), arrays(dictionary.sparsity)
        pre = PRE[self.kind](x.numpy(), self.w)
        if "W_glu" in self.w:
            pre = pre / (1 + np.exp(-(x.numpy() @ self.w["W_glu"] + self.w["b_glu"])))
        self.x, self.y, self.pre = (part.reshape(-1, part.shape[-1]) for part in (x.numpy(), target.numpy(), pre))
        self.codes = CODES[self.act_fn](self.pre, self.w, self.s)
        self.norms, self.dead = norms(self.kind, self.w), DEAD[: pre.shape[-1]]
        self.y_hat = self.decoded(self.codes)

    def decoded(self, codes: np.ndarray) -> np.ndarray:
        skipped = self.x @ self.w["W_skip"].T if "W_skip" in self.w else 0
        return written(self.kind, codes, self.x, self.w) + skipped + self.w["b_dec"]

    def aux_k(self) -> float:
        error = self.y - self.y_hat
        count = min(self.y.shape[1] // 2, self.dead.sum())
        pre = self.pre if self.act_fn == "abstopk" else relu(self.pre)
        codes = np.stack([largest(token, count, abs(token)) for token in pre * self.dead])
        left = error - written(self.kind, codes, self.x, self.w)
        return squared(self.y) * (left**2).sum() / (error**2).sum() / 32

    def nested(self) -> float:
        first = self.codes * (np.arange(D_SAE) < D_SAE / 4)
        return (squared(self.decoded(first) - self.y) + squared(self.y_hat - self.y)) / 2

    def gated_aux(self) -> float:
        opening = relu(self.pre + self.s["b_gate"])
        return 0.1 * (opening * self.norms).sum(1).mean() + squared(self.decoded(opening) - self.y)

    def losses(self) -> dict[str, float]:
        sizes = self.codes * self.norms
        missing = relu(THETA - self.pre) * self.norms
        return {
            "reconstruction": squared(self.y_hat - self.y),
            "l1": 0.1 * sizes.sum(1).mean(),
            "p_anneal": 0.1 * self.codes.sum(1).mean(),  # at its start, where p is 1
            "l0": 0.1 * (self.pre > THETA).sum(1).mean(),
            "tanh": 0.1 * np.tanh(4 * sizes).sum(1).mean(),
            "pre_act": 3e-6 * missing.sum(1).mean(),
        }

    def loss(self, kind: str) -> float:
        own = {"aux_k": self.aux_k, "nested": self.nested, "gated_aux": self.gated_aux}
        return own[kind]() if kind in own else self.losses()[kind]


def test_every_part_has_its_formula_here_or_with_the_tests_of_layers() -> None:
    assert PRE.keys() == GEOMETRIES.keys()
    assert CODES.keys() == {entry.act_fn for entry in CATALOG.values()}
    assert ACT_FNS.keys() - CODES.keys() == {"layertopk", "batchlayertopk"}  # tests/sparsity/test_groups.py


@EVERY
def test_a_forward_pass_is_the_formula(name: str) -> None:
    dictionary, _, x, target = made(name)
    expected, forward = Expected(dictionary, x, target), forward_of(dictionary, x, target)
    assert 0 < (expected.codes != 0).sum() < expected.codes.size
    np.testing.assert_allclose(forward.pre.detach(), expected.pre, rtol=0, atol=1e-13)
    np.testing.assert_allclose(forward.codes.values.detach(), expected.codes, rtol=0, atol=1e-13)
    np.testing.assert_allclose(forward.reconstruction.detach(), expected.y_hat, rtol=0, atol=1e-13)
    np.testing.assert_allclose(dictionary.geometry.norms().detach(), expected.norms, rtol=1e-13)


def terms(dictionary: Dictionary, objective: Objective, forward: Forward) -> dict[str, Tensor]:
    found = (
        {}
        if any(loss.replaces_reconstruction for loss in objective.losses)
        else {"reconstruction": reconstruction_loss(forward)}
    )
    dead = torch.from_numpy(DEAD[: forward.pre.shape[-1]])
    for loss in objective.losses:
        progress = TrainingStep(1.0, dead, memory=loss.memory())
        found[loss.kind] = loss(dictionary.geometry, dictionary.sparsity, forward, progress)
    return found


@EVERY
def test_every_term_of_the_loss_is_the_formula(name: str) -> None:
    dictionary, objective, x, target = made(name)
    expected = Expected(dictionary, x, target)
    found = terms(dictionary, objective, forward_of(dictionary, x, target))
    entry, columns = CASES[name]
    assert found.keys() - {"reconstruction"} == set(columns.get("losses", CATALOG[entry].losses))
    for kind, value in found.items():
        assert value.item() == pytest.approx(expected.loss(kind), rel=1e-11), kind
        assert value.item() != 0, kind


@EVERY
def test_gradients_reach_every_parameter(name: str) -> None:
    dictionary, objective, x, target = made(name, lorsa_rotary=True)  # without positions b_K changes no pattern
    torch.stack(list(terms(dictionary, objective, forward_of(dictionary, x, target)).values())).sum().backward()
    unreached = {full for full, value in dictionary.named_parameters() if value.grad is None or not value.grad.any()}
    assert unreached == set()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in dictionary.parameters())


def reached(name: str, warm_up: float = 1.0, **columns: Any) -> set[str]:
    """Which weights get a gradient from a row's one loss beside reconstruction."""
    dictionary, objective, x, target = made(name, lorsa_rotary=True, **columns)
    (loss,) = objective.losses
    forward = forward_of(dictionary, x, target)
    progress = TrainingStep(warm_up, torch.from_numpy(DEAD[: forward.pre.shape[-1]]))
    loss(dictionary.geometry, dictionary.sparsity, forward, progress).backward()
    return {full for full, value in dictionary.named_parameters() if value.grad is not None and value.grad.any()}


READS = {"geometry.W_enc", "geometry.b_enc"}
ATTENDS = {f"geometry.{weight}_{part}" for weight in "Wb" for part in "QK"}
ENCODES = {
    "transcoder": READS,
    "skip_transcoder": READS,
    "crosscoder": READS,
    "clt": READS,
    "lorsa": READS | ATTENDS,
    "molt": READS,
}
"""Weights that pre depends on; without rotary positions b_K would not be among them, for it would change no pattern."""
DECODES = {
    "transcoder": {"geometry.W_dec"},
    "skip_transcoder": {"geometry.W_dec"},
    "crosscoder": {"geometry.W_dec"},
    "clt": {"geometry.W_dec.0", "geometry.W_dec.1"},
    "lorsa": {"geometry.W_dec"},
    "molt": {f"geometry.{factor}.{rank}" for factor in "UV" for rank in (0, 1)},
}
"""Weights of what each latent writes; not b_dec and W_skip, which are written whatever the codes are."""


def test_every_geometry_but_the_sae_is_among_them() -> None:
    assert ENCODES.keys() == DECODES.keys() == GEOMETRIES.keys() - {"sae"}


@pytest.mark.parametrize("name", ENCODES)
def test_auxk_teaches_latents_and_not_what_is_written_without_them(name: str) -> None:
    assert reached(name, act_fn="topk", losses=("aux_k",)) == ENCODES[name] | DECODES[name]


@pytest.mark.parametrize("name", ENCODES)
def test_the_reconstruction_of_a_gate_teaches_the_gate_alone_and_its_penalty_also_norms(name: str) -> None:
    gated = {"act_fn": "gated", "losses": ("gated_aux",)}
    gate = ENCODES[name] - {"geometry.b_enc"} | {"sparsity.b_gate"}
    assert reached(name, warm_up=0.0, **gated) == gate
    assert reached(name, **gated) == gate | DECODES[name]
