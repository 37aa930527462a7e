"""A small real store of activations with some structure, and runs over it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.optim import normalise_rows
from lmsae.store.batches import ShuffledBatches
from lmsae.store.layout import Layout
from lmsae.store.reader import StoreReader
from lmsae.store.writer import StoreWriter
from lmsae.training.config import TrainConfig
from lmsae.training.run import Log, Run
from tests.architectures import parts, randomise

CONTEXTS, CONTEXT_SIZE, WIDTH, D_SAE, BATCH = 64, 16, 8, 32, 32
SCALE = 0.5
MakeRun = Callable[..., Run]


@pytest.fixture(scope="session")
def activations() -> Tensor:
    """(tokens, width): sparse sums of a few directions, and a mean."""
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(24, WIDTH, generator=generator)
    active = torch.rand(CONTEXTS * CONTEXT_SIZE, 24, generator=generator) < 0.1
    return 2 * active.float() @ directions + torch.randn(WIDTH, generator=generator)


@pytest.fixture(scope="session")
def batches(activations: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], ShuffledBatches]:
    """Opens the stream anew."""
    path: Path = tmp_path_factory.mktemp("activations") / "store"
    with StoreWriter(path, Layout(CONTEXTS, CONTEXT_SIZE, WIDTH, "float32", 64, 4096)) as writer:
        writer.append(activations.view(CONTEXTS, CONTEXT_SIZE, WIDTH))
    usable = np.ones((CONTEXTS, CONTEXT_SIZE), dtype=bool)
    return lambda: ShuffledBatches([StoreReader(path)], usable, batch_size=BATCH, seed=0, window_tokens=256)


@pytest.fixture
def make_run() -> MakeRun:
    """make_run("topk", steps=10, lr=1e-3): a run of a catalog entry from random weights, the same at every call."""

    def make(name: str, steps: int, log: Log | None = None, columns: dict[str, Any] | None = None, **train: Any) -> Run:
        config, objective = parts(name, WIDTH, D_SAE, **(columns or {}))
        dictionary = randomise(Dictionary(config))
        dictionary.set_scales(SCALE, SCALE)
        if objective.unit_norm_decoder:
            with torch.no_grad():
                normalise_rows(dictionary.geometry.W_dec)
        options = {"batch_size": BATCH, "dead_threshold": 2 * BATCH, **train}
        training = TrainConfig(tokens=steps * options["batch_size"], **options)
        return Run(dictionary, objective, training, f"train/{name}", log)

    return make
