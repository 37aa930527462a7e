"""The pages that dictionaries have at Weights & Biases: called by their rows, in groups by their sweeps."""

from collections.abc import Mapping, Sequence

from lmsae.artifacts.artifact import Artifacts
from lmsae.errors import LmsaeError
from lmsae.planning.sweeps import known_sweeps
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.version import __version__, commit
from lmsae.runtime.wandb_log import Page
from lmsae.stages import DICTIONARIES


def pages_of(references: Sequence[str], artifacts: Artifacts, runtime: Runtime) -> dict[str, Page]:
    """The pages of those artifacts that are dictionaries, and of the dictionaries that the others take; none while
    nothing is logged.

    A page shows the configs of all stages that its dictionary comes from. Several rows may want one dictionary: its
    page has all their names.
    """
    if runtime.wandb.mode == "off":
        return {}
    specs = [artifacts[reference].spec() for reference in references]
    wanted = dict.fromkeys(one for spec in specs for one in (spec.reference, *spec.inputs.values()))
    dictionaries = [one for one in wanted if one.partition("/")[0] in DICTIONARIES]
    sweeps = list(known_sweeps(artifacts)) if dictionaries else []
    pages = {}
    for reference in dictionaries:
        wanting = [(sweep, rows) for sweep in sweeps if (rows := sweep.names_of_rows(reference))]
        names = dict.fromkeys(row for _, rows in wanting for row in rows)
        groups = dict.fromkeys(sweep.origin.name for sweep, _ in wanting)
        config = {"lmsae": {"artifact": reference, "version": __version__, "commit": commit()}}
        try:
            config |= {one: artifacts[one].spec().config for one in artifacts.lineage(reference)}
        except LmsaeError:  # a spec of its lineage is gone: the page does without
            config |= {reference: artifacts[reference].spec().config}
        pages[reference] = Page(" ".join(names) or reference, " ".join(groups) or None, _by_stage(config))
    return pages


def _by_stage(config: Mapping[str, object]) -> dict[str, object]:
    """Configs by their stages rather than their references; of several of one stage, the others are numbered."""
    named: dict[str, object] = {}
    for reference, one in config.items():
        stage = reference.partition("/")[0]
        others = sum(name.partition(".")[0] == stage for name in named)
        named[f"{stage}.{others}" if others else stage] = one
    return named
