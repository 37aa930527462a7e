"""Finished eval and train artifacts of tiny dictionaries, made by the classes that make real ones."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lmsae.artifacts.artifact import Artifact, Artifacts, Spec
from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.geometry.config import SAEConfig
from lmsae.metrics.formulas import density_histogram
from lmsae.report.writing import write_report
from lmsae.sparsity.config import TopKConfig
from lmsae.stages.report import Config, ReportRow

WIDTH, LATENTS = 4, 8
HEALTHY = {
    "explained_variance": 0.9,
    "ce_loss_score_mean": 0.95,
    "ce_loss_score_zero": 0.99,
    "ce_difference": 0.1,
    "dead": 0,
    "dead_share": 0.0,
    "dense_1e-1": 1,
    "l2_ratio": 0.97,
    "d_sae": LATENTS,
    "l0": 4.5,
}


_BINS: dict[str, Any] = {
    "metrics": {
        "tokens": [9, 10, 20],
        "explained_variance": [None, 0.8, 0.9],
        "l0": [None, 4.0, 5.0],
        "ce_difference": [0.3, 0.2, 0.1],
    },
    "standard_errors": {
        "explained_variance": [None, 0.02, 0.01],
        "l0": [None, 0.2, 0.1],
        "ce_difference": [0.03, 0.02, 0.01],
    },
}
BREAKDOWN: dict[str, Any] = {
    "position": {"from": [0, 1, 2], "to": [0, 1, 3], **_BINS},
    "token_frequency": {"from": [0.0, 0.01, 0.1], "to": [0.001, 0.02, 0.3], **_BINS},
}


class Sweep:
    """Artifacts of a sweep under a folder, and the rows of its report."""

    def __init__(self, root: Path) -> None:
        self.artifacts = Artifacts(root / "artifacts")
        self.rows: list[ReportRow] = []
        self.shared: dict[str, Any] = {}
        self.tokens = self._finished(
            "tokenize", {"dataset": {"name": "some-text"}, "packing": {"context_size": 16, "prepend_bos": True}}, {}
        )
        self.activations = self._finished(
            "activations",
            {"model": {"source": {"name": "tiny-lm"}}, "hook_point": "blocks.0.hook_resid_post"},
            {"tokens": self.tokens.reference},
        )

    def add(
        self, name: str, metrics: dict[str, float] | None = None, settings: dict[str, Any] | None = None
    ) -> ReportRow:
        """A row whose dictionary has been trained and evaluated."""
        usual = {"sae.architecture": "topk", "sae.k": "2", "sae.hook_point": "blocks.0.hook_resid_post"}
        settings = {**usual, **(settings or {})}
        inputs = {"tokens": self.tokens.reference, "activations": self.activations.reference}
        config = {"settings": settings, "name": name, "sites": {"reads": [0], "writes": [0]}}
        config |= {"objective": {"losses": []}}
        train = self._begun("train", config, inputs)
        _dictionary(settings["sae.k"] or 2).save(train.path)
        _write_curves(train.path / "curves.csv")
        train.publish({})
        scored = {"dictionary": train.reference, "tokens": self.tokens.reference}
        evaluation = self._begun("eval", {"metrics": str(metrics)}, scored)
        density = torch.linspace(0.01, 0.5, LATENTS)
        found = {**HEALTHY, **(metrics or {})}
        numbers = {name: value if math.isfinite(value) else None for name, value in found.items()}
        measured = {**numbers, "density_histogram": density_histogram(density)}
        (evaluation.path / "metrics.json").write_text(json.dumps(measured, indent=1))
        errors = dict.fromkeys(found.keys() - {"dead", "dead_share", "dense_1e-1", "d_sae"}, 0.01)
        (evaluation.path / "standard_errors.json").write_text(json.dumps(errors))
        (evaluation.path / "breakdown.json").write_text(json.dumps(BREAKDOWN))
        save_file({"density": density}, evaluation.path / "latents.safetensors")
        evaluation.publish({})
        made = (self.tokens, self.activations, train, evaluation)
        references = {artifact.path.parent.name: artifact.reference for artifact in made}
        self.rows.append(ReportRow(name=name, artifacts=references, settings=settings))
        return self.rows[-1]

    @property
    def inputs(self) -> dict[str, Artifact]:
        return {name: self.artifacts[reference] for name, reference in self._references().items()}

    @property
    def config(self) -> Config:
        """The report's: the rows so far, and what they share."""
        given = {name for row in self.rows for name in row.settings}
        return Config(rows=tuple(self.rows), shared=self.shared, given=tuple(sorted(given)))

    def report(self) -> Artifact:
        """The report of the rows so far, finished."""
        report = self._report("report")
        if not report.is_finished:
            write_report(self.config, self.inputs, report.path)
            report.publish({})
        return report

    def undrawn_report(self) -> Artifact:
        """A finished artifact with files like a report's, for those who only carry them about."""
        report = self._report("undrawn")
        if not report.is_finished:
            (report.path / "plots").mkdir()
            for name in ("table.csv", "report.html", "plots/pareto-1.svg"):
                (report.path / name).write_text(f"{name} of {report.reference}")
            report.publish({})
        return report

    def _report(self, kind: str) -> Artifact:
        rows = [row.model_dump(mode="json") for row in self.rows]
        return self._begun("report", {"kind": kind, "rows": rows}, self._references())

    def _references(self) -> dict[str, str]:
        """The references of the report's inputs."""
        return {f"{stage}/{row.name}": row.artifacts[stage] for row in self.rows for stage in ("eval", "train")}

    def _begun(self, stage: str, config: dict[str, Any], inputs: dict[str, str]) -> Artifact:
        return self.artifacts.add(Spec(stage=stage, version=1, config=config, inputs=inputs))

    def _finished(self, stage: str, config: dict[str, Any], inputs: dict[str, str]) -> Artifact:
        artifact = self._begun(stage, config, inputs)
        artifact.publish({})
        return artifact


def rich(root: Path) -> Sweep:
    """Two architectures at three sparsities, with two seeds, and a second hook point."""
    sweep = Sweep(root)
    for architecture in ("topk", "batchtopk"):
        for k in (2, 4, 8):
            for seed in (0, 1):
                better = 0.05 if architecture == "topk" else 0.0
                metrics = {"l0": k + 0.1 * seed, "explained_variance": 0.7 + better + 0.02 * k + 0.02 * seed}
                settings = {"sae.architecture": architecture, "sae.k": k, "train.seed": seed}
                sweep.add(f"{architecture}-{k}-{seed}", metrics, settings)
    sweep.add("elsewhere", settings={"sae.hook_point": "blocks.1.hook_resid_post", "train.seed": 0})
    return sweep


def _config(k: str | int) -> DictionaryConfig:
    sizes: dict[str, Any] = {"widths": {"reads": (WIDTH,), "writes": (WIDTH,)}, "d_sae": LATENTS}
    return DictionaryConfig(**sizes, geometry=SAEConfig(), act_fn=TopKConfig(k=int(k)))


def _dictionary(k: str | int) -> Dictionary:
    dictionary = Dictionary(_config(k))
    rows = torch.arange(LATENTS * WIDTH).view(LATENTS, WIDTH) / 10
    dictionary.load_state_dict({**dictionary.state_dict(), "geometry.W_dec": rows, "geometry.W_enc": rows.T})
    return dictionary


def _write_curves(path: Path, steps: Sequence[int] = range(5)) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["step", "tokens", "loss", "explained_variance", "l0", "dead", "lr"])
        writer.writerows([s, 100 * (s + 1), math.exp(-s), 1 - math.exp(-s), 8 - s, 0, 0.001] for s in steps)
