"""Knobs: the settings of a case's own row that move what is wrong with it, and which way to turn them.

Advice is a sentence. It names only what the row's parts and the plan take, and nothing that the row has already.
"""

import math
from collections.abc import Collection

from lmsae.health.case import Case
from lmsae.sparsity.capabilities import HasThreshold
from lmsae.sparsity.config import ACT_FNS

PENALTIES = ("l0", "l1", "lp", "p_anneal", "tanh", "tanh_quad")
SHRINKING = frozenset(PENALTIES) - {"l0"}
"""Penalties that grow with the size of a code, and so draw it towards 0."""
UNUSED = 0.95
"""The share of k below which tokens have no more latents to choose from, so that a larger k would change nothing."""
MANY_DEAD = 0.1
"""The share of dead latents above which more latents would be more dead ones."""
SPARSITY_SETTINGS = frozenset({"sae.k", "sae.target_l0"} | {f"sae.{loss}_coefficient" for loss in PENALTIES})


def denser(case: Case, times: float = 3) -> str:
    """A change that lets more latents be active: k times so much, a penalty divided by it."""
    return _sentence(_turn(case, times) or "let more latents be active")


def sparser(case: Case) -> str:
    """A change that lets a third as many latents be active."""
    return _sentence(_turn(case, 1 / 3) or "let fewer latents be active")


def complete(case: Case) -> str:
    """Changes after which a reconstruction misses less."""
    return _sentence(*_more(case))


def serve(case: Case) -> str:
    """Changes after which the model loses less with the reconstruction."""
    with_model = "" if case.reads_several_models else _use(case, "e2e_kl")
    return _sentence(*_more(case), with_model)


def keep_fewer(case: Case) -> str:
    """A change to the k that tokens have in fact."""
    k = case.dictionary["act_fn"]["k"]
    used = _possible_k(case, k * case.metric("l0_over_k"))
    return _sentence("raise train.tokens", f"lower sae.k from {k} to about {used}" if used < k else "")


def liven(case: Case, times: float) -> str:
    """Changes after which latents that few tokens reach die less: as `denser`, or a lower rate."""
    return _sentence(_turn(case, times) or "let more latents be active", _turn_rate(case, 1 / 3))


def change_rate(case: Case, factor: float) -> str:
    """A change of the learning rate by a factor."""
    return _sentence(_turn_rate(case, factor))


def revive(case: Case) -> str:
    """Changes that leave fewer latents dead: a loss from which dead latents learn, new starts for them, weaker
    penalties, a lower rate, fewer latents."""
    loss = "pre_act" if _has_threshold(case) else "aux_k"
    again = "set train.resample_steps" if can_resample(case) else ""
    weaker = _turn(case, 2, case.losses)
    return _sentence(_use(case, loss), again, weaker, _turn_rate(case, 1 / 3), _narrow(case))


def thin(case: Case) -> str:
    """Changes that let fewer latents fire often."""
    return _sentence(f"{_use(case, 'tanh_quad')}, which penalizes latents that fire often", _widen(case))


def lengthen(case: Case) -> str:
    """Changes after which reconstructions are as long as what they reconstruct."""
    bias = case.metric("relative_reconstruction_bias")
    if case.metric("l2_ratio") > 1:
        by_all = f"relative_reconstruction_bias, in which small activations weigh little, is {bias:.3g}"
        return _sentence(f"look for tokens of small norm ({by_all})", _turn_rate(case, 1 / 3))
    shrinking = SHRINKING & case.losses.keys()
    if case.training and not shrinking:
        return complete(case)
    weaker = _turn(case, 3, shrinking) or "lower the penalty"
    if _has_threshold(case):
        return _sentence(weaker, "take the loss l0, which shrinks no code")
    return _sentence(weaker, "take topk, batchtopk, gated or jumprelu, which shrink no code")


def can_resample(case: Case) -> bool:
    """True if the plan lets dead latents be resampled, and training did not."""
    training, geometry = case.training, case.dictionary.get("geometry", {})
    learns = all(training.get(f"{part}_lr_factor", 1) for part in ("encoder", "decoder", "bias"))
    is_apart = not (geometry.get("tied_encoder") or geometry.get("glu_encoder"))
    keeps_none = not ACT_FNS[case.act_fn].brings_bias and not _has_threshold(case) if case.act_fn else False
    is_free = training.get("decoder_min_cosine") is None and not training.get("resample_steps")
    return geometry.get("kind") == "sae" and learns and is_apart and keeps_none and is_free


