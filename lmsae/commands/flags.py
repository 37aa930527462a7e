"""The flags of the commands that send dictionaries to a hub, fetch them, and ask for explanations."""

import argparse
from pathlib import Path

from lmsae.interpretation.explaining.config import SCORERS, Settings


def add_push(command: argparse.ArgumentParser, names: str) -> None:
    """The flags of `push`; `names` says what may be named."""
    command.add_argument("names", nargs="+", metavar="NAME", help=f"{names}; all is every row of the sweep")
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
