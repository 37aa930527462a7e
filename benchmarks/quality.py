"""The quality of dictionaries at equal tokens and equal L0: lmsae, SAELens and dictionary_learning.

    python benchmarks/quality.py artifacts/activations/KEY --folder build/quality > benchmarks/results/WHEN-quality.md

All train on the same activations, in the same order, for the same tokens, with Adam and one schedule, each from its own
default start. Every finished dictionary is saved in its library's format, opened from there, and scored by lmsae: FVU
on held-out text, dead share, and what the language model loses with the reconstruction in place.

- topk, batchtopk and matryoshka have the wanted L0: the threshold of the last two is set on the calibration split, so
  that L0 there is k, for every library alike.
- standard, gated and jumprelu get the coefficient that brackets the wanted L0, found by a search, and the FVU there is
  interpolated in log L0 between the two nearest dictionaries.

Each library has a sweep of learning rates with the first seed. The best of them (lowest FVU) is trained again with the
other seeds. The table has mean and range over seeds. Finished dictionaries and scores stay in --folder, and a run that
was stopped goes on from there.
"""

import argparse
import contextlib
import io
import json
import math
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from trainers import COLUMNS, Schedule, Setting, Trainer, dictionary_learning, lmsae, saelens
from training_step import Activations

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.dictionary.dictionary import Dictionary
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.scoring import HeldOutText, score
from lmsae.interop import dictionary_learning as dictionary_learning_folder
from lmsae.interop.saelens import importing as saelens_folder
from lmsae.lm.protocol import LanguageModel
from lmsae.runtime.memory import reuse_freed_memory
from lmsae.runtime.runtime import Runtime
from lmsae.stages.activations import Config as CaptureConfig
from lmsae.text.tokens import open_tokens

LIBRARIES = ("lmsae", "SAELens", "dictionary_learning")
EXACT = ("topk", "batchtopk", "matryoshka")
"""The architectures whose L0 is set."""
SEARCHED = 7
"""The most dictionaries that a search for a coefficient trains."""


class Cell(NamedTuple):
    """One dictionary to train. The strength multiplies the library's own coefficient; it is 1 where L0 is set."""

    library: str
    architecture: str
    lr: float
    strength: float
    seed: int

    @property
    def folder(self) -> str:
        return f"{self.library}-{self.architecture}-{self.lr:g}-{self.strength:.4g}-{self.seed}"


@dataclass(frozen=True)
class Scored:
    """The scores of a dictionary, of one cell or interpolated between two."""

    fvu: float
    l0: float
    dead_share: float
    ce_difference: float
    seconds: float


