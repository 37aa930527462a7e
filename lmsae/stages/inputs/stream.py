"""The batches that a pass of trainings learns from: what the stores of its activations hold, in shuffled order."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch

from lmsae.stages.inputs.live import Live, live_captures
from lmsae.stages.inputs.stored import batch_of, open_stores
from lmsae.stages.inputs.usable import Usable
from lmsae.stages.models import LMConfig
from lmsae.stages.stage import Job
from lmsae.store.batches import ShuffledBatches
from lmsae.store.order import blocks_of
from lmsae.store.spilled import SpilledArray
from lmsae.store.stores import Stores
from lmsae.text.tokens import open_tokens
from lmsae.training.batch import Batch
from lmsae.training.objective import trains_on_contexts

if TYPE_CHECKING:
    from lmsae.lm.protocol import LanguageModel


class Stream:
    """The batches of a pass: activations in their shuffled order, those read and those written side by side."""

    source: "ShuffledBatches"

    def __init__(self, job: Job, models: "Mapping[LMConfig, LanguageModel]", *, with_ids: bool) -> None:
        config = job.config
        tokens = open_tokens(job.inputs["tokens"].path)
        self.context_size, self.batch_size = tokens.context_size, config.batch_size
        self._sites = config.sites
        stores, live = open_stores(job.inputs), live_captures(job.inputs)
        usable = Usable(tokens, [store.path for store in stores], config)
        self._usable = SpilledArray(blocks_of(usable), job.out)
        self._in_contexts = trains_on_contexts(config.dictionary.geometry, with_ids)
        ids = SpilledArray(blocks_of(tokens.train), job.out) if with_ids or live else None
        self._ids = ids if with_ids else None
        self.source = ShuffledBatches(
            Live(live, stores, ids, models) if live and ids else Stores(stores),
            self._usable,
            batch_size=config.batch_size,
            seed=config.seed,
            first=tokens.calibration_contexts,
            window_tokens=config.window_tokens,
            whole_contexts=self._in_contexts,
        )

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of steps `start_step` to `stop_step`, on the CPU."""
        for parts in self.source.batches(start_step, stop_step):
            if not self._in_contexts:
                yield batch_of(parts, self._sites)
                continue
            contexts = parts[-1].numpy()
            ids = None if self._ids is None else torch.from_numpy(self._ids[contexts].astype("int64"))
            yield batch_of(parts, self._sites, torch.from_numpy(self._usable[contexts]), ids)
