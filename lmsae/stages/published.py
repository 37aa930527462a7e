"""The account of what was published into a folder of results, `.published.json`: for which sweep, and which names."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from lmsae.artifacts.artifact import write_atomically
from lmsae.artifacts.inside import require_inside
from lmsae.errors import DamagedArtifact
from lmsae.stages.origin import Origin

PUBLISHED = ".published.json"


@dataclass(frozen=True)
class Published:
    """The sweep whose results a folder shows, None if nobody knows, and the names that were made there for it."""

    origin: Origin | None = None
    names: frozenset[str] = field(default_factory=frozenset)

    @classmethod
    def read(cls, results: Path) -> "Published":
        """The account in a folder, empty where there is none. Raises DamagedArtifact if it cannot be believed."""
        path = results / PUBLISHED
        try:
            found = json.loads(path.read_text())
        except FileNotFoundError:
            return cls()
        except (ValueError, RecursionError):
            raise DamagedArtifact(f"{path}: it cannot be read. {_MEND}") from None
        # An earlier lmsae wrote the names alone: of one sweep, whichever it was.
        names, sweep = (found.get("names"), found.get("sweep")) if isinstance(found, dict) else (found, None)
        if not isinstance(names, list) or not isinstance(sweep, dict | None):
            raise DamagedArtifact(f"{path}: it is no account of what was published. {_MEND}")
        return cls(Origin.read(sweep, path) if sweep else None, frozenset(require_inside(name, path) for name in names))

    def write(self, results: Path) -> None:
        """Write the account, unless it stands there."""
        sweep = None if self.origin is None else self.origin.describe(results)
        text = json.dumps({"sweep": sweep, "names": sorted(self.names)}, indent=1) + "\n"
        if not (results / PUBLISHED).exists() or (results / PUBLISHED).read_text() != text:
            write_atomically(results / PUBLISHED, text)

    def is_of_another(self, origin: Origin | None) -> bool:
        """True if the folder shows another sweep than this one, and somebody can still ask for that."""
        if origin is None or self.origin is None or self.origin == origin:
            return False
        return self.origin.is_living


_MEND = "Delete it: what earlier sweeps left in the folder then stays until you remove it."
