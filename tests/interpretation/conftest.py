"""A small text and small dictionaries of every geometry, described."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from lmsae.dictionary.dictionary import Dictionary
from lmsae.interpretation.attention import contexts_of, find_sources
from lmsae.interpretation.config import Shown
from lmsae.interpretation.context_text import ContextText
from lmsae.interpretation.describing import Subject, describe, find_top_slots
from lmsae.interpretation.firings import Firings
from lmsae.interpretation.gathering import gather_firings
from lmsae.interpretation.logits import LogitWay
from lmsae.interpretation.schema import CONTEXTS as CONTEXTS_FILE
from lmsae.interpretation.schema import LATENTS, Info
from lmsae.interpretation.texts import TokenTexts
from tests.architectures import parts, randomize

WIDTH, VOCABULARY, CONTEXTS, SIZE = 6, 23, 40, 12
SHOWN = Shown(
    top_contexts=5,
    quantiles=3,
    quantile_samples=2,
    tokens_before=4,
    tokens_after=2,
    histogram_bins=7,
    position_bins=5,
    top_tokens=4,
    logits=3,
    neighbors=4,
    companions=6,
    seed=3,
)


@dataclass(frozen=True)
class Described:
    """A dictionary, the text and its dense codes, and the folder of what was said about its latents."""

    dictionary: Dictionary
    text: ContextText
    shown: Shown
    codes: np.ndarray
    folder: Path
    info: Info
    x: torch.Tensor

    def latents(self) -> list[dict[str, Any]]:
        """The rows of `latents.parquet`."""
        return pq.read_table(self.folder / LATENTS).to_pylist()

    def contexts(self) -> list[dict[str, Any]]:
        """The rows of `contexts.parquet`."""
        return pq.read_table(self.folder / CONTEXTS_FILE).to_pylist()


def make_text(seed: int = 0) -> ContextText:
    """Random tokens, of which some do not count: those of position 0, and others here and there."""
    draw = np.random.default_rng(seed)
    counted = draw.random((CONTEXTS, SIZE)) > 0.15
    counted[:, 0] = False
    pieces = [f" w{number}".encode() for number in range(VOCABULARY)]
    ids = draw.integers(0, VOCABULARY, (CONTEXTS, SIZE)).astype(np.uint16)
    return ContextText(ids, counted, TokenTexts(pieces), first_context=7)


def make_dictionary(name: str, **columns: Any) -> Dictionary:
    """A dictionary with random weights, of which latent 0 never fires where codes are selected by their size."""
    config, _ = parts(name, WIDTH, **{"d_sae": 16, **columns})
    dictionary = randomize(Dictionary(config)).eval()
    with torch.no_grad():
        bias = getattr(dictionary.geometry, "b_enc", None)
        if bias is not None:
            bias[0] = -1e6
    return dictionary.requires_grad_(False)


def describe_in(
    folder: Path,
    dictionary: Dictionary,
    text: ContextText,
    shown: Shown = SHOWN,
    batches: tuple[int, ...] = (CONTEXTS,),
    way: LogitWay | str = "no model",
) -> Described:
    """Describe a dictionary from activations that are read so many contexts at a time."""
    reads = len(dictionary.config.widths.reads)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(CONTEXTS, SIZE, reads * WIDTH, generator=generator)
    counted = torch.from_numpy(text.counted)
    folder.mkdir(parents=True, exist_ok=True)
    with Firings(folder, dictionary.geometry.latents) as firings:
        start = 0
        for contexts in batches:
            here = slice(start, start + contexts)
            gather_firings(dictionary, x[here], counted[here], start * SIZE, firings)
            start += contexts
        assert start == CONTEXTS
        subject = Subject(dictionary, ["model"], [], [], "text", "train", way)
        sources = None
        if dictionary.config.geometry.kind == "lorsa":
            slots = find_top_slots(firings, text, shown)
            sources = find_sources(dictionary, slots, SIZE, ((c, x[c]) for c in contexts_of(slots, SIZE).tolist()))
        info = describe(subject, firings, text, shown, folder, sources=sources)
    with torch.inference_mode():
        codes = dictionary.encode(x).numpy()
    return Described(dictionary, text, shown, codes, folder, info, x)
