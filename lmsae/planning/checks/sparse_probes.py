"""Checks of a row's probes: sae-probes is there and knows the data sets, and the dictionary can be probed."""

import difflib
from collections.abc import Iterator

from lmsae.dictionary.config import DictionaryConfig
from lmsae.lm.resolving import NoTokenizer, ResolvedModel, tokenizer_folder
from lmsae.planning.draft import Check, Refusal
from lmsae.stages.inputs.held_out import EvalSection
from lmsae.stages.inputs.probed import INSTALL, can_be_probed, known_datasets

PROBES, PROBES_K = "eval.probes", "eval.probes_k"


def probes_can_be_trained(eval: EvalSection) -> Iterator[Refusal]:
    if not eval.probes:
        message = "changes nothing in this row: it needs data sets in eval.probes. Leave the cell empty"
        yield Refusal(PROBES_K, message, only_if_own=True)
        return
    known = known_datasets()
    if known is None:
        yield Refusal(PROBES, f"it needs the package sae-probes, which is not installed: {INSTALL}, or leave it empty")
        return
    for name in eval.probes:
        if name not in known and name != "all":
            close = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.4)
            like = f": did you mean {' or '.join(close)}?" if close else f", which has {len(known)} of them"
            yield Refusal(PROBES, f"{name} is no data set of sae-probes{like}")


def the_dictionary_can_be_probed(eval: EvalSection, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    geometry = dictionary.geometry
    if eval.probes and not can_be_probed(geometry):
        message = f"a {geometry.kind} reads whole contexts, and sae-probes gives it the last token of each text alone"
        yield Refusal(PROBES, f"{message}: leave it empty", only_if_own=True)
        return
    latents = geometry.latents(dictionary.widths, dictionary.d_sae)
    if eval.probes and max(eval.probes_k) > latents:
        message = f"it is {max(eval.probes_k):,}, but there are only {latents:,} latents: lower it"
        yield Refusal(PROBES_K, message, depends_on_row=True)


def texts_can_be_read(eval: EvalSection, tokenizer: ResolvedModel) -> Iterator[Refusal]:
    if eval.probes:
        try:
            tokenizer_folder(tokenizer)
        except NoTokenizer as error:
            yield Refusal(PROBES, f"its texts need a tokenizer: {error}; or leave it empty")


CHECKS: tuple[Check, ...] = (probes_can_be_trained, the_dictionary_can_be_probed, texts_can_be_read)