def _has_threshold(case: Case) -> bool:
    return case.act_fn is not None and HasThreshold in ACT_FNS[case.act_fn].offers


def _use(case: Case, kind: str) -> str:
    """To add a loss; of one that is there, to raise its coefficient. Empty for AuxK that is at work: a dead latent has
    no other gradient, and Adam's step does not depend on the scale of one."""
    name = f"{kind}_coefficient"
    if kind not in case.losses:
        return f"add the loss {kind}"
    value = case.losses[kind][name]
    if kind == "aux_k":
        return "" if value else f"raise sae.{name} from 0 to about 0.03"
    return f"raise sae.{name} from {value:g} to about {float(f'{3 * value:.1g}'):g}"


def _turn_rate(case: Case, factor: float) -> str:
    change = f"{'raise' if factor > 1 else 'lower'} train.lr"
    rate = case.training.get("lr")
    if rate == "auto":
        return f"{change} from auto to about {factor:.2g} times that rate"
    return f"{change} from {rate:g} to about {float(f'{rate * factor:.1g}'):g}" if rate else change


def _more(case: Case) -> tuple[str, ...]:
    """To have more active latents, more latents, a higher rate or more text, whichever of them would change something:
    where many latents are dead, more would be dead, and a higher rate kills more."""
    is_used = not (case.chooses_k and case.metric("l0_over_k") < UNUSED)
    active = _turn(case, 2) or "let more latents be active"
    faster = "" if case.metric("dead_share") > MANY_DEAD else _turn_rate(case, 3)
    return (active if is_used else "", _widen(case), faster, "raise train.tokens")


def _widen(case: Case) -> str:
    return "" if case.metric("dead_share") > MANY_DEAD else "raise sae.d_sae"


def _narrow(case: Case) -> str:
    """To have as many latents as fire, if those are more than the width and than k."""
    latents = case.dictionary.get("d_sae", case.metric("d_sae"))
    alive = latents * (1 - case.metric("dead_share"))
    least = 0 if case.is_of_matrices else case.width or 0
    if alive > max(least, case.dictionary.get("act_fn", {}).get("k", 0)):
        return f"lower sae.d_sae from {latents:.0f} towards {alive:.0f}, as many as fire"
    return ""


def _turn(case: Case, times: float, losses: Collection[str] | None = None) -> str:
    """To change the wanted L0 by a factor, or penalties (of these losses, if they are named) against it; empty if there
    is nothing to change."""
    chosen = [loss for kind, loss in case.losses.items() if losses is None or kind in losses]
    parts = [*([case.dictionary.get("act_fn", {})] if losses is None else []), *chosen]
    found = {
        f"sae.{name}": value for part in parts for name, value in part.items() if f"sae.{name}" in SPARSITY_SETTINGS
    }
    said = []
    for name, value in found.items():
        wants_more = name in ("sae.k", "sae.target_l0")
        new = value * times if wants_more else value / times
        new = _possible_k(case, new) if name == "sae.k" else float(f"{new:.2g}")
        if new != value:
            said.append(f"{'raise' if new > value else 'lower'} {name} from {value:g} to about {new:g}")
    return " and ".join(said)


def _possible_k(case: Case, wanted: float) -> int:
    """The k nearest to the one wanted: at least 1, at most all latents, and a divisor of them for groupmax."""
    latents = case.dictionary["d_sae"]
    if case.act_fn == "groupmax":
        divisors = (k for k in range(1, latents + 1) if latents % k == 0)
        return min(divisors, key=lambda k: abs(math.log(k / wanted)))
    return min(latents, max(1, round(wanted)))


def _sentence(*choices: str) -> str:
    """The choices that are not empty, joined by `or`, with a capital."""
    *first, last = [choice for choice in choices if choice]
    said = f"{', '.join(first)}, or {last}" if first else last
    return said[0].upper() + said[1:]
