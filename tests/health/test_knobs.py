"""Advice names what the plan takes and what the row does not have, of every architecture."""

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmsae.errors import ConfigError
from lmsae.health import knobs
from lmsae.health.case import Case
from lmsae.losses import LOSSES
from lmsae.planning.catalog import CATALOG
from lmsae.planning.plan import plan_of
from tests.miniature import row_of, write_sweep

Advise = Callable[[Case], str]
KNOBS: tuple[Advise, ...] = (
    knobs.denser,
    knobs.sparser,
    knobs.complete,
    knobs.serve,
    knobs.revive,
    knobs.thin,
    knobs.lengthen,
)
METRICS = {"dead_share": 0.25, "d_sae": 64.0, "l2_ratio": 0.5, "relative_reconstruction_bias": 0.5}
FURTHER = {
    "top-all": row_of("topk", **{"sae.losses": "aux_k tanh_quad e2e_kl", "train.resample_steps": "0.25"})
    | {"sae.tanh_quad_coefficient": "0.1", "sae.e2e_kl_coefficient": "0.1"},
    "top-off": row_of("topk", **{"sae.aux_k_coefficient": "0"}),
    "top-most": row_of("topk", **{"sae.k": "60"}),
    "top-whole": row_of("topk", **{"sae.k": "64"}),
    "auto": row_of("topk", **{"train.lr": "auto"}),
    "frozen": row_of("standard", **{"train.bias_lr_factor": "0"}),
    "near": row_of("topk", **{"train.decoder_min_cosine": "0.9"}),
    "gate": row_of("topk", **{"sae.glu_encoder": "true"}),
    "target": row_of("jumprelu", **{"sae.losses": "target_l0 tanh", "sae.l0_coefficient": "", "sae.target_l0": "8"})
    | {"sae.target_l0_coefficient": "1", "sae.tanh_coefficient": "0.1"},
}
ROWS = {name: row_of(name) for name in CATALOG} | {name: row | {"name": name} for name, row in FURTHER.items()}


def plan(folder: Path, rows: list[dict[str, str]]) -> dict[str, dict[str, Any]]:
    """The configs of training that a sheet plans."""
    write_sweep(folder, rows)
    with contextlib.chdir(folder):
        planned, _ = plan_of(Path("config/config.yaml"), Path("config/sweep.tsv"), [], {})
    return {row.name: row.specs["train"].config for row in planned.rows}


