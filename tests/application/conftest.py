"""Dictionaries to apply: the rows of the finished miniature, and one of every geometry with random weights."""

import contextlib
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lmsae.application.loaded import LoadedDictionary
from lmsae.application.named import load
from lmsae.dictionary.dictionary import Dictionary
from lmsae.dictionary.normalizer import Scale
from tests.architectures import parts, randomize
from tests.conftest import made_once
from tests.miniature import HERE, PLACES, make_until, row_of, write_model, write_sweep

TEXT = "abc de fghij"
AT_HERE: dict[str, Any] = {"hook_point": HERE}
ELSEWHERE: dict[str, Any] = {
    name.removeprefix("sae."): value for name, value in PLACES["molt"].items() if "hook_point" in name
}
KINDS: Mapping[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "topk": ("topk", {}, AT_HERE),
    "by_token": ("topk", {"normalize_activations": "token"}, AT_HERE),
    "jumprelu": ("jumprelu", {"jumprelu_init_threshold": 0.3}, AT_HERE),
    "gated": ("gated", {"normalize_activations": "layer_norm"}, AT_HERE),
    "abstopk": ("abstopk", {}, AT_HERE),
    "transcoder": ("transcoder", {}, ELSEWHERE),
    "skip_transcoder": ("skip_transcoder", {}, ELSEWHERE),
    "crosscoder": ("crosscoder", {}, {"hook_point": PLACES["crosscoder"]["sae.hook_point"]}),
    "clt": ("clt", {}, {name.removeprefix("sae."): value for name, value in PLACES["clt"].items()}),
    "molt": ("molt", {}, ELSEWHERE),
    "lorsa": ("lorsa", {}, ELSEWHERE),
}
"""Of each kind its architecture, columns that matter, and where it reads and writes."""
ROWS_OF_GEOMETRIES = ["transcoder", "skip_transcoder", "crosscoder", "clt", "molt", "lorsa"]


@pytest.fixture
def here(finished: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished miniature as the working directory. Look, and do not touch: tests share it."""
    monkeypatch.chdir(finished)
    return finished


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of each kind, with random weights and units of its own."""
    root = tmp_path_factory.mktemp("dictionaries")
    for kind, (architecture, columns, _) in KINDS.items():
        made = randomize(Dictionary(parts(architecture, width=16, d_sae=64, **columns)[0]))
        for normalizer in (made.read, made.write):
            if isinstance(normalizer, Scale):
                normalizer.set([0.7] * len(normalizer.widths))
        (root / kind).mkdir()
        made.save(root / kind)
    return root


@pytest.fixture(params=KINDS)
def sae(request: pytest.FixtureRequest, folders: Path, here: Path) -> LoadedDictionary:
    """A dictionary of each kind in turn, at the miniature's model."""
    return at_model(folders, request.param)


def at_model(folders: Path, kind: str, **how: Any) -> LoadedDictionary:
    """The dictionary of a kind."""
    return load(folders / kind, model="model", device="cpu", **KINDS[kind][2], **how)


@pytest.fixture
def top(here: Path) -> LoadedDictionary:
    """The miniature's topk dictionary."""
    return load("top", device="cpu")


@pytest.fixture(scope="session")
def geometries(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with a row of every geometry, trained and evaluated, and a crosscoder of two models."""

    def make(folder: Path) -> None:
        shutil.copytree(pristine, folder, dirs_exist_ok=True)
        write_model(folder, "other", seed=1)
        of_both = {"name": "of-both", "sae.hook_point": HERE, "model.others": "other"}
        write_sweep(folder, [*map(row_of, ROWS_OF_GEOMETRIES), row_of("crosscoder", **of_both)])
        with contextlib.chdir(folder):
            make_until("eval")

    return made_once("geometries", tmp_path_factory, make)
