"""The datasets of the Hugging Face hub, pinned to a commit."""

import re
from collections.abc import Collection, Iterator

from lmsae.errors import SourceError
from lmsae.runtime import hub
from lmsae.text.dataset import DatasetConfig, ResolvedDataset
from lmsae.text.documents import AnyDocument
from lmsae.text.files import WAYS_OUT
from lmsae.text.kind import COLUMNS_OF_ALL, COLUMNS_OF_SPLITS, COLUMNS_OF_VALUES, DigestLookup
from lmsae.text.records import document_of
from lmsae.text.splits import read_split

_COMMIT = re.compile(r"[0-9a-f]{40}")


class HubDataset:
    """A dataset of the hub; its identity is its commit, which cannot change."""

    holds_ids = False
    can_change = False

    def recognizes(self, name: str) -> bool:
        """True for every name but those of built-in texts."""
        return not name.startswith("builtin:")

    def columns(self, config: DatasetConfig) -> Collection[str]:
        """All but the seed of games."""
        return COLUMNS_OF_ALL | COLUMNS_OF_VALUES | COLUMNS_OF_SPLITS | {"revision"}

    def digest(self, config: DatasetConfig, look_up: DigestLookup) -> str:
        """The commit of the revision: asked of the hub, or of the local cache when the hub cannot be reached.

        Raises SourceError when neither knows it.
        """
        name, revision = config.name, config.revision
        if revision and _COMMIT.fullmatch(revision):
            return revision
        try:
            return hub.ask_commit("dataset", name, revision)
        except hub.Refused as error:
            raise SourceError(f"dataset.name {name!r}: {_explain(error.reason, revision)}") from None
        except hub.Unreachable as error:
            if (cached := hub.cached_commit("dataset", name, revision)) is not None:
                return cached
            raise SourceError(
                f"dataset.name {name!r}: no such local file or folder, the hub cannot be asked ({error}), and its "
                f"local cache does not hold it. {WAYS_OUT}"
            ) from error

    def documents(self, dataset: ResolvedDataset) -> Iterator[AnyDocument]:
        """The rows of the split."""
        for row, value in enumerate(read_split(dataset, dataset.name, commit=dataset.digest)):
            yield document_of(dataset, str(row), value)


def _explain(reason: hub.Reason, revision: str | None) -> str:
    """The hub's refusal as the end of an error message."""
    return {
        "name": f"no such local file or folder, and no possible name on the hub. {WAYS_OUT}",
        "gated": "the hub asks for access first. Accept its terms there, then `hf auth login`.",
        "revision": f"the dataset has no revision {revision!r}. Set dataset.revision.",
        "repository": f"neither a local file or folder nor a dataset on the hub. {WAYS_OUT}",
    }[reason]
