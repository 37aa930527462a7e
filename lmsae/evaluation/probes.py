"""Sparse probes: what a few latents tell of texts of known classes, by the data sets and the procedure of sae-probes.

The package (Kantamneni et al. 2025, arXiv 2502.16681) ships data sets of texts in two classes. Of each it chooses the k
latents whose mean codes differ most between the classes, and fits a logistic regression with an L1 penalty to them. It
asks a dictionary for nothing but `encode`, and takes activations from files that it finds in a folder: one row a text,
that of its last token. So it needs no model, and this module makes the files with ours.
"""

import contextlib
import io
import json
import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import SourceError
from lmsae.evaluation.hooked import HookedDictionary, HookPoint
from lmsae.evaluation.scores import Score
from lmsae.lm.protocol import LanguageModel

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

MOST_TEXTS = 5000
"""sae-probes takes no more of a data set."""
MOST_TOKENS = 1024
"""sae-probes cuts longer texts at the front."""
ALL = "all"
"""The name in `eval.probes` that stands for every data set."""
MODEL, PLACE = "lmsae", "reads"
"""The names of the model and the hook point in the names of the package's files; any will do."""


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """The way from texts to the token ids that the models read: ids of the tokenizer, BOS in front if there is one, the
    last tokens of a text that is too long, and so many texts in a forward pass."""

    tokenizer: "Tokenizer"
    bos: int | None
    most_tokens: int
    batch: int

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text. Raises SourceError for a text without any."""
        front = [] if self.bos is None else [self.bos]
        room = min(self.most_tokens, MOST_TOKENS) - len(front)
        encoded = self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        found = [front + list(ids)[-room:] for ids in encoded]
        if not all(found):
            raise SourceError(f"text {found.index([]) + 1} has no tokens to probe: set tokenize.prepend_bos to true")
        return found


@dataclass(frozen=True, slots=True)
class Probed:
    """A dictionary to be probed: on which data sets (`all`: on every one), and with how many latents."""

    hooked: HookedDictionary
    datasets: Sequence[str]
    ks: Sequence[int]


@torch.inference_mode()
def score_probes(
    models: Sequence[LanguageModel], wanted: Sequence[Probed], encoder: TextEncoder, advance: Callable[[int], None]
) -> list[Score | Exception]:
    """The score of each dictionary in the metric group `probes`, or the error that it met; the models read every text
    once for all. `advance` is told of each data set that a dictionary has done. Raises SourceError without sae-probes.
    """
    package = import_package()
    names = [list(_names(package, one.datasets)) for one in wanted]
    found: list[dict[int, list[float]]] = [{k: [] for k in one.ks} for one in wanted]
    errors: dict[int, Exception] = {}
    for name in dict.fromkeys(name for own in names for name in own):
        numbers = [number for number, own in enumerate(names) if name in own]
        needed = dict.fromkeys(point for number in numbers for point in wanted[number].hooked.reads)
        texts = package.utils_data.read_numbered_dataset_df(name)["prompt"].tolist()[:MOST_TEXTS]
        activations = read_last_tokens(models, list(needed), encoder.encode(texts), encoder.batch)
        for number in numbers:
            hooked = wanted[number].hooked
            x = torch.cat([activations[point] for point in hooked.reads], dim=1)
            try:
                aucs = probe(package, hooked.dictionary, x, name, wanted[number].ks)
            except Exception as error:
                errors.setdefault(number, error)
                continue
            finally:
                advance(1)
            for k, auc in aucs.items():
                found[number][k].append(auc)
    return [errors[number] if number in errors else _summarize(aucs) for number, aucs in enumerate(found)]


def _names(package: ModuleType, datasets: Sequence[str]) -> Iterator[str]:
    """The package's names of data sets, whose spaces columns write as _. Raises SourceError for one that it lacks."""
    there = {name.replace(" ", "_"): name for name in package.DATASETS}
    for name in there if ALL in datasets else datasets:
        if name not in there:
            raise SourceError(f"eval.probes: {name} is no data set of sae-probes {package.__version__}")
        yield there[name]