class Study:
    """The activations, the text and the model, and what was found on them so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        self.activations = Activations(arguments.activations)
        store = Artifact(arguments.activations)
        tokens = open_tokens(Artifacts(arguments.activations.parent.parent)[store.spec().inputs["tokens"]].path)
        contexts = max(1, arguments.eval_tokens // tokens.context_size)
        self.text = HeldOutText(tokens.held_out, tokens.usable("held_out", slice(0, contexts)))
        capture = CaptureConfig.model_validate(store.spec().config)
        self.hook_point = HookPoint(0, capture.hook_point)
        self._capture, self._model = capture, None
        self.mean = self.activations.calibration.mean(0) / self.activations.scale
        self.width = len(self.mean)
        self.folder: Path = arguments.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._log = self.folder / "scores.jsonl"
        self._known: dict[Cell, Scored] = {}
        if self._log.exists():
            for line in self._log.read_text().splitlines():
                found = json.loads(line)
                self._known[Cell(**found["cell"])] = Scored(**found["score"])

    @property
    def model(self) -> LanguageModel:
        """The language model, loaded when it is first needed."""
        if self._model is None:
            self._model = self._capture.model.load(Runtime(progress=False, device="cpu"))
        return self._model

    def scores(self, cells: Sequence[Cell]) -> list[Scored]:
        """The scores of cells; those that are new are trained and then scored in one pass of the model."""
        new = [cell for cell in cells if cell not in self._known]
        trained = [self._train(cell) for cell in new]
        if new:
            found = score([self.model], [self._hooked(dictionary) for dictionary, _ in trained], self.text, 16, _ignore)
            for cell, one, (_, seconds) in zip(new, found, trained, strict=True):
                if isinstance(one, Exception):
                    raise one
                metrics = one.metrics
                self._known[cell] = Scored(
                    1 - metrics["explained_variance"],
                    metrics["l0"],
                    metrics["dead_share"],
                    metrics["ce_difference"],
                    seconds,
                )
                with self._log.open("a") as log:
                    log.write(json.dumps({"cell": cell._asdict(), "score": asdict(self._known[cell])}) + "\n")
        return [self._known[cell] for cell in cells]

    def _hooked(self, dictionary: Dictionary) -> HookedDictionary:
        groups = ("reconstruction", "sparsity", "model")
        at = [self.hook_point]
        mean_norm = math.sqrt(self.width) / self.activations.scale
        return HookedDictionary(dictionary, at, at, [self.mean], [mean_norm], groups)

    def _train(self, cell: Cell) -> tuple[Dictionary, float]:
        """The dictionary of a cell, which reads raw activations, and the seconds of its training steps."""
        folder, arguments = self.folder / cell.folder, self.arguments
        folder.mkdir(exist_ok=True)
        started = time.perf_counter()
        if not (folder / "finished").exists():
            setting = self._setting(cell)
            trainer = self._trainer(cell.library, setting)
            for x in self.activations.batches(arguments.batch, arguments.tokens, cell.seed):
                trainer.step(x)
            assert trainer.save
            trainer.save(folder)
            (folder / "finished").write_text(str(time.perf_counter() - started))
            print(f"trained {cell.folder}", file=sys.stderr, flush=True)
        return self._opened(cell, folder), float((folder / "finished").read_text())

    def _setting(self, cell: Cell) -> Setting:
        arguments = self.arguments
        steps = arguments.tokens // arguments.batch
        setting = Setting(
            cell.architecture,
            self.width,
            arguments.d_sae,
            arguments.batch,
            arguments.tokens,
            cell.lr,
            k=arguments.k,
            seed=cell.seed,
            dead_tokens=arguments.tokens // 5,
            schedule=Schedule(steps // 20, steps // 5, steps // 20),
        )
        if cell.library == "dictionary_learning" and cell.architecture == "jumprelu":
            return replace(setting, k=round(setting.k / cell.strength))  # its coefficient is the wanted L0
        return replace(setting, l1=setting.l1 * cell.strength, l0=setting.l0 * cell.strength)

    def _trainer(self, library: str, setting: Setting) -> Trainer:
        with contextlib.redirect_stdout(io.StringIO()):
            if library == "lmsae":
                return lmsae(setting, self.activations.calibration[:2048])
            return saelens(setting) if library == "SAELens" else dictionary_learning(setting)

    def _opened(self, cell: Cell, folder: Path) -> Dictionary:
        """A saved dictionary, in the units of raw activations, with L0 = k on the calibration split where L0 is set."""
        opened = {
            "lmsae": Dictionary.load,
            "SAELens": saelens_folder.load,
            "dictionary_learning": dictionary_learning_folder.load,
        }[cell.library](folder)
        if cell.architecture in ("batchtopk", "matryoshka"):
            set_l0(opened, self.activations.calibration, self.arguments.k)
        return on_raw_activations(opened, self.activations.scale)


def on_raw_activations(dictionary: Dictionary, scale: float) -> Dictionary:
    """The same dictionary, which multiplies raw activations by `scale` before it reads them."""
    config = dictionary.config.model_copy(update={"normalize_activations": "dataset"})
    scaled = Dictionary(config)
    scaled.load_state_dict({**scaled.state_dict(), **dictionary.state_dict()})
    for normalizer in (scaled.read, scaled.write):
        normalizer.scale.fill_(scale)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    return scaled.eval().requires_grad_(False)


@torch.no_grad()
def set_l0(dictionary: Dictionary, x: torch.Tensor, k: int) -> None:
    """Give all latents the threshold with which x (tokens, width) has k codes a token."""
    pre = dictionary.geometry.encode(x)
    if dictionary.config.sparsity_include_decoder_norm:
        pre = pre * dictionary.geometry.norms()
    level = pre.flatten().kthvalue(pre.numel() - k * len(x)).values
    state = dictionary.sparsity.state_dict()
    changed = {name: value for name, value in state.items() if "threshold" in name}
    for name, value in changed.items():
        value.fill_(1.0 if name == "threshold_weight" else math.log(level) if name == "log_threshold" else float(level))


def _ignore(tokens: int) -> None:
    del tokens


def at_l0(study: Study, library: str, architecture: str, lr: float, guess: float) -> tuple[Scored | None, list[Cell]]:
    """The score at the wanted L0 and the cells that it was read from; None where a search found no bracket."""
    wanted = float(study.arguments.k)
    if architecture in EXACT:
        cells = [Cell(library, architecture, lr, 1.0, 0)]
        return study.scores(cells)[0], cells
    found: dict[float, Scored] = {}
    strength = guess
    for _ in range(SEARCHED):
        found[strength] = study.scores([Cell(library, architecture, lr, strength, 0)])[0]
        above = [one for one in sorted(found) if found[one].l0 >= wanted]
        below = [one for one in sorted(found) if found[one].l0 < wanted]
        if above and below:
            low, high = above[-1], below[0]
            if high / low <= 2:
                cells = [Cell(library, architecture, lr, one, 0) for one in (low, high)]
                return between(found[low], found[high], wanted), cells
            strength = float(f"{math.sqrt(low * high):.4g}")
        else:
            strength = float(f"{strength * (1.6 if above else 1 / 1.6):.4g}")
    return None, []


def between(denser: Scored, sparser: Scored, l0: float) -> Scored:
    """The score at an L0 between two, linear in log L0."""
    share = math.log(denser.l0 / l0) / math.log(denser.l0 / sparser.l0)

    def mixed(name: str) -> float:
        return (1 - share) * getattr(denser, name) + share * getattr(sparser, name)

    return Scored(**{name: mixed(name) for name in ("fvu", "l0", "dead_share", "ce_difference", "seconds")})


def lines(study: Study, architecture: str) -> Iterator[str]:
    """The table's lines of an architecture, one a library."""
    arguments = study.arguments
    for library in arguments.libraries:
        by_lr: dict[float, tuple[Scored, list[Cell]]] = {}
        guess = 1.0
        for lr in arguments.lrs:
            scored, cells = at_l0(study, library, architecture, lr, guess)
            if scored:
                by_lr[lr], guess = (scored, cells), cells[0].strength
        if not by_lr:
            yield f"| {architecture} | {library} | none reached L0 {arguments.k} |" + 5 * " |"
            continue
        best = min(by_lr, key=lambda lr: by_lr[lr][0].fvu)
        first, cells = by_lr[best]
        seeds = [first]
        for seed in range(1, arguments.seeds):
            again = study.scores([cell._replace(seed=seed) for cell in cells])
            seeds.append(again[0] if len(again) == 1 else between(again[0], again[1], float(arguments.k)))
        sweep = ", ".join(f"{lr:g}: {scored.fvu:.3f}" for lr, (scored, _) in by_lr.items())
        values = [_spread([getattr(one, name) for one in seeds]) for name in ("fvu", "ce_difference")]
        dead = statistics.mean(one.dead_share for one in seeds)
        l0 = statistics.mean(one.l0 for one in seeds)
        yield f"| {architecture} | {library} | {best:g} | {' | '.join(values)} | {dead:.1%} | {l0:.1f} | {sweep} |"


