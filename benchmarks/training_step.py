"""Training steps of lmsae, SAELens, dictionary_learning and sparsify: the same activations, in turn, in one process.

    python benchmarks/training_step.py artifacts/activations/KEY > benchmarks/results/WHEN-WHERE-training-step.md
    python benchmarks/training_step.py --made 2304 --d-sae 65536 --batch 8192 --device cuda

All train the same architecture from their own default start, with the same batch, learning rate and Adam, once with
float32 and once with bfloat16 products. The table has the tokens/s of the median step, and the speed-up of each trainer
over the float32 SAELens (median of the ratios within each round, and quartiles). It also has what each dictionary has
learned by then, measured on calibration activations that no trainer saw: a faster step that learns less is no gain.
Without stored activations, the script makes some from known features.
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
from torch import Tensor
from trainers import (
    COLUMNS,
    Setting,
    Trainer,
    dictionary_learning,
    explained_variance,
    l0_and_dead,
    lmsae,
    saelens,
    sparsify,
)

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.runtime.memory import reuse_freed_memory
from lmsae.stages.inputs.stored import calibration_activations
from lmsae.stages.sites import Reading
from lmsae.store.batches import ShuffledBatches
from lmsae.store.reader import StoreReader
from lmsae.store.stores import Stores
from lmsae.text.tokens import open_tokens

WARM = 3
"""Steps of each trainer that are not counted."""


class Activations:
    """Stored activations, scaled to a mean norm of sqrt(width)."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self._device = device
        store = Artifact(folder)
        artifact = Artifacts(folder.parent.parent)[store.spec().inputs["tokens"]]
        self._tokens = open_tokens(artifact.path)
        self._reader = StoreReader(store.path / "activations.zarr")
        raw = calibration_activations(store, artifact, Reading())
        self.scale = float(raw.shape[1] ** 0.5 / raw.norm(dim=1).mean())
        self.calibration = (raw * self.scale).to(device)

    def batches(self, batch: int, tokens: int, seed: int = 0) -> Iterator[Tensor]:
        stream = ShuffledBatches(
            Stores([self._reader]),
            self._tokens.usable("train"),
            batch_size=batch,
            seed=seed,
            first=self._tokens.calibration_contexts,
        )
        with closing(stream.batches(0, tokens // batch)) as raw:
            for (x,) in raw:
                yield (x * self.scale).to(self._device)


class MadeActivations:
    """Sums of sparse known features and noise, of mean norm sqrt(width), which lie on the device from the beginning."""

    FEATURES, ACTIVE, KEPT = 8192, 48, 24
    """Features in all, how many are active in a token, and batches after which the same come again."""

    def __init__(self, width: int, device: str) -> None:
        self._random = torch.Generator(device).manual_seed(0)
        self._device = device
        self._features = torch.nn.functional.normalize(self._normal(self.FEATURES, width), dim=1)
        self.calibration = self._drawn(16_384)
        self._scale = width**0.5 / self.calibration.norm(dim=1).mean()
        self.calibration *= self._scale

    def batches(self, batch: int, tokens: int) -> Iterator[Tensor]:
        kept = [self._drawn(batch) * self._scale for _ in range(min(self.KEPT, tokens // batch))]
        yield from (kept[step % len(kept)] for step in range(tokens // batch))

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self._random, device=self._device)

    def _drawn(self, tokens: int) -> Tensor:
        """Features of which a few are frequent and most are rare."""
        uniform = torch.rand(tokens, self.ACTIVE, generator=self._random, device=self._device)
        active = (self.FEATURES * uniform**2.5).long()
        amounts = self._normal(*active.shape).abs() + 0.5
        bags = torch.nn.functional.embedding_bag(active, self._features, mode="sum", per_sample_weights=amounts)
        return bags + 0.02 * self._normal(*bags.shape)


def contestants(setting: Setting, calibration: Tensor, *, halves: bool) -> list[Trainer]:
    """All trainers that are installed, those with bfloat16 products only for `halves`."""
    there = [saelens(setting)]
    for peer in [dictionary_learning, sparsify] if halves and setting.architecture == "topk" else [dictionary_learning]:
        try:
            there.append(peer(setting))
        except ImportError as error:
            print(f"{peer.__name__} is not installed: {error}", flush=True)
    there.append(lmsae(setting, calibration))
    return [*there, saelens(setting, autocast=True), lmsae(setting, calibration, "bfloat16")] if halves else there


def timed(trainer: Trainer, x: Tensor) -> float:
    started = time.perf_counter()
    trainer.step(x)
    if x.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def ceilings(batch: int, width: int, d_sae: int, device: str) -> str:
    """The limits of the hardware: the one dense product that a step needs, and a copy of its result."""
    x, weights = torch.randn(batch, width, device=device), torch.randn(d_sae, width, device=device)
    out = torch.empty(batch, d_sae, device=device)
    other = torch.empty_like(out)
    operations, moved = 2 * batch * width * d_sae, 2 * out.nbytes
    product = _seconds(lambda: torch.mm(x, weights.T, out=out))
    said = f"float32 product {1e3 * product:.2f} ms ({operations / product / 1e12:.3g} TFLOP/s)"
    if device == "cuda":
        x, weights, half = x.bfloat16(), weights.bfloat16(), out.bfloat16()
        product = _seconds(lambda: torch.mm(x, weights.T, out=half))
        said += f", bfloat16 {1e3 * product:.2f} ms ({operations / product / 1e12:.3g} TFLOP/s)"
    copy = _seconds(lambda: other.copy_(out))
    return f"{said}; copying pre-activations {1e3 * copy:.2f} ms ({moved / copy / 1e9:,.0f} GB/s)"


def _seconds(work: Callable[[], object]) -> float:
    """The median of ten runs after two."""

    def once() -> float:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - started

    return statistics.median([once() for _ in range(12)][2:])


def compare(setting: Setting, activations: Activations | MadeActivations, measured: int, halves: bool) -> Iterator[str]:
    """Train all in turn over the same batches, of so many tokens; one line a trainer."""
    trainers = contestants(setting, activations.calibration, halves=halves)
    rounds: list[list[float]] = []
    for number, x in enumerate(activations.batches(setting.batch, measured)):
        times = dict[str, float]()
        for trainer in trainers[number % len(trainers) :] + trainers[: number % len(trainers)]:
            times[trainer.name] = timed(trainer, x)
        rounds.append([times[trainer.name] for trainer in trainers])
    rounds = rounds[WARM:]
    test = activations.calibration[:8192]
    for place, trainer in enumerate(trainers):
        speed = setting.batch / statistics.median(times[place] for times in rounds)
        quarters = statistics.quantiles((times[0] / times[place] for times in rounds), n=4)
        l0, dead = l0_and_dead(trainer, test)
        yield (
            f"| {setting.architecture} | {trainer.name} | {speed:,.0f} | {quarters[1]:.2f} ({quarters[0]:.2f}-"
            f"{quarters[2]:.2f}) | {explained_variance(trainer, test):.3f} | {l0:.1f} | {dead:.1%} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", type=Path, nargs="?", help="a finished activations artifact")
    parser.add_argument("--made", type=int, metavar="WIDTH", help="make activations of this width instead")
    parser.add_argument("--device", default="cpu", help="of all trainers")
    parser.add_argument("--d-sae", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--steps", type=int, help="stop after so many of the steps that the tokens would take")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--architectures", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--float32-only", action="store_true", help="for processors without bfloat16 products")
    arguments = parser.parse_args()
    halves, measured = not arguments.float32_only, arguments.tokens
    if arguments.steps:
        measured = min(measured, arguments.steps * arguments.batch)
    reuse_freed_memory()  # for all trainers, since they share the process
    if not arguments.activations and not arguments.made:
        parser.error("name an activations artifact, or a width with --made")
    made = arguments.made and MadeActivations(arguments.made, arguments.device)
    activations = made or Activations(arguments.activations, arguments.device)
    width = activations.calibration.shape[1]
    print(f"`python benchmarks/training_step.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    gpu = f"{torch.cuda.get_device_name()}, " if arguments.device == "cuda" else ""
    print(f"{gpu}{torch.get_num_threads()} threads of {os.cpu_count()} cores, torch {torch.__version__}; ", end="")
    print(f"d = {width}, d_sae = {arguments.d_sae}, batch {arguments.batch:,}, {measured:,} tokens, ", end="")
    print(f"lr {arguments.lr:g}.\n")
    print(ceilings(arguments.batch, width, arguments.d_sae, arguments.device) + ".\n")
    print(
        "| architecture | trainer | tokens/s | times SAELens (quartiles) | EV | L0 | dead |\n|" + 7 * "---|", flush=True
    )
    for architecture in arguments.architectures:
        setting = Setting(
            architecture,
            width,
            arguments.d_sae,
            arguments.batch,
            arguments.tokens,
            arguments.lr,
            device=arguments.device,
        )
        for line in compare(setting, activations, measured=measured, halves=halves):
            print(line, flush=True)


if __name__ == "__main__":
    main()
