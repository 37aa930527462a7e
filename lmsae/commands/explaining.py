"""Explanations of latents as a command: what they would cost, and with leave the asking, the scores and the page."""

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from lmsae.artifacts.artifact import Artifact, Artifacts
from lmsae.artifacts.claim import hold_claim
from lmsae.commands.finding import find_described
from lmsae.errors import ConfigError, Fault, MissingArtifact, SourceError, describe_problem
from lmsae.interpretation.explaining.config import Settings, parse_latents
from lmsae.lm.resolving import ResolvedModel
from lmsae.runtime.drafts import name_draft
from lmsae.runtime.numbers import format_count
from lmsae.runtime.runtime import Runtime
from lmsae.runtime.version import __version__
from lmsae.vectors.sources import is_source

if TYPE_CHECKING:
    import pyarrow as pa

    from lmsae.interpretation.explaining.endpoint import Endpoint
    from lmsae.interpretation.explaining.ledger import Ledger
    from lmsae.interpretation.explaining.material import Material
    from lmsae.interpretation.explaining.scoring_answers import Explained

FLAGS = tuple(Settings.model_fields)
PAGE = "page"
LEAST_POOL = 200
"""Contexts that are looked at for pieces where latents are silent: each has one piece."""


def explain(
    name: str, flags: Mapping[str, Any], runtime: Runtime, *, is_asked: bool, say: Callable[[str], None]
) -> int:
    """Tell what explanations of the latents of a row would cost; if `is_asked`, ask for them and write them.

    They go to `explanations/<key of the features>/` among the results: each answer as it comes, then a table, its
    origin and a page. Answers that are there are not asked for again. Returns 0, or 1 if a latent got no answer. Raises
    ConfigError, MissingArtifact and EndpointError.
    """
    from lmsae.interpretation.explaining.ledger import Ledger
    from lmsae.interpretation.explaining.material import choose_latents, choose_material
    from lmsae.interpretation.explaining.on_disk import folder_of
    from lmsae.interpretation.explaining.price import estimate_price
    from lmsae.interpretation.explaining.questions import ask_explanation
    from lmsae.interpretation.opening import open_features

    settings, artifacts = read_settings(flags), Artifacts.of(runtime)
    artifact = Artifact(find_described(name, artifacts, runtime.results).resolve())
    if is_source(ResolvedModel.model_validate(artifact.spec().config["tokenizer"])):
        raise SourceError(
            f"{artifact.reference} is of own activations, which have no text to explain latents by: name their token "
            "ids (activations.token_ids) and a tokenizer (tokenize.tokenizer)"
        )
    described = open_features(artifact.path)
    try:
        latents = choose_latents(described, settings)
    except IndexError as error:
        raise ConfigError([Fault("the command line", None, "--latents", str(error))]) from None
    materials = [choose_material(described, latent, settings) for latent in latents]
    materials = [one for one in materials if one.shown]
    if not materials:
        raise MissingArtifact(f"none of these latents of {artifact.reference} ever fires: name others with --latents.")
    folder = folder_of(runtime.results, artifact.path.name)
    ledger = Ledger(folder, settings)
    there = sum(ledger.knows(ask_explanation(one.shown)) for one in materials)
    price = estimate_price(materials, settings)
    say(f"{len(materials):,} latents of {artifact.reference}, by {settings.model}: {price.tell(settings)}")
    if there:
        say(f"{there:,} of them have an answer already, which is not asked for again")
    if not is_asked:
        say("Nothing was asked. Add --yes to ask.")
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with hold_claim(folder):
        return _ask(materials, artifact, settings, runtime, folder, say)


def read_settings(flags: Mapping[str, Any]) -> Settings:
    """The settings of flags; those that are None have their default. Raises ConfigError with every fault."""
    given: dict[str, Any] = {name: value for name, value in flags.items() if value is not None}
    faults = []
    try:
        if "latents" in given:
            given["latents"] = parse_latents(given["latents"])
    except ValueError as error:
        faults.append(Fault("the command line", None, "--latents", str(error)))
        del given["latents"]
    if given.get("temperature") == "none":
        given["temperature"] = None
    if "none" in given.get("scorers", ()):
        given["scorers"] = ()
    try:
        settings = Settings.model_validate(given)
    except ValidationError as error:
        for problem in error.errors():
            flag = f"--{str(problem['loc'][0]).replace('_', '-')}"
            missing = problem["type"] == "missing"
            told = "is missing: nothing is asked without it" if missing else describe_problem(problem)
            faults.append(Fault("the command line", None, flag, told))
        raise ConfigError(faults) from None
    if faults:
        raise ConfigError(faults)
    return settings


