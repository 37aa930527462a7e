"""How long a plan will take, from what finished artifacts of the nearest kind took. What was never measured is unknown.

An artifact's work is counted in a unit that its time is in proportion to (FLOPs, tokens, or itself), and a finished
one's `run.json` says how much of it a second did. Of several finished ones those count that are alike in what matters
most: the machine first.
"""

import json
import platform
import statistics
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from lmsae.artifacts.artifact import RUN, Artifacts, Spec
from lmsae.dictionary.config import DictionaryConfig
from lmsae.errors import ArtifactError
from lmsae.lm import ResolvedModel, read_config
from lmsae.planning.plan import token_counts
from lmsae.stages.activations import Capture, contexts_stored
from lmsae.stages.flops import dictionary_flops, forward_flops
from lmsae.stages.sites import inputs_from
from lmsae.text.packing import TokenizeConfig

Kind = tuple[Any, ...]
"""What makes two artifacts of a stage alike, from what matters most to what matters least."""
Specs = Callable[[str], Spec]
"""The spec of a reference."""


@dataclass(frozen=True, slots=True)
class Effort:
    """What the time of a stage depends on. `work` is None where it cannot be known yet, and `rate`, of the work of a
    whole pass, where a finished artifact does not say it."""

    work: "Callable[[Spec, Estimator], float | None]"
    rate: Callable[[Mapping[str, Any]], float | None]
    kind: Callable[[Spec, Specs], Kind] = lambda spec, specs: ()
    combine: Callable[[Sequence[float]], float] = sum
    """The work of several artifacts of one pass."""


@dataclass
class Estimator:
    """Foresees the time of passes on this machine."""

    artifacts: Artifacts
    device: str
    """`runtime.device`, as it is written."""
    specs: dict[str, Spec] = field(default_factory=dict)
    """Those that are known already, by reference; others are read from their artifacts."""
    _measured: dict[str, dict[Kind, list[float]]] = field(default_factory=dict)
    _rates: dict[tuple[str, Kind], float | None] = field(default_factory=dict)

    def seconds(self, stage: str, todo: Sequence[Spec]) -> float | None:
        """How long a pass will take that makes these artifacts; None where nobody knows yet."""
        effort = EFFORTS[stage]
        works = [effort.work(spec, self) for spec in todo]
        rates = [self._rate(stage, effort.kind(spec, self.spec)) for spec in todo]
        parts = [work / rate for work, rate in zip(works, rates, strict=True) if work is not None and rate]
        return effort.combine(parts) if len(parts) == len(todo) else None

    def spec(self, reference: str) -> Spec:
        """The spec of a reference, read once."""
        if reference not in self.specs:
            self.specs[reference] = self.artifacts[reference].spec()
        return self.specs[reference]

    def _rate(self, stage: str, kind: Kind) -> float | None:
        """Work a second, as the finished artifacts of the nearest kind did it: their median."""
        here = (platform.node(), self.device, *kind)
        if (stage, here) not in self._rates:
            if stage not in self._measured:
                self._measured[stage] = self._measure(stage)
            nearness = {found: [a == b for a, b in zip(found, here, strict=True)] for found in self._measured[stage]}
            nearest = max(nearness.values(), default=None)
            rates = [r for found, all_ in self._measured[stage].items() if nearness[found] == nearest for r in all_]
            self._rates[stage, here] = statistics.median(rates) if rates else None
        return self._rates[stage, here]

    def _measure(self, stage: str) -> dict[Kind, list[float]]:
        """The rates of a stage's finished artifacts, by where and what they are."""
        rates: dict[Kind, list[float]] = defaultdict(list)
        for path in (self.artifacts.root / stage).glob(f"*/{RUN}"):
            # An artifact that cannot be read tells nothing; whoever needs it says what is wrong with it.
            with suppress(ArtifactError, OSError, ValueError, KeyError):
                run = json.loads(path.read_text())
                kind = EFFORTS[stage].kind(self.spec(f"{stage}/{path.parent.name}"), self.spec)
                if rate := EFFORTS[stage].rate(run["facts"]):
                    rates[(run["host"], run["runtime"]["device"], *kind)].append(rate)
        return rates