def import_package() -> ModuleType:
    """The package sae_probes. Raises SourceError if it is not there, or not with what it needs."""
    try:
        with warnings.catch_warnings(), _silence():
            return import_module("sae_probes")
    except ImportError as error:
        raise SourceError(
            f"eval.probes needs the package sae-probes: pip install 'lmsae[probes]', or leave it empty ({error})"
        ) from None


def probe(
    package: ModuleType, dictionary: Dictionary, x: Float[Tensor, "texts d_in"], dataset: str, ks: Sequence[int]
) -> dict[int, float]:
    """The AUC on the test half of a data set, by the number of latents. `x` has its texts' activations.

    The package reads its files with pickle allowed; it is given a folder that nobody else can have written.
    """
    with TemporaryDirectory(prefix="lmsae-probes-") as folder, warnings.catch_warnings(), _silence():
        warnings.simplefilter("ignore")  # of scikit-learn: a regression that has not converged, names of options
        cache = Path(folder) / f"model_activations_{MODEL}"
        cache.mkdir()
        torch.save(x.cpu(), cache / f"{dataset}_{PLACE}.pt")
        package.run_sae_evals(
            sae=_Encoder(dictionary),
            model_name=MODEL,
            hook_name=PLACE,
            reg_type="l1",
            setting="normal",
            ks=list(ks),
            results_path=folder,
            model_cache_path=folder,
            datasets=[dataset],
            device=str(x.device),
        )
        (written,) = Path(folder).glob(f"sae_probes_{MODEL}/**/*.json")
        return {result["k"]: result["test_auc"] for result in json.loads(written.read_text())}


def read_last_tokens(
    models: Sequence[LanguageModel], points: Sequence[HookPoint], ids: Sequence[Sequence[int]], batch: int
) -> dict[HookPoint, Float[Tensor, "texts width"]]:
    """The activations of each text's last token at hook points, in the order of the texts.

    Texts of about the same length share a pass, filled up behind their ends, where no earlier token sees it.
    """
    order = sorted(range(len(ids)), key=lambda number: -len(ids[number]))
    parts: dict[HookPoint, list[Tensor]] = {point: [] for point in points}
    for start in range(0, len(order), batch):
        texts = [ids[number] for number in order[start : start + batch]]
        rows, last = torch.arange(len(texts)), torch.tensor([len(text) - 1 for text in texts])
        filled = torch.nn.utils.rnn.pad_sequence([torch.tensor(text) for text in texts], batch_first=True)
        for model, names in _by_model(points).items():
            read = models[model].read(filled.to(models[model].device), names)
            for name in names:
                parts[HookPoint(model, name)].append(read[name][rows, last].float())
    back = torch.tensor(order).argsort()
    return {point: torch.cat(found)[back] for point, found in parts.items()}


def _by_model(points: Sequence[HookPoint]) -> Mapping[int, list[str]]:
    named: dict[int, list[str]] = {}
    for model, name in points:
        named.setdefault(model, []).append(name)
    return named


def _summarize(aucs: Mapping[int, Sequence[float]]) -> Score:
    metrics: dict[str, float] = {}
    for k, values in aucs.items():
        metrics[f"probe_auc[k={k}]"] = statistics.fmean(values)
        metrics[f"probe_auc_std[k={k}]"] = statistics.stdev(values) if len(values) > 1 else math.nan
        metrics["probe_datasets"] = len(values)
    return Score(metrics)


@dataclass(frozen=True, slots=True)
class _Encoder:
    """A dictionary as sae-probes wants one."""

    dictionary: Dictionary

    def encode(self, x: Float[Tensor, "texts d_in"]) -> Float[Tensor, "texts latents"]:
        """The codes of raw activations."""
        return self.dictionary.encode(x)


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Nothing that the package prints, progress bars too, reaches the terminal."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