@pytest.fixture(scope="module")
def folder(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the miniature, whose sheet these tests write anew."""
    return shutil.copytree(pristine, tmp_path_factory.mktemp("knobs") / "here")


@pytest.fixture(scope="module")
def cases(folder: Path) -> dict[str, Case]:
    """A case of every row, as it was planned. It has too many dead latents, and shrinks."""
    return {name: Case(METRICS, training=config) for name, config in plan(folder, [*ROWS.values()]).items()}


def cells(case: Case, advice: str) -> Iterator[dict[str, str]]:
    """What each choice of a piece of advice changes in a row. Every choice must be one of those that are known here."""
    clauses = re.split(r", or |, (?=add|raise|lower|set|take)", advice[0].lower() + advice[1:])
    for clause in clauses:
        if added := re.fullmatch(r"add the loss (\w+)(, which .*)?", clause):
            kind = added[1]
            assert kind not in case.losses
            needs = {name for name, info in LOSSES[kind].model_fields.items() if info.is_required()}
            yield {"sae.losses": " ".join([*case.losses, kind]), **{f"sae.{name}": "0.1" for name in needs}}
        elif rate := re.fullmatch(r"(raise|lower) train.lr from auto to about (\S+) times that rate", clause):
            assert case.training["lr"] == "auto"
            assert (float(rate[2]) > 1) == (rate[1] == "raise")
            yield {"train.lr": str(float(rate[2]) * 2e-4)}
        elif turned := re.fullmatch(r"((raise|lower) .* from .* to about .*?)(, which .*)?", clause):
            changes = [
                re.fullmatch(r"(raise|lower) (\S+) from (\S+) to about (\S+)", c) for c in turned[1].split(" and ")
            ]
            assert all(one and (float(one[4]) > float(one[3])) == (one[1] == "raise") for one in changes), clause
            yield {one[2]: one[4] for one in changes if one}
        elif clause == "set train.resample_steps":
            assert not case.training["resample_steps"]
            yield {"train.resample_steps": "0.25"}
        elif clause.startswith("lower sae.d_sae from 64 towards 48"):
            yield {"sae.d_sae": "48"}
        elif clause in ("raise sae.d_sae", "raise train.tokens"):
            yield {clause.removeprefix("raise "): "128" if "d_sae" in clause else "16384"}
        elif clause == "let more latents be active":
            assert case.dictionary["act_fn"].get("k") == 64
        else:
            assert re.fullmatch(r"take .*, which shrinks? no code", clause), clause
            assert case.act_fn not in clause.split() or "loss l0" in clause


@pytest.mark.parametrize("advise", KNOBS, ids=lambda advise: advise.__name__)
def test_the_plan_takes_every_change_that_is_advised(advise: Advise, cases: dict[str, Case], folder: Path) -> None:
    rows = [
        ROWS[name] | changed | {"name": f"{name}-{number}"}
        for name, case in cases.items()
        for number, changed in enumerate(cells(case, advise(case)))
    ]
    assert {row["name"].rpartition("-")[0] for row in rows} >= cases.keys() - {"top-whole"}
    assert len(plan(folder, rows)) == len(rows)


@pytest.mark.parametrize("name", ROWS)
def test_resampling_is_possible_where_the_plan_takes_it(name: str, cases: dict[str, Case], folder: Path) -> None:
    if ROWS[name].get("train.resample_steps"):
        assert not knobs.can_resample(cases[name])
    else:
        try:
            plan(folder, [ROWS[name] | {"train.resample_steps": "0.25"}])
        except ConfigError:
            assert not knobs.can_resample(cases[name])
        else:
            assert knobs.can_resample(cases[name])


RATE = "ower train.lr from 0.001 to about 0.0003"
WEAKER = "lower sae.{}_coefficient from 0.1 to about 0.05"
NARROW = "lower sae.d_sae from 64 towards 48, as many as fire"


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("standard", f"Add the loss aux_k, set train.resample_steps, {WEAKER.format('l1')}, l{RATE}, or {NARROW}"),
        ("topk", f"Set train.resample_steps, l{RATE}, or {NARROW}"),
        (
            "top-off",
            f"Raise sae.aux_k_coefficient from 0 to about 0.03, set train.resample_steps, l{RATE}, or {NARROW}",
        ),
        ("top-most", f"Set train.resample_steps, or l{RATE}"),
        ("top-all", f"L{WEAKER.format('tanh_quad')[1:]}, l{RATE}, or {NARROW}"),
        ("lorsa", f"L{RATE}, or {NARROW}"),
        ("jumprelu", f"Add the loss pre_act, {WEAKER.format('l0')}, l{RATE}, or {NARROW}"),
        (
            "clt",
            f"Raise sae.pre_act_coefficient from 3e-06 to about 9e-06, {WEAKER.format('tanh')}, l{RATE}, or {NARROW}",
        ),
    ],
)
def test_what_is_advised_against_dead_latents(name: str, advice: str, cases: dict[str, Case]) -> None:
    assert knobs.revive(cases[name]) == advice


def test_no_fewer_latents_are_advised_than_the_width(cases: dict[str, Case]) -> None:
    narrow = Case(METRICS | {"dead_share": 0.8}, training=cases["transcoder"].training)
    assert knobs.revive(narrow) == f"L{RATE}"


def test_a_k_that_is_advised_is_one_that_there_can_be(cases: dict[str, Case]) -> None:
    assert knobs.denser(cases["groupmax"]) == "Raise sae.k from 4 to about 16"
    assert knobs.denser(cases["top-most"]) == "Raise sae.k from 60 to about 64"
    assert knobs.denser(cases["top-whole"]) == "Let more latents be active"


def test_several_models_are_not_spliced_in_training(cases: dict[str, Case]) -> None:
    several = Case({**METRICS, "mse[blocks.0.hook_resid_post@1]": 1.0}, training=cases["crosscoder"].training)
    assert "e2e_kl" in knobs.serve(cases["crosscoder"])
    assert "e2e_kl" not in knobs.serve(several)
