"""The command line. Every command answers `--help`; errors end it with exit code 2 and no traceback, or --trace."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, chdir, nullcontext
from pathlib import Path

from lmsae.artifacts.artifact import Artifacts
from lmsae.commands import flags
from lmsae.commands.formats import FORMATS
from lmsae.errors import BusyArtifact, ConfigError, Fault, LmsaeError, Unmade
from lmsae.health.config import PRESETS
from lmsae.runtime.memory import explain_no_memory
from lmsae.runtime.version import __version__
from lmsae.stages import STAGES

BUSY = 75
"""The exit code where another process is making an artifact, as sysexits.h has it for what may be tried again."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 `verify` found damage or `doctor` an unhealthy dictionary, 2 an
    error that the user can mend, 75 another process is making what this one was to make."""
    parsed = parser().parse_args(arguments)
    try:
        with _working_in(parsed):
            return parsed.command(parsed)
    except BrokenPipeError:  # `lmsae plan | head`: the reader has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        said = explain_no_memory(error, "this command", "end other programs")
        if not isinstance(said, LmsaeError | OSError):
            raise
        if parsed.trace:
            traceback.print_exc()
        print(f"lmsae {parsed.name}: {said}", file=sys.stderr)
        return _code_of(said)
    except KeyboardInterrupt:
        print(f"lmsae {parsed.name}: interrupted; run it again to go on", file=sys.stderr)
        return 130


def _code_of(error: LmsaeError | OSError) -> int:
    """The exit code of an error, or of all that failed."""
    failed = error.failures.values() if isinstance(error, Unmade) else (error,)
    return BUSY if all(isinstance(one, BusyArtifact) for one in failed) else 2


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    top = argparse.ArgumentParser(prog="lmsae", description="Sparse autoencoders as a workflow of artifacts.")
    top.add_argument("--version", action="version", version=f"lmsae {__version__}")
    commands = top.add_subparsers(title="commands", dest="name", required=True, metavar="COMMAND")

    plan = _command(commands, "plan", "rows x stages: what is done, what is to do, what is shared", _plan, sweep=True)
    plan.add_argument("--quiet", action="store_true", help="write the plan and print nothing")
    run = _command(commands, "run", "make everything that a sweep or one experiment file wants", _run, sweep=True)
    flags.add_name_of_plan(plan)
    for command in (plan, run):
        command.add_argument("names", nargs="*", metavar="FILE or ROW", help=flags.FILE_AND_ROWS)
    for stage in STAGES.values():
        command = _command(commands, stage.name, stage.help, _stage)
        command.add_argument(
            "keys", nargs="*", metavar="KEY or ROW", help="what to make; without any, that of the plan"
        )
        flags.add_name_of_plan(command)
        if stage.name == "eval":
            flags.add_choice_of_dictionary(command)
    show = _command(commands, "show", "an artifact's config, lineage, provenance and who wants it", _show, True)
    show.add_argument("key", help=f"the artifact: {flags.NAMES}")
    doctor = _command(commands, "doctor", "what is wrong with dictionaries, and what to change", _doctor, sweep=True)
    doctor.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{flags.NAMES}; all, or none, is every row of the sweep"
    )
    doctor.add_argument("--preset", choices=[*PRESETS], help="thresholds of health (default: doctor.preset)")
    flags.add_top(_command(commands, "top", "the strongest latents of a dictionary at each token of a text", _top))
    flags.add_steer(_command(commands, "steer", "what the model writes with latents added, clamped or ablated", _steer))
    verify = _command(commands, "verify", "recompute the digests of artifacts; name each damaged file", _verify)
    verify.add_argument("keys", nargs="*", metavar="KEY or ROW", help="what to verify; without any, all artifacts")
    convert = _command(commands, "convert", "a trained dictionary of the topk family -> jumprelu", _convert, True)
    convert.add_argument("key", help=f"the train artifact: {flags.NAMES}")
    convert.add_argument("folder", type=Path, help="where to write the dictionary, as lmsae and as SAELens read it")
    _add_export(commands)
    flags.add_push(_command(commands, "push", "dictionaries -> a repository of the Hugging Face hub", _push, True))
    flags.add_pull(_command(commands, "pull", "dictionaries of a repository on the hub -> a folder", _pull))
    flags.add_transfer(
        _command(commands, "upload", "artifacts -> a folder at a URL, such as on S3", _upload), sends=True
    )
    flags.add_transfer(
        _command(
            commands, "download", "artifacts that the sweep wants, from a URL that upload filled", _download, True
        ),
        sends=False,
    )
    flags.add_explain(
        _command(commands, "explain", "latents -> explanations by a language model, and scores", _explain)
    )
    _command(commands, "du", "bytes of artifacts by stage, row and age, and what is half made", _du)
    flags.add_gc(
        _command(commands, "gc", "artifacts that no sweep wants (listed, and with --delete removed)", _gc, True)
    )
    new = _command(commands, "new", "a small project in an empty folder, for every engine", _new)
    new.add_argument("project", type=Path, metavar="DIR", help="an empty folder, or one that is not there yet")
    docs = _command(commands, "docs", "write config/README.md and the JSON schema for editors", _docs)
    docs.add_argument("--check", action="store_true", help="only say whether they are up to date")
    return top


def _add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command `export`, with a command of its own for each format."""
    text = "finished dictionaries in the formats of other tools"
    export = commands.add_parser("export", help=text, description=text)
    formats = export.add_subparsers(title="formats", dest="format", required=True, metavar="FORMAT")
    for name, known in FORMATS.items():
        one = _command(formats, name, known.help, _export, sweep=True)
        one.add_argument("names", nargs="+", metavar="ROW", help="rows' names (their dictionaries), or keys")
        one.add_argument("folder", type=Path, metavar="FOLDER", help="a new folder; it appears when all is written")
        for flag, described in known.flags.items():
            one.add_argument(flag, **described)


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    text: str,
    function: Callable[[argparse.Namespace], int],
    sweep: bool = False,
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(command=function)
    flags.add_common(command, sweep=sweep)
    return command


