"""Checks of a row whose dictionary starts from a finished one."""

from collections.abc import Iterator

from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import Widths
from lmsae.initialization.blocks_of_latents import why_not_wider
from lmsae.initialization.config import InitConfig
from lmsae.interop.finished import Finished
from lmsae.planning.adopting import INIT_FROM, MAY_DIFFER, columns_of
from lmsae.planning.draft import Check, Refusal


def the_dictionary_can_go_on(start: Finished, dictionary: DictionaryConfig) -> Iterator[Refusal]:
    source, name = start.content.dictionary, start.name
    if source.widths != dictionary.widths:
        message = f"{name} reads and writes widths {_show(source.widths)}, and the hook points of this row have "
        yield Refusal(INIT_FROM, f"{message}{_show(dictionary.widths)}: name those of a model of that width")
        return
    here, there = columns_of(dictionary), columns_of(source)
    for column in sorted(here.keys() & there.keys() - MAY_DIFFER - {"sae.d_sae"}):
        if here[column] != there[column]:
            message = f"it is {here[column]} in this row, but {there[column]} in {name}, which the row starts from"
            yield Refusal(column, f"{message}. Leave the cell empty")
    if here.keys() ^ there.keys():
        return
    if dictionary.d_sae < source.d_sae:
        message = f"{name} has {source.d_sae:,} latents, and none can be left out; this row wants {dictionary.d_sae:,}"
        yield Refusal("sae.d_sae", message)
    elif why := why_not_wider(source, dictionary):
        yield Refusal(INIT_FROM, f"{name} cannot be made wider so: {why}")


def the_start_is_chosen_once(
    start: Finished, init: InitConfig, dictionary: DictionaryConfig, own_columns: frozenset[str]
) -> Iterator[Refusal]:
    if init.from_model:
        yield Refusal("init.from_model", f"the row starts from {start.name} (init.from): leave one of both empty")
    is_wider = dictionary.d_sae > start.content.dictionary.d_sae
    for column in sorted(name for name in own_columns if name.startswith("init.")):
        if column in (INIT_FROM, "init.from_model") or (is_wider and column != "init.b_dec"):
            continue
        message = f"changes nothing in this row: it starts from {start.name} (init.from) as that is"
        yield Refusal(column, f"{message}. Leave the cell empty", only_if_own=True)


def _show(widths: Widths) -> str:
    read, written = (" ".join(map(str, side)) for side in (widths.reads, widths.writes))
    return read if read == written else f"{read} -> {written}"


CHECKS: tuple[Check, ...] = (the_dictionary_can_go_on, the_start_is_chosen_once)