def _spread(values: Sequence[float]) -> str:
    return f"{statistics.mean(values):.4f} ({min(values):.4f}-{max(values):.4f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("activations", type=Path, help="a finished activations artifact")
    parser.add_argument("--folder", type=Path, required=True, help="where dictionaries and scores stay")
    parser.add_argument("--d-sae", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=250_000)
    parser.add_argument("--eval-tokens", type=int, default=20_000)
    parser.add_argument("--k", type=int, default=32, help="the wanted L0")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--lrs", type=float, nargs="+", default=[1e-3, 3e-3, 6e-3, 1.5e-2])
    parser.add_argument("--architectures", nargs="+", default=list(COLUMNS), choices=list(COLUMNS))
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES, choices=LIBRARIES)
    parser.add_argument("--threads", type=int, help="of torch; all cores by default")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore")  # of the peers
    reuse_freed_memory()
    study = Study(arguments)
    print(f"`python benchmarks/quality.py`, {time.strftime('%Y-%m-%d')}, {platform.machine()}, ", end="")
    print(f"torch {torch.__version__}; {study.hook_point.name}, d = {study.width}, d_sae = {arguments.d_sae}, ", end="")
    print(
        f"batch {arguments.batch:,}, {arguments.tokens:,} tokens, L0 {arguments.k}, {arguments.seeds} seeds, ", end=""
    )
    print(f"{arguments.eval_tokens:,} held-out tokens.\n")
    print("| architecture | library | best lr | FVU (range) | CE difference (range) | dead | L0 | FVU by lr, seed 0 |")
    print("|" + 8 * "---|", flush=True)
    for architecture in arguments.architectures:
        for line in lines(study, architecture):
            print(line, flush=True)


if __name__ == "__main__":
    main()
