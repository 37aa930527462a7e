"""The flags of commands: those that all have, and those of each command that has many."""

import argparse
from collections.abc import Callable
from pathlib import Path

from lmsae.artifacts.inside import is_plain
from lmsae.interpretation.explaining.config import SCORERS, Settings
from lmsae.runtime.numbers import parse_age, parse_bytes
from lmsae.stages import STAGES

EDITS = (
    "LATENT+=AMOUNT adds to the latent's code at every token, LATENT-=AMOUNT subtracts; LATENT=CODE clamps it, and "
    "LATENT=0 ablates it"
)
FILE_AND_ROWS = (
    "a TOML, YAML or JSON file of one experiment (without it, the sweep); then rows (without any, all of them)"
)
NAMES = "a row's name (its dictionary), ROW/STAGE, or the first digits of a key"


def add_common(command: argparse.ArgumentParser, *, sweep: bool) -> None:
    """The flags of every command; with `sweep`, those of a command that reads the sheet."""
    command.add_argument(  # some commands have a folder of their own
        "--folder", dest="home", type=Path, metavar="DIR", help="work as if started in this project's folder"
    )
    command.add_argument("--config", type=Path, default=Path("config/config.yaml"), help="shared values, runtime")
    command.add_argument("--artifacts", type=Path, help="folder of artifacts (default: runtime.artifacts)")
    command.add_argument("--results", type=Path, help="folder of the report (default: runtime.results)")
    command.add_argument("--device", help="auto, cpu, cuda, cuda:1, ...")
    command.add_argument("--threads", type=int, help="CPU threads")
    command.add_argument("--wait", action="store_true", default=None, help="wait for artifacts that others are making")
    command.add_argument("--trace", action="store_true", help="print the traceback of an error too")
    if sweep:
        command.add_argument("--sweep", type=Path, help="one row per dictionary (default: sweep.tsv beside --config)")
        command.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="over all rows")


def _add_dictionary(command: argparse.ArgumentParser) -> None:
    """The dictionary that a command applies, and what it does not say itself."""
    command.add_argument(
        "dictionary", metavar="NAME", help="a row, KEY, FOLDER, owner/name[@revision][:folder], RELEASE:ID"
    )
    command.add_argument("--model", help="default: the one that the dictionary names")
    command.add_argument("--hook-point", default="", help="default: the one that the dictionary names")


def add_top(command: argparse.ArgumentParser) -> None:
    """The flags of `top`."""
    _add_dictionary(command)
    command.add_argument("text", help="the text")
    command.add_argument("--count", type=int, default=5, metavar="N", help="latents of each token (default: 5)")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")


def add_steer(command: argparse.ArgumentParser) -> None:
    """The flags of `steer`."""
    _add_dictionary(command)
    command.add_argument("edits", nargs="+", metavar="EDIT", help=EDITS)
    command.add_argument("--prompt", required=True, help="the text to continue")
    command.add_argument("--max-new-tokens", type=int, default=50, metavar="N", help="default: 50")
    command.add_argument("--temperature", type=float, default=1.0, help="0 takes the likeliest token (default: 1)")
    command.add_argument("--seed", type=int, default=0, help="of the draws (default: 0)")


def add_gc(command: argparse.ArgumentParser) -> None:
    """The flags of `gc`."""
    command.add_argument("--forget", metavar="SWEEP", help="another sweep whose artifacts are not to be kept for it")
    command.add_argument(
        "--states", action="store_true", help="also the training states that finished dictionaries kept"
    )
    command.add_argument("--older-than", type=_age, metavar="AGE", help="only what has not changed since: 12h, 30d, 8w")
    command.add_argument("--larger-than", type=_size, metavar="SIZE", help="only what has as many bytes: 500MB, 1.5TB")
    command.add_argument(
        "--down-to", type=_size, metavar="SIZE", help="the oldest first, until the whole folder has no more bytes"
    )
    command.add_argument("--delete", action="store_true", help="remove them")