def _runtime(arguments: argparse.Namespace):
    from lmsae.planning.sheet import read_runtime

    faults = []
    runtime = read_runtime(arguments.config, _flags(arguments), faults)
    if faults:
        raise ConfigError(faults)
    return runtime


def _flags(arguments: argparse.Namespace) -> dict[str, object]:
    names = ("artifacts", "results", "device", "threads", "wait")
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def _working_in(arguments: argparse.Namespace) -> AbstractContextManager[object]:
    """The folder of the project that a command works in."""
    folder: Path | None = arguments.home
    if folder is None:
        return nullcontext()
    if not folder.is_dir():
        message = f"there is no such folder (looked in {Path.cwd()}); `lmsae new {folder}` makes a project there"
        raise ConfigError([Fault("--folder", None, str(folder), message)])
    return chdir(folder)


def _experiment_and_rows(names: Sequence[str]) -> tuple[Path | None, Sequence[str]]:
    """The file of an experiment among some names, which is the first if there is one, and the names of rows."""
    from lmsae.planning.config_file import SUFFIXES

    is_file = bool(names) and Path(names[0]).suffix in SUFFIXES
    return (Path(names[0]), names[1:]) if is_file else (None, names)


def _make_plan(arguments: argparse.Namespace, experiment: Path | None = None):
    from lmsae.planning.plan import plan_of

    if experiment:
        return plan_of(experiment, None, arguments.set, _flags(arguments))
    sheet = arguments.sweep or arguments.config.with_name("sweep.tsv")
    return plan_of(arguments.config, sheet, arguments.set, _flags(arguments))


def _plan_if_faultless(arguments: argparse.Namespace):
    """The plan, made when it is first asked for, or None if the sheet has faults."""
    from functools import cache

    from lmsae.commands.finding import plan_if_faultless

    return cache(lambda: plan_if_faultless(lambda: _make_plan(arguments)[0]))


