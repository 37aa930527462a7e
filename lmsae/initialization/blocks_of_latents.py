"""The blocks in which the latents of a dictionary stand, and a wider one's, which begin with them. No torch."""

from lmsae.dictionary.config import DictionaryConfig
from lmsae.geometry.config import LorsaConfig, MOLTConfig
from lmsae.sparsity.config import GroupMaxConfig


def blocks_of(dictionary: DictionaryConfig) -> list[int]:
    """The number of latents of each block: of each layer of a clt, QK head of a lorsa, rank of a molt or group of
    groupmax; all others have one block."""
    geometry, act_fn, d_sae = dictionary.geometry, dictionary.act_fn, dictionary.d_sae
    if isinstance(geometry, MOLTConfig):
        return [count for _, count in geometry.transforms(d_sae)]
    parts = 1
    if isinstance(geometry, LorsaConfig):
        parts = geometry.lorsa_qk_heads
    elif isinstance(act_fn, GroupMaxConfig):
        parts = act_fn.k
    layers = geometry.latents(dictionary.widths, d_sae) // d_sae
    return [d_sae // parts] * (parts * layers)


def why_not_wider(source: DictionaryConfig, wider: DictionaryConfig) -> str | None:
    """The reason why the latents of one dictionary cannot begin the blocks of another; None if they can."""
    geometry = source.geometry
    if isinstance(source.act_fn, GroupMaxConfig):
        if isinstance(geometry, LorsaConfig | MOLTConfig):
            return f"groupmax and a {geometry.kind} put latents in blocks of their own; keep sae.d_sae as it is there"
        if source.act_fn != wider.act_fn:
            return "groupmax with another k makes other groups; keep sae.k as it is there"
    old, new = blocks_of(source), blocks_of(wider)
    if len(old) != len(new) or any(ours < theirs for ours, theirs in zip(new, old, strict=True)):
        found = f"its latents stand in blocks of {_join(old)}, and here there would be {_join(new)}"
        return f"{found}; choose another sae.d_sae"
    return None


def _join(blocks: list[int]) -> str:
    return " ".join(map(str, blocks[:8])) + (" ..." if len(blocks) > 8 else "")
