"""The formats of the command `export`, each with its flags: what the parser needs to know, and no more."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ExportFormat:
    """A format that dictionaries are given away in: its help, and argparse's description of each flag of its own."""

    help: str
    flags: Mapping[str, Mapping[str, Any]]

    def options(self, parsed: Mapping[str, Any]) -> dict[str, Any]:
        """The values of its flags, by the names of the arguments that the writer takes."""
        names = [flag.removeprefix("--").replace("-", "_") for flag in self.flags]
        return {name: parsed[name] for name in names}


_CONVERT = {"action": "store_true", "help": "write topk and groupmax as jumprelu, and tell what that costs"}
FORMATS = {
    "circuit-tracer": ExportFormat(
        "transcoders of all layers of a model, or a clt, to trace circuits with",
        {
            "--convert": _CONVERT,
            "--scan": {"metavar": "NAME", "help": "its name for descriptions of latents (default: the folder's name)"},
        },
    ),
    "saelens": ExportFormat(
        "a folder for each dictionary, as SAE.load_from_disk and the hub have it", {"--convert": _CONVERT}
    ),
    "saebench": ExportFormat(
        "a core result of SAEBench for each dictionary, with the metrics of our evaluation",
        {"--release": {"metavar": "NAME", "default": "lmsae", "help": "what its dictionaries belong to (lmsae)"}},
    ),
    "neuronpedia": ExportFormat(
        "what the stage features found, in the layout that Neuronpedia imports",
        {
            "--slug": {
                "metavar": "NAME",
                "help": "name of the source set, LAYER-NAME of a source (default: the row's)",
            },
            "--model-id": {"metavar": "ID", "help": "Neuronpedia's id of the model (default: made of its name)"},
            "--release": {"metavar": "ID", "help": "the release that the sources belong to (default: folder's name)"},
            "--title": {"metavar": "TEXT", "help": "what people read of the release (default: its id)"},
            "--creator": {"metavar": "NAME", "default": "lmsae", "help": "whose it is (default: lmsae)"},
            "--url": {"action": "append", "default": [], "help": "a paper or repository; may be given several times"},
        },
    ),
}
"""The formats by name; `export_NAME` of lmsae/commands/giving.py writes each."""