def _age(text: str) -> str:
    return _parsed(text, parse_age)


def _size(text: str) -> str:
    return _parsed(text, parse_bytes)


def _parsed(text: str, parse: Callable[[str], float]) -> str:
    """The text of a flag, after a check that it can be parsed."""
    try:
        parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_name_of_plan(command: argparse.ArgumentParser) -> None:
    """The flag that keeps the plans of several sweeps apart which share a folder of artifacts."""
    command.add_argument("--plan", type=_plain, metavar="NAME", help="a plan of its own on disk, as of DVC")


def _plain(name: str) -> str:
    if not is_plain(name):
        raise argparse.ArgumentTypeError(f"{name!r} is no name of a folder")
    return name


def add_choice_of_dictionary(command: argparse.ArgumentParser) -> None:
    """The flags of an evaluation without a sheet."""
    chosen = command.add_argument_group("one dictionary, without a sheet")
    chosen.add_argument("--dictionary", help="FOLDER, owner/name[@revision][:folder] on the hub, KEY, or RELEASE:ID")
    chosen.add_argument("--model", help="default: the one that the dictionary names, or else the built-in one")
    chosen.add_argument("--dataset", help="default: the built-in text")
    chosen.add_argument("--hook-point", help="default: the one that the dictionary names")
    chosen.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="any other column")


def add_push(command: argparse.ArgumentParser) -> None:
    """The flags of `push`."""
    command.add_argument("names", nargs="+", metavar="NAME", help=f"{NAMES}; all is every row of the sweep")
    command.add_argument("repository", metavar="owner/name", help="the repository; it is made if the hub has none")
    command.add_argument("--private", action="store_true", help="make it a private one")
    command.add_argument("--revision", metavar="BRANCH", help="the branch to send to (default: main)")
    command.add_argument("--license", help="the card's license, such as mit or cc-by-4.0")
    command.add_argument("--neuronpedia-id", action="append", default=[], metavar="[ROW=]ID", help="a row's id there")
    command.add_argument("--dry-run", action="store_true", help="name all files and their sizes, and ask no network")


def add_pull(command: argparse.ArgumentParser) -> None:
    """The flags of `pull`."""
    command.add_argument("place", metavar="owner/name[@revision][:path]", help="the repository, and a folder in it")
    command.add_argument("folder", nargs="?", type=Path, help="where to write (default: the last part of the name)")
    command.add_argument("--restore", action="store_true", help="also put what lmsae pushed back among the artifacts")


def add_transfer(command: argparse.ArgumentParser, *, sends: bool) -> None:
    """The flags of `upload`, which sends, and of `download`."""
    command.add_argument(
        "url", metavar="URL", help="a folder, by any protocol of fsspec: s3://bucket/folder, file:///..."
    )
    command.add_argument(
        "names",
        nargs="*",
        metavar="ROW or KEY",
        help="without any, all that is wanted" + (" and made" if sends else ""),
    )
    command.add_argument(
        "--stage", action="append", default=[], choices=[*STAGES], help="only artifacts of this stage, or of several"
    )
    if sends:
        command.add_argument("--dry-run", action="store_true", help="tell what would be sent, and send nothing")


def add_explain(command: argparse.ArgumentParser) -> None:
    """The flags of `explain`: a field of Settings each."""
    command.add_argument("name_of_row", metavar="NAME", help="a row, or the first digits of the key of its features")
    for name, field in Settings.model_fields.items():
        flag, text = f"--{name.replace('_', '-')}", field.description
        default = "" if field.is_required() or field.default is None else f" (default: {field.default})"
        if name == "scorers":
            options = [*SCORERS, "none"]
            default = f" (default: {' '.join(SCORERS)})"
            command.add_argument(flag, nargs="+", choices=options, help=f"{text}{default}")
        else:
            command.add_argument(flag, help=f"{text}{default}")
    command.add_argument("--yes", action="store_true", help="ask; without it, only the cost is told")
