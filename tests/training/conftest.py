"""Activations with some structure, the batches that each architecture takes, and runs over them."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import GEOMETRIES
from lmsae.planning.catalog import CATALOG
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.curves import Log
from lmsae.training.run import Run
from lmsae.training.unit_rows import normalize_rows
from tests.architectures import parts, randomize, sites_of

TOKENS, WIDTH, D_SAE, BATCH, CONTEXT_SIZE = 1024, 8, 32, 32, 8
SCALE = 0.5
MakeRun = Callable[..., Run]
BatchesFor = Callable[..., list[Batch]]


@pytest.fixture(scope="session")
def activations() -> Tensor:
    """(tokens, width): sparse sums of a few directions, and a mean."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(24, WIDTH, generator=generator)
    active = torch.rand(TOKENS, 24, generator=generator) < 0.1
    return 2 * active.float() @ directions + torch.randn(WIDTH, generator=generator)


@pytest.fixture(scope="session")
def batches_for(activations: Tensor) -> BatchesFor:
    """batches_for("clt"): what an architecture trains on. Further hook points hold the activations rotated; what is
    written elsewhere is a ReLU of what is read."""
    generator = torch.Generator().manual_seed(1)
    rotations = [torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator)).Q for _ in range(2)]

    def make(name: str, batch_size: int = BATCH) -> list[Batch]:
        geometry = GEOMETRIES[CATALOG[name].geometry]
        reads, writes = sites_of(name)
        x = torch.cat([activations, activations @ rotations[0]][:reads], dim=1)
        y = (
            x
            if geometry.autoencodes
            else torch.cat([(activations @ turn).relu() for turn in rotations[:writes]], dim=1)
        )
        if geometry.grain == "token":
            return [Batch(part, part if y is x else y[i * batch_size :][: len(part)])
                    for i, part in enumerate(x.split(batch_size))]  # fmt: skip
        return [in_contexts(x[i : i + batch_size], y[i : i + batch_size]) for i in range(0, TOKENS, batch_size)]

    return make


def in_contexts(x: Tensor, y: Tensor) -> Batch:
    """Tokens as whole contexts, of which the first token is of no use."""
    usable = torch.ones(len(x) // CONTEXT_SIZE, CONTEXT_SIZE, dtype=torch.bool)
    usable[:, 0] = False
    return Batch(x.view(-1, CONTEXT_SIZE, x.shape[1]), y.view(-1, CONTEXT_SIZE, y.shape[1]), usable)


@pytest.fixture
def make_run() -> MakeRun:
    """make_run("topk", steps=10, lr=1e-3): a run of a catalog entry from random weights, the same at every call."""

    def make(
        name: str,
        steps: int,
        log: Log | None = None,
        columns: dict[str, Any] | None = None,
        d_sae: int = D_SAE,
        **train: Any,
    ) -> Run:
        config, objective = parts(name, WIDTH, d_sae, **(columns or {}))
        dictionary: Any = randomize(Dictionary(config))
        dictionary.read.set([SCALE] * len(config.widths.reads))
        dictionary.write.set([SCALE] * len(config.widths.writes))
        if objective.unit_norm_decoder:
            with torch.no_grad():
                normalize_rows(dictionary.geometry.W_dec)
        options = {"batch_size": BATCH, "dead_threshold": 2 * BATCH, **train}
        training = TrainConfig(tokens=steps * options["batch_size"], **options)
        return Run(dictionary, objective, training, f"train/{name}", log)

    return make
