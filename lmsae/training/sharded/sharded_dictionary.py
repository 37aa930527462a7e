"""The shard of a dictionary: some of its latents, as a dictionary of their number in one of several processes."""

import torch
from torch import Tensor

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import LinearConfig
from lmsae.sparsity.config import BatchTopKConfig, TopKConfig
from lmsae.training.sharded.processes import Processes
from lmsae.training.sharded.sharded_linear import ShardedLinear
from lmsae.training.sharded.sharded_topk import ShardedBatchTopK, ShardedTopK

SELECTIONS = {"topk": ShardedTopK, "batchtopk": ShardedBatchTopK}


def build_shard(config: DictionaryConfig, processes: Processes) -> Dictionary:
    """The shard of a dictionary of this config that a process has, its parameters uninitialized (zeros).

    Its passes have the reconstruction, and select the codes, of the whole; `pre` and codes are those of its latents.
    """
    geometry, act_fn = config.geometry, config.act_fn
    assert isinstance(geometry, LinearConfig), "others are refused when they are planned"
    own = processes.latents(config.d_sae)
    shard = Dictionary(config.model_copy(update={"d_sae": own.stop - own.start}))
    shard.geometry = ShardedLinear(geometry, config.widths, shard.config.d_sae, not act_fn.brings_bias, processes)
    if isinstance(act_fn, TopKConfig | BatchTopKConfig):
        shard.sparsity = SELECTIONS[act_fn.kind](act_fn, config.d_sae, processes)
    return shard


def latent_dimensions(config: DictionaryConfig, shard: Dictionary) -> dict[str, int]:
    """The dimension that counts latents of each tensor of a dictionary's state that has one, by name."""
    with torch.device("meta"):  # shapes without memory
        whole = Dictionary(config).state_dict()
    pairs = [(name, part.shape, whole[name].shape) for name, part in shard.state_dict().items()]
    return {name: dim for name, own, all_ in pairs for dim in range(len(own)) if own[dim] != all_[dim]}


def take_stretch(whole: Tensor, dim: int, latents: slice) -> Tensor:
    """The latents of a stretch of a tensor, in memory of their own and in the order of memory that the whole has."""
    rows = whole.movedim(dim, 0)[latents]
    return rows.clone(memory_format=torch.contiguous_format).movedim(0, dim)