def _plan(arguments: argparse.Namespace) -> int:
    from lmsae.planning.overview import overview

    experiment, rows = _experiment_and_rows(arguments.names)
    plan, runtime = _make_plan(arguments, experiment)
    chosen, artifacts = plan.choose(rows), Artifacts.of(runtime)
    if not experiment:  # the plan on disk is the sweep's, not an experiment's
        plan.write(artifacts, runtime.together, arguments.plan or "")
    if not arguments.quiet:
        print(overview(chosen, artifacts, runtime))
    return 0


def _run(arguments: argparse.Namespace) -> int:
    from lmsae.commands.running import run_plan

    experiment, rows = _experiment_and_rows(arguments.names)
    plan, runtime = _make_plan(arguments, experiment)
    chosen = plan.choose(rows)
    if not experiment:
        plan.write(Artifacts.of(runtime), runtime.together)
    run_plan(chosen, runtime, say=_say, show=print)
    if rows:
        _say(f"report: not made of some rows; `lmsae run{f' {experiment}' if experiment else ''}` makes it of all")
    return 0


def _stage(arguments: argparse.Namespace) -> int:
    from lmsae.commands.running import run_stage

    if arguments.name == "eval" and (arguments.dictionary or arguments.model or arguments.dataset):
        return _evaluate(arguments)
    where = {"results": arguments.results, "plan": arguments.plan or ""}
    run_stage(arguments.name, arguments.keys, _runtime(arguments), _say, print, **where)
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    from lmsae.commands.evaluating import FLAGS, evaluate

    chosen = {flag: getattr(arguments, flag) for flag in FLAGS}
    evaluate(chosen, arguments.config, arguments.set, _flags(arguments), say=_say, show=print)
    return 0


def _say(line: str) -> None:
    """Tell how the work goes, apart from what a command answers."""
    print(line, file=sys.stderr)


def _find(arguments: argparse.Namespace):
    """The artifact that the user names, where it lies, and the plan if the sheet is faultless."""
    from lmsae.commands.finding import find_artifact

    runtime = _runtime(arguments)
    artifacts = Artifacts.of(runtime)
    plan = _plan_if_faultless(arguments)
    return find_artifact(arguments.key, artifacts, runtime.results, plan), artifacts, plan


def _show(arguments: argparse.Namespace) -> int:
    from lmsae.planning.overview import describe

    artifact, artifacts, plan = _find(arguments)
    print(describe(artifact, plan(), artifacts))
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from lmsae.commands.doctoring import doctor

    runtime = _runtime(arguments)
    own = [text for text in arguments.set if text.startswith("doctor.")]
    own += [f"doctor.preset={arguments.preset}"] if arguments.preset else []
    plan = _plan_if_faultless(arguments)
    return doctor(arguments.names, plan, Artifacts.of(runtime), runtime.results, own, say=print)


def _load(arguments: argparse.Namespace):
    from lmsae.application.named import load

    runtime = _runtime(arguments)
    chosen = {"model": arguments.model, "hook_point": arguments.hook_point, "device": runtime.device}
    where = {"artifacts": runtime.artifacts, "also_look_in": runtime.also_look_in, "results": runtime.results}
    return load(arguments.dictionary, **where, **chosen)


def _top(arguments: argparse.Namespace) -> int:
    from lmsae.application.strongest import top_latents

    found = top_latents(_load(arguments), arguments.text, arguments.count)
    print(json.dumps(found.to_dicts(), ensure_ascii=False) if arguments.json else found)
    return 0


def _steer(arguments: argparse.Namespace) -> int:
    from lmsae.application.edits import parse_edits

    add, clamp = parse_edits(arguments.edits)  # before the model is loaded
    sae = _load(arguments)
    how = {name: getattr(arguments, name) for name in ("max_new_tokens", "temperature", "seed")}
    steered, plain = (sae.generate(arguments.prompt, **edits, **how) for edits in ({"add": add, "clamp": clamp}, {}))
    print(f"as it is: {plain}\nsteered:  {steered}")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from lmsae.commands.verifying import verify

    return verify(Artifacts.of(_runtime(arguments)), arguments.keys, say=print)


