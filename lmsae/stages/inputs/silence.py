"""Pieces of the text that a dictionary's latents were described on, and which of some latents are silent there.

The stage `features` keeps text where latents fire. Where one is silent, nothing says, and a guess would be wrong for
latents that fire often. So the dictionary reads a few contexts again.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.interpretation.explaining.material import Piece
from lmsae.runtime.runtime import Runtime
from lmsae.stages import interpret
from lmsae.stages.models import LazyModels
from lmsae.stages.stage import Job


@dataclass(frozen=True, slots=True)
class Pool:
    """Pieces of text, and for each of them and of some latents whether the latent is silent in all of it (pieces,
    latents)."""

    pieces: Sequence[Piece]
    is_silent: np.ndarray

    def of(self, column: int) -> list[Piece]:
        """The pieces where a latent is silent, by its number among those that were looked at."""
        return [self.pieces[one] for one in np.flatnonzero(self.is_silent[:, column]).tolist()]


def gather_pool(
    described: Artifact,
    artifacts: Artifacts,
    runtime: Runtime,
    latents: Sequence[int],
    *,
    pieces: int,
    length: int,
    seed: int,
) -> Pool:
    """So many pieces of `length` tokens, from contexts and positions drawn by a seed, one from a context.

    Tokens that do not count take part in no piece's verdict, as in `features`. Raises MissingArtifact if the
    activations, the dictionary or the text of these features are no longer there.
    """
    import torch

    from lmsae.dictionary.dictionary import Dictionary
    from lmsae.stages.inputs.token_texts import read_texts
    from lmsae.stages.jobs.describing_jobs import join_reads, passages_of

    spec = described.spec()
    inputs = {name: artifacts[reference].require_intact() for name, reference in spec.inputs.items()}
    config = interpret.Config.model_validate(spec.config)
    job = Job(described.reference, config, inputs, described.path)
    passages = passages_of([job], LazyModels(config.models, runtime))
    dictionary = Dictionary.load(inputs["dictionary"].path).to(runtime.torch_device())
    draw, size = np.random.default_rng(seed), passages.ids.shape[1]
    length = min(length, size)
    chosen = np.sort(draw.permutation(len(passages.ids))[:pieces])
    starts = dict(zip(chosen.tolist(), draw.integers(0, size - length + 1, len(chosen)).tolist(), strict=True))
    ids, known = read_texts(config, passages.ids[chosen])
    table, index = known.in_contexts(ids)
    rows = {context: row for row, context in enumerate(chosen.tolist())}
    found, silent = dict[int, Piece](), dict[int, np.ndarray]()
    for passage in passages.read(chosen):
        x = join_reads(config, passage.activations, next(dictionary.parameters()).device)
        for number in (one for one in range(len(x)) if passage.first + one in starts):
            context = passage.first + number
            here = slice(starts[context], starts[context] + length)
            with torch.inference_mode():
                codes = dictionary.encode(x[number : number + 1])[0, here][:, list(latents)]
            counted = passage.counted[number][here].to(codes.device)
            silent[context] = ~((codes != 0) & counted[:, None]).any(0).cpu().numpy()
            texts = tuple(table[one] for one in index[rows[context], here])
            found[context] = Piece(passages.first_context + context, starts[context], texts)
    order = sorted(found)
    return Pool([found[one] for one in order], np.array([silent[one] for one in order]).reshape(-1, len(latents)))
