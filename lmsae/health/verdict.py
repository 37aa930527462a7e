"""The verdict on a dictionary: healthy, or what is wrong with it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from lmsae.health.case import Case
from lmsae.health.causes import CAUSES
from lmsae.health.config import Thresholds
from lmsae.health.diagnosis import METRICS, Diagnosis, Evidence
from lmsae.health.ranges import ranges
from lmsae.runtime.numbers import format_share

# A dictionary whose L0 is not its k is not the one that was asked for, healthy or not: so much is told.
MAX_OFF_K = 0.01


@dataclass(frozen=True, slots=True)
class Verdict:
    """The diagnoses of a dictionary, the metrics outside their ranges, and what else is to be known of it."""

    diagnoses: tuple[Diagnosis, ...]
    outside: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if it is healthy."""
        return not self.diagnoses

    @property
    def findings(self) -> tuple[str, ...]:
        """A line for each diagnosis and each remark."""
        return (*map(str, self.diagnoses), *self.remarks)


def examine(case: Case, limits: Thresholds) -> Verdict:
    """Judge a case. A metric outside its range that no cause explains is a diagnosis of its own, and so is one that was
    not measured: it counts as unhealthy."""
    found: dict[str, Diagnosis] = {}
    for cause in CAUSES:
        if cause.unless.isdisjoint(found):
            found |= {diagnosis.name: diagnosis for diagnosis in cause.find(case, limits)}
    explained = {metric for diagnosis in found.values() for metric in diagnosis.explains}
    if _is_short_of_variance(case, limits):
        explained.add("l2_ratio")
    wanted = [one for one in ranges(limits) if one.metric not in case.not_wanted]
    failed = [one for one in wanted if not one.holds(case.metric(one.metric))]
    for one in failed:
        value = case.metric(one.metric)
        if one.metric not in explained or math.isnan(value):
            evidence = (Evidence(METRICS, one.metric, value, one.text),)
            found[one.name] = Diagnosis(one.name, one.meaning, evidence, one.advise(case))
    return Verdict(tuple(found.values()), tuple(one.metric for one in failed), tuple(_remark_on_k(case)))


def _is_short_of_variance(case: Case, limits: Thresholds) -> bool:
    """True if reconstructions are short because they miss variance, and not because codes are drawn towards 0: longer
    ones would miss more. relative_reconstruction_bias is then near 1, and what is missing is told by itself."""
    bias = case.metric("relative_reconstruction_bias")
    misses = case.metric("explained_variance") < limits.min_explained_variance
    return misses and limits.min_l2_ratio <= bias <= limits.max_l2_ratio


def _remark_on_k(case: Case) -> Iterator[str]:
    share = case.metric("l0_over_k")
    if abs(share - 1) > MAX_OFF_K:
        direction = "above" if share > 1 else "below"
        yield f"l0 is {case.metric('l0'):.4g}, {format_share(abs(share - 1))} {direction} k"
