"""An entry of SAELens' table of releases, read by SAELens itself: it knows the layouts of all their authors."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from lmsae.dictionary.config import DictionaryConfig
from lmsae.dictionary.dictionary import Dictionary
from lmsae.errors import FolderError
from lmsae.interop.finished import Origin, Release
from lmsae.interop.saelens.importing import describe, load

Read = TypeVar("Read")


def describe_release(release: Release) -> tuple[DictionaryConfig, Origin]:
    """The config of an entry's dictionary, and its origin, without its weights. Raises FolderError, also for an
    architecture that lmsae has not."""
    return _read(release, _write_config, describe)


def load_release(release: Release) -> Dictionary:
    """The dictionary of an entry, on the CPU, ready for inference. Raises FolderError as `describe_release`, and where
    SAELens cannot fetch or read it."""
    return _read(release, _write_all, load)


def _read(release: Release, write: Callable[[Release, Path], None], read: Callable[[Path], Read]) -> Read:
    """The result of `read` on a folder that SAELens writes of an entry."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with warnings.catch_warnings():  # on how SAELens would run the model
                warnings.simplefilter("ignore")
                write(release, Path(folder))
        except Exception as error:  # of any class: what authors publish, some code of SAELens reads
            said = " ".join(str(error).split())[:300]
            raise FolderError(f"SAELens cannot read {release}: {type(error).__name__}: {said}") from error
        try:
            return read(Path(folder))
        except FolderError as error:
            raise FolderError(f"{release}: {str(error).replace(folder, 'written anew by SAELens')}") from None


def _write_all(release: Release, folder: Path) -> None:
    from sae_lens import SAE

    SAE.from_pretrained(release.name, release.entry, device="cpu").save_model(folder)


def _write_config(release: Release, folder: Path) -> None:
    import json

    from sae_lens import SAE, __version__
    from sae_lens.loading.pretrained_sae_loaders import load_sae_config_from_huggingface

    found: dict[str, Any] = load_sae_config_from_huggingface(release.name, release.entry)
    config = SAE.get_sae_config_class_for_architecture(found["architecture"]).from_dict(found).to_dict()
    metadata = {**config.get("metadata", {}), "sae_lens_version": __version__}
    (folder / "cfg.json").write_text(json.dumps({**config, "metadata": metadata}, default=str))
