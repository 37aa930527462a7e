"""Files of tensors are for all whom the umask lets read."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmsae.runtime.tensors import save_tensors


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_a_file_of_tensors_has_the_mode_of_the_umask_also_where_there_was_another(
    tmp_path: Path, umask: int, mode: int
) -> None:
    before = os.umask(umask)
    try:
        for value in (1.0, 2.0):
            save_tensors({"one": torch.tensor([value])}, tmp_path / "file.safetensors")
            assert (tmp_path / "file.safetensors").stat().st_mode & 0o777 == mode
            assert load_file(tmp_path / "file.safetensors")["one"].item() == value
    finally:
        os.umask(before)
    assert [path.name for path in tmp_path.iterdir()] == ["file.safetensors"]


def test_every_file_of_a_finished_sweep_has_the_mode_of_the_others(finished: Path) -> None:
    """In artifacts, and in folders for SAELens: whichever library wrote it."""
    found = [path for folder in ("artifacts", "results") for path in (finished / folder).rglob("*") if path.is_file()]
    modes = {path.stat().st_mode & 0o777 for path in found if not path.is_symlink()}
    assert len({path.suffix for path in found}) > 5
    assert modes == {(finished / "artifacts" / ".digests.json").stat().st_mode & 0o777}


def test_nothing_writes_safetensors_otherwise() -> None:
    package = Path(__file__).parents[2] / "lmsae"
    assert [path.name for path in package.rglob("*.py") if "import save_file" in path.read_text()] == ["tensors.py"]
