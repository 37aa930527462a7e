"""Knobs: the settings by which dictionaries trade reconstruction for sparsity, and which way to turn a case's own."""

from lmsae.health.case import Case

PENALTIES = ("l0", "l1", "lp", "p_anneal", "tanh", "tanh_quad")
SPARSITY_SETTINGS = frozenset({"sae.k", "sae.target_l0"} | {f"sae.{loss}_coefficient" for loss in PENALTIES})


def denser(case: Case) -> str:
    """A change that lets more latents be active."""
    return _turn(case, 3) or "Let more latents be active"


def sparser(case: Case) -> str:
    """A change that lets fewer latents be active."""
    return _turn(case, 1 / 3) or "Let fewer latents be active"


def _turn(case: Case, times: float) -> str:
    """A sentence that changes the wanted L0 by a factor, or penalties against it; empty if there is none."""
    parts = [case.dictionary.get("act_fn", {}), *case.losses.values()]
    found = {
        f"sae.{name}": value for part in parts for name, value in part.items() if f"sae.{name}" in SPARSITY_SETTINGS
    }
    said = []
    for name, value in found.items():
        wants_more = name in ("sae.k", "sae.target_l0")
        new = value * times if wants_more else value / times
        new = max(1, round(new)) if name == "sae.k" else float(f"{new:.1g}")
        said.append(f"{'raise' if new > value else 'lower'} {name} from {value:g} to about {new:g}")
    return (" and ".join(said)).capitalize() if said else ""
