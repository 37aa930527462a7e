"""One training step, lmsae beside SAELens: the same activations in the same order, in turn, in one process.

    python benchmarks/training_step.py artifacts/activations/KEY > benchmarks/results/WHEN-WHERE.md

Both train the same architecture from their own default start, in float32, with the same batch, learning rate and
Adam. Printed: the median time of a step, the ratio of each pair of steps (median and quartiles), and what each
dictionary has learned by then, on held-aside activations that neither saw. A faster step that learns less is no gain.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from sae_lens import (
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from lmsae.artifact import Artifact, Artifacts
from lmsae.catalog import SaeSection, resolve, with_defaults
from lmsae.dictionary.dictionary import Dictionary
from lmsae.initialisation.config import InitConfig
from lmsae.initialisation.initialise import initialise
from lmsae.memory import reuse_freed_memory
from lmsae.stages.reading import aside_activations
from lmsae.stages.sites import Reading
from lmsae.store.batches import ShuffledBatches
from lmsae.store.reader import StoreReader
from lmsae.text.tokens import open_tokens
from lmsae.training.batch import Batch
from lmsae.training.config import TrainConfig
from lmsae.training.run import Run

Step = Callable[[Tensor], None]
Reconstruct = Callable[[Tensor], Tensor]


def ours(architecture: str, setting: dict[str, float], aside: Tensor, arguments: argparse.Namespace) -> Run:
    """A Run of lmsae, from a grid-searched start."""
    columns = {"architecture": architecture, "d_sae": arguments.d_sae, "normalize_activations": "none"}
    values = with_defaults(columns)  # activations are scaled already, for both
    common = {name: value for name, value in values.items() if name in SaeSection.model_fields}
    width = (aside.shape[1],)
    parts, objective = resolve(SaeSection(**common), setting, frozenset(setting), width, width)
    dictionary = Dictionary(parts)
    initialise(dictionary, aside, aside, None, InitConfig(), unit_norm_decoder=objective.unit_norm_decoder)
    config = TrainConfig(
        tokens=arguments.tokens,
        batch_size=arguments.batch,
        lr=arguments.lr,
        lr_cool_down_steps=0,
        dead_threshold=1000 * arguments.batch,
    )
    return Run(dictionary, objective, config, architecture)


def theirs(architecture: str, setting: dict[str, float], width: int, arguments: argparse.Namespace) -> SAETrainer:
    """SAELens' own trainer of the same architecture."""
    sizes = {"d_in": width, "d_sae": arguments.d_sae}
    if architecture == "standard":
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**sizes, **setting))
    elif architecture == "topk":
        sae = TopKTrainingSAE(TopKTrainingSAEConfig(**sizes, **setting))
    else:
        sae = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**sizes, **setting))
    config = SAETrainerConfig(
        total_training_samples=arguments.tokens,
        train_batch_size_samples=arguments.batch,
        lr=arguments.lr,
        lr_end=arguments.lr,
    )
    return SAETrainer(config, sae, data_provider=iter(()))


def explained_variance(reconstruct: Reconstruct, x: Tensor) -> float:
    """1 - FVU, pooled over x (tokens, width)."""
    with torch.no_grad():
        error = (reconstruct(x) - x).pow(2).sum()
    return float(1 - error / (x - x.mean(0)).pow(2).sum())


def dead_share(encode: Reconstruct, x: Tensor) -> float:
    """Share of latents that fire on no token of x."""
    with torch.no_grad():
        return float((encode(x) != 0).any(0).logical_not().float().mean())


def timed(step: Step, x: Tensor) -> float:
    started = time.perf_counter()
    step(x)
    return time.perf_counter() - started


def compare(
    architecture: str,
    setting: dict[str, float],
    batches: Iterator[Tensor],
    aside: Tensor,
    arguments: argparse.Namespace,
) -> str:
    """Train both in turn over the same batches; one line of the table."""
    run, trainer = (
        ours(architecture, setting, aside, arguments),
        theirs(architecture, setting, aside.shape[1], arguments),
    )

    def our_step(x: Tensor) -> None:
        run.step(Batch(x, x))

    def their_step(x: Tensor) -> None:
        trainer.step(x)
        trainer.n_training_steps += 1

    times: list[tuple[float, float]] = []
    for number, x in enumerate(batches):
        if number % 2:
            mine, other = timed(our_step, x), timed(their_step, x)
        else:
            other, mine = timed(their_step, x), timed(our_step, x)
        times.append((mine, other))
    quarters = statistics.quantiles((other / mine for mine, other in times[2:]), n=4)
    medians = [arguments.batch / statistics.median(column) for column in zip(*times[2:], strict=True)]
    test = aside[:8192]
    dictionary, sae = run.dictionary, trainer.sae
    learned = (explained_variance(dictionary, test), explained_variance(sae, test))
    dead = (dead_share(dictionary.encode, test), dead_share(sae.encode, test))
    return (
        f"| {architecture} | {medians[0]:,.0f} | {medians[1]:,.0f} | **{quarters[1]:.2f}** ({quarters[0]:.2f}-"
        f"{quarters[2]:.2f}) | {learned[0]:.3f} | {learned[1]:.3f} | {dead[0]:.1%} | {dead[1]:.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", type=Path, help="a finished activations artifact")
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--k", type=int, default=32)
    parser.add_argument("--l1", type=float, default=1.0)
    arguments = parser.parse_args()
    reuse_freed_memory()  # for both: they share the process
    store = Artifact(arguments.activations)
    tokens_artifact = Artifacts(arguments.activations.parent.parent)[store.spec().inputs["tokens"]]
    tokens = open_tokens(tokens_artifact.path)
    aside = aside_activations(store, tokens_artifact, Reading())
    scale = aside.shape[1] ** 0.5 / aside.norm(dim=1).mean()
    stream = ShuffledBatches(
        [StoreReader(store.path / "activations.zarr")],
        tokens.usable("train"),
        batch_size=arguments.batch,
        seed=0,
        first=tokens.aside_contexts,
    )
    print(f"`python benchmarks/training_step.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}, float32; ", end="")
    print(f"d = {aside.shape[1]}, d_sae = {arguments.d_sae}, batch {arguments.batch:,}, {arguments.tokens:,} tokens.\n")
    print("| architecture | lmsae tokens/s | SAELens tokens/s | speed-up (quartiles) | EV lmsae | EV SAELens ", end="")
    print("| dead lmsae | dead SAELens |\n|---|---|---|---|---|---|---|---|", flush=True)
    for architecture, setting in (
        ("topk", {"k": arguments.k}),
        ("batchtopk", {"k": arguments.k}),
        ("standard", {"l1_coefficient": arguments.l1}),
    ):
        with closing(stream.batches(0, arguments.tokens // arguments.batch)) as raw:
            batches = (x * scale for (x,) in raw)
            print(compare(architecture, setting, batches, aside * scale, arguments), flush=True)


if __name__ == "__main__":
    main()