def contexts_of(spec: Spec, estimator: Estimator) -> int | None:
    """How many contexts an activations artifact stores, at most; None if the text must be tokenized to know."""
    source = estimator.spec(spec.inputs["tokens"])
    counts = token_counts(source, estimator.artifacts)
    packing = TokenizeConfig.model_validate(source.config["packing"])
    contexts = counts["train_contexts"] if counts else packing.most_train_contexts
    if contexts is None:
        return None
    capture = Capture.model_validate({name: spec.config[name] for name in Capture.model_fields})
    return contexts_stored(capture, contexts, packing.calibration_contexts)


def _context_size(spec: Spec, estimator: Estimator) -> int:
    return estimator.spec(spec.inputs["tokens"]).config["packing"]["context_size"]


def _tokens_asked(spec: Spec, estimator: Estimator) -> float | None:
    del estimator
    return spec.config["packing"]["tokens"]


def _captured_flops(spec: Spec, estimator: Estimator) -> float | None:
    contexts, size = contexts_of(spec, estimator), _context_size(spec, estimator)
    config = read_config(ResolvedModel.model_validate(spec.config["model"]["source"]))
    a_token = forward_flops(config, size, [spec.config["hook_point"]])
    return None if contexts is None or a_token is None else contexts * size * a_token


def _step_flops(spec: Spec, estimator: Estimator) -> float | None:
    dictionary = DictionaryConfig.model_validate(spec.config["dictionary"])
    batch = spec.config["batch_size"]
    return dictionary_flops(dictionary, _context_size(spec, estimator)).step * (spec.config["tokens"] // batch) * batch


def _one(spec: Spec, estimator: Estimator) -> float:
    del spec, estimator
    return 1.0


def _a_second(facts: Mapping[str, Any]) -> float | None:
    return 1 / facts["seconds"] if facts.get("seconds") else None


def _text_kind(spec: Spec, specs: Specs) -> Kind:
    del specs
    return spec.config["tokenizer"]["name"], spec.config["dataset"]["name"]


def _model_kind(spec: Spec, specs: Specs) -> Kind:
    del specs
    model = spec.config["model"]
    return model["dtype"], model["backend"], model["source"]["name"], spec.config["dtype"], spec.config["source"]


def _train_kind(spec: Spec, specs: Specs) -> Kind:
    dictionary, stored = spec.config["dictionary"], inputs_from("activations", spec.inputs)
    return (
        specs(stored[0]).config["source"],
        spec.config["spliced"] is None,
        dictionary["geometry"]["kind"],
        dictionary["act_fn"]["kind"],
        spec.config["precision"],
        dictionary["d_sae"],
        tuple(dictionary["widths"]["reads"]),
    )


def _eval_kind(spec: Spec, specs: Specs) -> Kind:
    dictionary = specs(spec.inputs["dictionary"]).config["dictionary"]
    models = tuple(model["source"]["name"] for model in spec.config["models"])
    return models, dictionary["geometry"]["kind"], dictionary["d_sae"], dictionary["act_fn"]["kind"]


def _keyed(name: str) -> Callable[[Mapping[str, Any]], float | None]:
    return lambda facts: facts.get(name)


def _tokens_of_each(facts: Mapping[str, Any]) -> float | None:
    """Every dictionary of a pass is scored on all of its tokens."""
    return facts["tokens_per_second"] * facts["in_pass"] if "tokens_per_second" in facts else None


def _tokens_scored(spec: Spec, estimator: Estimator) -> float:
    del estimator
    return spec.config["tokens"]


EFFORTS: dict[str, Effort] = {
    "tokenize": Effort(_tokens_asked, _keyed("tokens_per_second"), _text_kind),
    # All hook points of a model are read in one pass, up to the last.
    "activations": Effort(_captured_flops, _keyed("flops_per_second"), _model_kind, max),
    "norm": Effort(_one, _a_second),
    "init": Effort(_one, _a_second),
    "train": Effort(_step_flops, _keyed("flops_per_second"), _train_kind),
    "eval": Effort(_tokens_scored, _tokens_of_each, _eval_kind),
    "report": Effort(_one, _a_second),
}


def spelled(seconds: float | None) -> str:
    """A duration for people: `~40 s`, `~12 min`, `~3.4 h`; empty for one that is not known."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"~{max(seconds, 1):.0f} s"
    return f"~{seconds / 60:.0f} min" if seconds < 5400 else f"~{seconds / 3600:.1f} h"
