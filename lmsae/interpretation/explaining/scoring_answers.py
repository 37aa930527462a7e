"""Explanations and their scores, from questions that are asked and answers that are read."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field

from lmsae.errors import EndpointError
from lmsae.interpretation.explaining.config import Scorer, Settings
from lmsae.interpretation.explaining.material import Material
from lmsae.interpretation.explaining.questions import (
    Labeled,
    Malformed,
    Messages,
    ask_explanation,
    ask_score,
    label_pieces,
    read_explanation,
    read_score,
)

Ask = Callable[[int, str, Messages], str]
"""Gives the text of the answer to a question about a latent, of a kind. Raises EndpointError."""
EXPLANATION = "explanation"


@dataclass(frozen=True, slots=True)
class Score:
    """The verdicts on pieces: how many were right of those where the latent is active, and of those where it is
    silent."""

    active: int = 0
    active_right: int = 0
    silent: int = 0
    silent_right: int = 0

    @property
    def balanced_accuracy(self) -> float | None:
        """The mean of the shares that are right of active and of silent pieces: 0.5 is what guessing gives. None if a
        kind of piece has no verdict."""
        if not (self.active and self.silent):
            return None
        return (self.active_right / self.active + self.silent_right / self.silent) / 2

    @classmethod
    def of(cls, verdicts: Sequence[tuple[bool, bool]]) -> "Score":
        """The score of verdicts, each with what would be right."""
        active = [said for said, is_active in verdicts if is_active]
        silent = [not said for said, is_active in verdicts if not is_active]
        return cls(len(active), sum(active), len(silent), sum(silent))


@dataclass
class Explained:
    """A latent's explanation, None if no answer could be read, and its scores by scorer."""

    latent: int
    explanation: str | None = None
    scores: dict[Scorer, Score] = field(default_factory=dict)
    malformed: int = 0
    """Answers that did not have the form that was asked for."""
    failure: EndpointError | None = None


def explain_all(
    materials: Sequence[Material], ask: Ask, settings: Settings, advance: Callable[[int], None] = lambda count: None
) -> list[Explained]:
    """Explain latents and score that, several at a time; in the order of the materials, whatever comes first.

    A latent whose questions get no answer costs no other its own: its failure is noted, unless no latent got one, which
    is raised. `advance` is told each latent that is done.
    """
    pool, stopped = ThreadPoolExecutor(settings.concurrency), threading.Event()

    def ask_on(latent: int, kind: str, messages: Messages) -> str:
        if stopped.is_set():
            raise EndpointError("the run was stopped")
        return ask(latent, kind, messages)

    try:
        jobs = {pool.submit(_explain, material, ask_on, settings): number for number, material in enumerate(materials)}
        done = dict[int, Explained]()
        for job in as_completed(jobs):
            done[jobs[job]] = one = job.result()
            advance(1)
            enough = len(done) >= min(settings.concurrency, len(materials))
            if one.failure and enough and all(other.failure for other in done.values()):
                raise one.failure
    finally:
        stopped.set()
        pool.shutdown(wait=True, cancel_futures=True)
    return [done[number] for number in sorted(done)]


def _explain(material: Material, ask: Ask, settings: Settings) -> Explained:
    explained = Explained(material.latent)
    try:
        try:
            explained.explanation = read_explanation(ask(material.latent, EXPLANATION, ask_explanation(material.shown)))
        except Malformed:
            explained.malformed += 1
            return explained
        for scorer in settings.scorers:
            verdicts = list(_verdicts(scorer, material, ask, settings, explained))
            explained.scores[scorer] = Score.of(verdicts)
    except EndpointError as error:
        explained.failure = error
    return explained


def _verdicts(
    scorer: Scorer, material: Material, ask: Ask, settings: Settings, explained: Explained
) -> Iterator[tuple[bool, bool]]:
    """The verdict of a scorer on each piece, and what would be right; a malformed answer counts, and gives none."""
    assert explained.explanation is not None
    for group in groups_of(label_pieces(scorer, material, settings.seed), settings.together):
        answer = ask(material.latent, scorer, ask_score(scorer, explained.explanation, [text for text, _ in group]))
        try:
            said = read_score(answer, len(group))
        except Malformed:
            explained.malformed += 1
            continue
        yield from zip(said, (truth for _, truth in group), strict=True)


def groups_of(labeled: Sequence[Labeled], together: int) -> list[Sequence[Labeled]]:
    """The pieces of each question."""
    return [labeled[begin : begin + together] for begin in range(0, len(labeled), together)]