def _ask(
    materials: "Sequence[Material]",
    artifact: Artifact,
    settings: Settings,
    runtime: Runtime,
    folder: Path,
    say: Callable[[str], None],
) -> int:
    """Ask all questions, and write what comes of the answers."""
    from lmsae.interpretation.explaining.endpoint import Endpoint
    from lmsae.interpretation.explaining.ledger import Ledger
    from lmsae.interpretation.explaining.on_disk import merge
    from lmsae.interpretation.explaining.scoring_answers import explain_all
    from lmsae.runtime.progress import show_progress

    materials = _with_silent(materials, artifact, settings, runtime)
    ledger, endpoint = Ledger(folder, settings), Endpoint(settings)
    answered, lock = dict[int, str](), threading.Lock()

    def ask(latent: int, kind: str, messages: list[dict[str, str]]) -> str:
        answer = ledger.ask(endpoint, latent, kind, messages)
        with lock:
            answered[latent] = max(answered.get(latent, ""), answer.answered)
        return answer.text

    with show_progress("explain", unit="latent", total=len(materials), runtime=runtime) as progress:
        explained = explain_all(materials, ask, settings, progress.advance)
    table = merge(folder, explained, settings, answered)
    _write_about(folder, artifact, settings)
    _write_page(artifact.path, folder, table)
    for line in _summary(explained, ledger, endpoint, settings):
        say(line)
    failed = [one for one in explained if one.failure]
    if failed:
        say(f"{len(failed)} latents got no answer: {failed[0].failure}")
    say(f"{folder / PAGE / 'index.html'} shows them, lmsae.features({artifact.path.name!r}) has them")
    return 1 if failed else 0


def _with_silent(
    materials: "Sequence[Material]", artifact: Artifact, settings: Settings, runtime: Runtime
) -> "Sequence[Material]":
    """The same materials with pieces where the latents are silent, which only scores need."""
    from lmsae.stages.inputs.silence import gather_pool

    if not settings.scorers:
        return materials
    length = max(len(piece.texts) for one in materials for piece in one.shown)
    pool = gather_pool(
        artifact,
        Artifacts.of(runtime),
        runtime,
        [one.latent for one in materials],
        pieces=max(LEAST_POOL, 4 * settings.scored),
        length=length,
        seed=settings.seed,
    )
    return [one.with_silent(pool.of(column), settings) for column, one in enumerate(materials)]


def _write_about(folder: Path, artifact: Artifact, settings: Settings) -> None:
    from lmsae.interpretation.explaining.on_disk import write_about
    from lmsae.interpretation.explaining.questions import VERSION

    about = {
        "features": artifact.reference,
        "settings": settings.model_dump(mode="json"),
        "questions": VERSION,
        "lmsae": __version__,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_about(folder, about)


def _write_page(measured: Path, folder: Path, table: "pa.Table") -> None:
    """Write the page anew, and put it in the place of the one that is there."""
    from lmsae.interpretation.rendering import write_page

    page, draft = folder / PAGE, name_draft(folder / PAGE)
    draft.mkdir()
    try:
        write_page(measured, draft, table)
        shutil.rmtree(page, ignore_errors=True)
        draft.replace(page)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _summary(explained: "Sequence[Explained]", ledger: "Ledger", endpoint: "Endpoint", settings: Settings) -> list[str]:
    """Lines on what came of the questions: explanations, mean scores, malformed answers, and what was paid now."""
    from lmsae.interpretation.explaining.price import format_money, money

    there = [one for one in explained if one.explanation is not None]
    lines = [f"{len(there):,} of {len(explained):,} latents are explained"]
    for scorer in settings.scorers:
        scores = [one.scores[scorer].balanced_accuracy for one in there if scorer in one.scores]
        known = [score for score in scores if score is not None]
        if known:
            lines.append(f"{scorer}: {sum(known) / len(known):.3f} balanced accuracy, mean of {len(known):,} latents")
        if len(known) < len(there):
            lines.append(f"{scorer}: {len(there) - len(known):,} latents have no score, for want of pieces or answers")
    if malformed := sum(one.malformed for one in explained):
        lines.append(f"{malformed:,} answers did not have the form that was asked for; they are left out")
    if endpoint.retried:
        lines.append(f"{len(endpoint.retried):,} requests were made again, the last because {endpoint.retried[-1]}")
    tokens_in = sum(answer.tokens_in or 0 for answer in ledger.new)
    tokens_out = sum(answer.tokens_out or 0 for answer in ledger.new)
    paid = money(tokens_in, tokens_out, settings)
    told = f", {format_money(paid)} at the prices given" if paid is not None else ""
    counted = f"{format_count(tokens_in)} tokens of questions, {format_count(tokens_out)} of answers"
    lines.append(f"asked {len(ledger.new):,} times now ({counted}{told}); all other answers were there")
    return lines
