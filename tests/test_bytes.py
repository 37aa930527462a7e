"""The bytes of dictionaries: those of the day they were written down, where nothing was meant to change them.

On a kind of machine that tests/bytes.json knows, every tensor has the digest that it had there; of those that have
changed on purpose since, none is known. Other processors round otherwise, and there its norm is compared. `python -m
tests.test_bytes` writes the file, for when bytes change on purpose; CHANGELOG.md says so then, and the stage's version
goes up.
"""

import contextlib
import hashlib
import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lmsae.planning.catalog import CATALOG
from tests.miniature import row_of, write_config, write_model, write_sweep, write_text

KNOWN = Path(__file__).with_name("bytes.json")
FILES = {"init": "weights.safetensors", "train": "dictionary.safetensors"}
CELLS: dict[str, tuple[str, dict[str, str]]] = {name: (name, {}) for name in CATALOG} | {
    "bfloat16": ("topk", {"train.precision": "bfloat16", "train.resample_steps": "8"}),
    "whitened": ("batchtopk", {"train.ema": "0.9", "sae.normalize_activations": "whiten"}),
    "end_to_end": ("topk", {"sae.losses": "aux_k e2e_kl", "sae.e2e_kl_coefficient": "1"}),
    "steered": (
        "jumprelu",
        {
            "sae.losses": "target_l0 pre_act",
            "sae.target_l0": "5",
            "sae.target_l0_coefficient": "1",
            "sae.l0_coefficient": "",
        },
    ),
    "moving_k": (
        "topk",
        {"sae.losses": "multi_topk ghost_grads", "train.initial_k": "16", "train.k_warm_up_steps": "8"},
    ),
    "sampled": ("matryoshka", {"sae.losses": "nested_sampled aux_k"}),
    "muon": ("topk", {"train.optimizer": "muon", "init.decoder_init": "datapoint"}),
    "converted": ("topk", {"sae.convert_to_jumprelu": "true", "train.dead_threshold": "512"}),
}
"""One row of each architecture, and of what else changes bytes."""


def kind_of_machine() -> str:
    """What the last bits of sums depend on: torch, the instructions that it uses, and the processor."""
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    facts = {name.strip(): value.strip() for name, value in pairs}
    processor = " ".join(facts.get(name, "?") for name in ("vendor_id", "cpu family", "model"))
    return f"torch {torch.__version__.partition('+')[0]}, {torch.backends.cpu.get_cpu_capability()}, {processor}"


def made(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the starts and dictionaries of all rows, by row and stage."""
    from lmsae.cli import main

    write_model(folder)
    write_text(folder)
    write_config(folder)
    write_sweep(folder, [row_of(name, **{**cells, "name": row}) for row, (name, cells) in CELLS.items()])
    with contextlib.chdir(folder):
        assert main(["run"]) == 0
    rows = folder / "results" / "rows"
    return {f"{row}/{stage}": load_file(rows / row / stage / file) for row in CELLS for stage, file in FILES.items()}


def digests(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    """A digest of the bytes of every tensor."""
    return {
        name: hashlib.sha256(value.contiguous().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        for name, value in tensors.items()
    }


def norms(tensors: dict[str, torch.Tensor]) -> dict[str, float]:
    """The norm of every tensor."""
    return {name: value.double().norm().item() for name, value in tensors.items()}


@pytest.mark.slow
def test_dictionaries_have_the_bytes_of_the_day_they_were_written_down(tmp_path: Path) -> None:
    known, found = json.loads(KNOWN.read_text()), made(tmp_path)
    assert found.keys() == known["norms"].keys()
    for name, tensors in found.items():
        assert norms(tensors) == pytest.approx(known["norms"][name], rel=0.05, abs=1e-3), name
    for name, expected in known["digests"].get(kind_of_machine(), {}).items():
        assert expected.items() <= digests(found[name]).items(), name


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        tensors_of = made(Path(scratch))
    earlier = json.loads(KNOWN.read_text()) if KNOWN.exists() else {"digests": {}}
    now = {name: digests(tensors) for name, tensors in tensors_of.items()}
    before = earlier["digests"].get(kind_of_machine(), now)
    kept = {name for name in now if before.get(name) == now[name]}
    others = {
        kind: {name: known for name, known in rows.items() if name in kept} for kind, rows in earlier["digests"].items()
    }
    written = {
        "norms": {name: norms(tensors) for name, tensors in tensors_of.items()},
        "digests": {**others, kind_of_machine(): now},
    }
    KNOWN.write_text(json.dumps(written, indent=1) + "\n")
