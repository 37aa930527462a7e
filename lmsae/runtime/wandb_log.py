"""Weights & Biases, for those who want their training curves and metrics there as well.

A dictionary has one page there. Its id comes from the dictionary's key, so that a run that is resumed, and an
evaluation that follows, go on in the same page.
"""

import configparser
import netrc
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lmsae.config import JsonObject
from lmsae.runtime.runtime import Runtime, Wandb

DEFAULT_HOST = "https://api.wandb.ai"


@dataclass(frozen=True, slots=True)
class Page:
    """The page of a dictionary: what it is called, the sweep that it belongs to, and what it shows as its config."""

    name: str
    group: str | None = None
    config: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """A histogram: counts in bins of equal width from `low` to `high`."""

    counts: Sequence[int]
    low: float
    high: float


_pages: ContextVar[Mapping[str, Page]] = ContextVar("pages", default={})  # noqa: B039 (nobody changes it)


@contextmanager
def with_pages(pages: Mapping[str, Page]) -> Iterator[None]:
    """Within the block dictionaries log to these pages, by reference; others are called by their reference.

    Stages know no rows, for what a stage cannot see cannot change its bytes. Whoever runs stages knows them.
    """
    token = _pages.set(pages)
    try:
        yield
    finally:
        _pages.reset(token)


def obstacle(wandb: Wandb) -> str | None:
    """The reason why nothing can be logged with these settings, with the mend; None if there is none."""
    if wandb.mode == "off":
        return None
    if find_spec("wandb") is None:
        return f"{wandb.mode} needs the package wandb: `pip install wandb`, or set it to off"
    if wandb.mode == "online" and not _has_key():
        return "online needs a login: `wandb login`, or set WANDB_API_KEY, or set it to offline and `wandb sync` later"
    return None


def _has_key() -> bool:
    """True if the client finds a key here: in the environment, or in the file that `wandb login` writes."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    files = [Path(os.environ["NETRC"])] if os.environ.get("NETRC") else [Path.home() / ".netrc", Path.home() / "_netrc"]
    for file in files:
        with suppress(OSError, netrc.NetrcParseError):
            if netrc.netrc(str(file)).authenticators(urlsplit(_base_url()).hostname or ""):
                return True
    return False


def _base_url() -> str:
    """The address of the server that the client talks to."""
    if url := os.environ.get("WANDB_BASE_URL"):
        return url
    own = Path(os.environ.get("WANDB_CONFIG_DIR", Path.home() / ".config" / "wandb")) / "settings"
    parser = configparser.ConfigParser(interpolation=None)
    with suppress(configparser.Error, OSError):
        parser.read([own, Path("wandb") / "settings"])
    return parser.get("default", "base_url", fallback=DEFAULT_HOST)


class CurvesLogger:
    """Sends curve points to one W&B run."""

    def __init__(self, name: str, config: JsonObject, runtime: Runtime) -> None:
        self._run = _open(name, config, runtime)

    def __call__(self, point: Mapping[str, float | Counts]) -> None:
        step = point["step"]
        assert isinstance(step, int | float)
        if step >= self._run.starting_step:  # a page that is resumed has the points before that
            self._run.log({name: _value(value) for name, value in point.items()}, step=int(step))

    def finish(self) -> None:
        """Send what is left, and close the run."""
        self._run.finish()


def curves_logger(name: str, config: JsonObject, runtime: Runtime) -> CurvesLogger | None:
    """The logger of one dictionary's curves, or None while `runtime.wandb.mode` is off."""
    return None if runtime.wandb.mode == "off" else CurvesLogger(name, config, runtime)


def log_evaluation(name: str, metrics: Mapping[str, float | Counts], steps: int | None, runtime: Runtime) -> None:
    """Send the metrics of a dictionary to its page: numbers to its summary, and histograms behind its curves, at the
    step after the last of `steps`; None where nobody has counted any.

    An evaluation that is on the disk does not fail for this: what goes wrong is printed.
    """
    if runtime.wandb.mode == "off":
        return
    try:
        run = _open(name, {}, runtime)
        if counts := {f"eval/{one}": _value(value) for one, value in metrics.items() if isinstance(value, Counts)}:
            run.log(counts, step=steps)  # offline, the client does not know where the curves ended
        run.summary.update({f"eval/{one}": value for one, value in metrics.items() if not isinstance(value, Counts)})
        run.finish()
    except Exception as error:
        print(f"{name}: its metrics were not sent to Weights & Biases ({error})", file=sys.stderr)


def _open(name: str, config: JsonObject, runtime: Runtime) -> Any:
    """The W&B run of a dictionary, opened again if it is there."""
    import wandb

    mode = runtime.wandb.mode
    assert mode != "off", "nobody logs then"
    page = _pages.get().get(name, Page(name, config={name.partition("/")[0]: config} if config else {}))
    return wandb.init(
        project=runtime.wandb.project,
        entity=runtime.wandb.entity,
        mode=mode,
        id=name.replace("/", "-"),
        resume="allow",
        name=page.name,
        group=page.group,
        config=page.config,
        reinit="create_new",
        settings=wandb.Settings(silent=True),
    )


def _value(value: float | Counts) -> Any:
    """A number as it is, and counts as the client wants a histogram."""
    if not isinstance(value, Counts):
        return value
    import numpy as np
    import wandb

    edges = np.linspace(value.low, value.high, len(value.counts) + 1)
    return wandb.Histogram(np_histogram=(np.asarray(value.counts), edges))
