"""The table of model families in docs/hook-points.md, written from the entries of families.py."""

from collections import defaultdict

from lmsae.lm.families import FAMILIES
from lmsae.lm.family import Family, ModelConfig

BEGIN, END = "<!-- families: written by `lmsae docs` -->", "<!-- end of families -->"
_VARIANTS: tuple[ModelConfig, ...] = (
    {},
    {"use_parallel_residual": False},
    {"parallel_attn": False},
    {"new_decoder_architecture": True},
)
"""Values of config.json that take hook points from a family, or give them to it."""


def with_table(page: str) -> str:
    """The page with the table of families as it should be, between its two marks."""
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n{family_table()}{END}{tail}"


def family_table() -> str:
    """A line for each shape of a layer: the families that have it, and the module and side of each hook point."""
    kinds = [kind for kind, where in FAMILIES["gpt2"].hook_points.items() if where.module]
    lines = [f"| `model_type` | layer | {' | '.join(f'`{kind}`' for kind in kinds)} |", "|---" * (len(kinds) + 2) + "|"]
    alike: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, family in FAMILIES.items():
        alike[f"`{family.layers}.{{i}}`", *(_cell(family, kind) for kind in kinds)].append(f"`{name}`")
    lines += [f"| {' '.join(names)} | {' | '.join(cells)} |" for cells, names in alike.items()]
    return "\n".join(lines) + "\n"


def _cell(family: Family, kind: str) -> str:
    where = family.hook_points[kind]
    is_there = any(kind not in family.missing(config) for config in _VARIANTS)
    return f"{where.side} of `{where.module}`" if is_there else "none"
