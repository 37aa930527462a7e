"""Diagnoses: a name for what is wrong with a dictionary, the numbers that say so, and what to change."""

from dataclasses import dataclass

METRICS, CURVES, SPEC = "metrics.json", "curves.csv", "spec.json of train"
"""The files that evidence comes from."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A number that speaks for a diagnosis: the file that it comes from, its name, its value, and what is healthy."""

    source: str
    name: str
    value: float
    healthy: str

    def __str__(self) -> str:
        return f"{self.name} is {self.value:.3g} (healthy: {self.healthy})"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """An illness in a word and in a sentence, its evidence, and what to change.

    `explains` names the metrics that are outside their ranges because of it: nothing more is said of those.
    """

    name: str
    meaning: str
    evidence: tuple[Evidence, ...]
    advice: str
    explains: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """The diagnosis in a line."""
        said = "; ".join(map(str, self.evidence))
        return f"{self.name.replace('_', ' ')}: {said}: {self.meaning}. {self.advice}"
