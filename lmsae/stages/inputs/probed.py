"""Probing: which dictionaries can be probed, the data sets that there are, and how the models read their texts."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lmsae.artifacts.artifact import Artifact
from lmsae.geometry.config import GeometryBase
from lmsae.lm.resolving import ResolvedModel
from lmsae.metrics.definitions import PROBES
from lmsae.runtime.runtime import Runtime
from lmsae.stages.stage import Job

if TYPE_CHECKING:
    from lmsae.evaluation.hooked import HookedDictionary
    from lmsae.evaluation.probes import TextEncoder
    from lmsae.evaluation.scores import Score
    from lmsae.lm.protocol import LanguageModel

PROBING = frozenset({"probes", "probes_k"})
"""The fields of an evaluation that nothing but the metric group of probes depends on."""
PACKAGE, INSTALL = "sae_probes", "pip install 'lmsae[probes]'"


def can_be_probed(geometry: GeometryBase) -> bool:
    """True if codes of a text's last token depend on nothing but its activation."""
    return geometry.grain == "token"


def known_datasets() -> frozenset[str] | None:
    """The names of the data sets of two classes that sae-probes ships, as columns have them: with _ for a space, which
    parts the names in a cell. None if it is not installed. It is not imported for that, nor is torch."""
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        return None
    from pyarrow import csv

    options = csv.ParseOptions(newlines_in_values=True)
    table = csv.read_csv(Path(found.origin).parent / "data/probing_datasets_MASTER.csv.zst", parse_options=options)
    files = zip(table["Data type"].to_pylist(), table["Dataset save name"].to_pylist(), strict=True)
    names = (Path(file).name.partition(".")[0] for kind, file in files if kind == "Binary Classification")
    return frozenset(name.replace(" ", "_") for name in names)


def text_encoder_for(tokens: Artifact, models: "Sequence[LanguageModel]", batch: int) -> "TextEncoder":
    """The way from texts to ids that tokenizing had: its tokenizer, with BOS in front if contexts begin with it."""
    from lmsae.evaluation.probes import MOST_TOKENS, TextEncoder
    from lmsae.lm import load_tokenizer
    from lmsae.text.encoding import Vocabulary

    config = tokens.spec().config
    tokenizer = load_tokenizer(ResolvedModel.model_validate(config["tokenizer"]))
    bos = Vocabulary.from_tokenizer(tokenizer).bos if config["packing"]["prepend_bos"] else None
    limits = [model.max_context for model in models if model.max_context is not None]
    return TextEncoder(tokenizer, bos, min([MOST_TOKENS, *limits]), batch)


def add_probes(
    jobs: Sequence[Job],
    hooked: "Sequence[HookedDictionary]",
    scores: "Sequence[Score | Exception]",
    models: "Sequence[LanguageModel]",
    runtime: Runtime,
) -> "list[Score | Exception]":
    """The scores of a pass of evaluations, with those of probes where they are wanted and nothing has failed."""
    from lmsae.evaluation.probes import Probed, score_probes
    from lmsae.runtime.progress import show_progress

    found = list(scores)
    wanted = {
        number: Probed(one, jobs[number].config.probes, jobs[number].config.probes_k)
        for number, one in enumerate(hooked)
        if PROBES.name in one.groups and not isinstance(found[number], Exception)
    }
    if not wanted:
        return found
    try:
        encoder = text_encoder_for(jobs[0].inputs["tokens"], models, jobs[0].config.batch_contexts)
        with show_progress("probes", unit="data set", total=None, runtime=runtime) as progress:
            probed = score_probes(models, list(wanted.values()), encoder, progress.advance)
    except Exception as error:
        probed = [error] * len(wanted)
    for number, one in zip(wanted, probed, strict=True):
        before = found[number]
        assert not isinstance(before, Exception), "those that failed are not probed"
        found[number] = one if isinstance(one, Exception) else before | one
    return found