def _convert(arguments: argparse.Namespace) -> int:
    from lmsae.commands.converting import convert

    artifact, artifacts, _ = _find(arguments)
    convert(artifact, artifacts, arguments.folder, say=print)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from lmsae.commands import giving
    from lmsae.commands.subjects import Subject

    runtime = _runtime(arguments)
    artifacts, plan = Artifacts.of(runtime), _plan_if_faultless(arguments)
    subjects = [Subject.find(name, artifacts, runtime.results, plan) for name in dict.fromkeys(arguments.names)]
    write = getattr(giving, f"export_{arguments.format.replace('-', '_')}")
    write(subjects, arguments.folder, say=print, **FORMATS[arguments.format].options(vars(arguments)))
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from lmsae.commands.pushing import Destination, push
    from lmsae.runtime.repository import Repository

    runtime = _runtime(arguments)
    ids = {}
    for text in arguments.neuronpedia_id:
        row, is_named, own = text.rpartition("=")
        ids[row if is_named else arguments.names[0]] = own
    to = Destination(
        Repository(arguments.repository, arguments.revision), arguments.private, arguments.license, neuronpedia_ids=ids
    )
    plan = _plan_if_faultless(arguments)
    artifacts, dry_run = Artifacts.of(runtime), arguments.dry_run
    return push(arguments.names, to, plan, artifacts, runtime.results, dry_run=dry_run, say=print)


def _pull(arguments: argparse.Namespace) -> int:
    from lmsae.commands.pulling import pull

    artifacts = Artifacts.of(_runtime(arguments))
    pull(arguments.place, arguments.folder, artifacts, restore=arguments.restore, say=print)
    return 0


def _upload(arguments: argparse.Namespace) -> int:
    from lmsae.commands.transferring import upload

    artifacts = Artifacts.of(_runtime(arguments))
    upload(arguments.url, arguments.names, arguments.stage, artifacts, dry_run=arguments.dry_run, say=print)
    return 0


def _download(arguments: argparse.Namespace) -> int:
    from functools import cache

    from lmsae.commands.transferring import download

    runtime, plan = _runtime(arguments), cache(lambda: _make_plan(arguments)[0])
    how = {"wait": runtime.wait, "say": print}
    download(arguments.url, arguments.names, arguments.stage, plan, Artifacts.of(runtime), **how)
    return 0


def _explain(arguments: argparse.Namespace) -> int:
    from lmsae.commands.explaining import FLAGS, explain

    flags = {name: getattr(arguments, name) for name in FLAGS}
    return explain(arguments.name_of_row, flags, _runtime(arguments), is_asked=arguments.yes, say=print)


def _du(arguments: argparse.Namespace) -> int:
    from lmsae.commands.weighing import show_usage

    show_usage(Artifacts.of(_runtime(arguments)), say=print)
    return 0


def _gc(arguments: argparse.Namespace) -> int:
    from lmsae.commands.collecting import Limits, collect

    plan, runtime = _make_plan(arguments)
    how = {"delete": arguments.delete, "states": arguments.states, "forget": arguments.forget}
    limits = Limits(arguments.older_than, arguments.larger_than, arguments.down_to)
    collect(plan, Artifacts.of(runtime), say=print, limits=limits, **how)
    return 0


def _new(arguments: argparse.Namespace) -> int:
    from lmsae.commands.new_project import start_project

    start_project(arguments.project, say=print)
    return 0


def _docs(arguments: argparse.Namespace) -> int:
    from lmsae.planning.columns import write_docs

    return write_docs(arguments.config.parent, check=arguments.check, say=print)


if __name__ == "__main__":
    sys.exit(main())
