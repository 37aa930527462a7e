"""What the client of Weights & Biases writes while it is offline, read back: LevelDB's log format around protobufs."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK, HEADER, FILE_HEADER = 32768, 7, 7
WHOLE, FIRST, LAST = 1, 2, 4


@dataclass
class Logged:
    """A run as one process has logged it: its page, and its history by step."""

    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def read_runs(folder: Path) -> list[Logged]:
    """The offline runs below a folder, in the order in which they began."""
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda file: file.stat().st_mtime_ns)
    return [_read(file) for file in files]


def _read(file: Path) -> Logged:
    from wandb.proto.wandb_internal_pb2 import Record  # pyright: ignore[reportAttributeAccessIssue]

    logged = Logged()
    for content in _records(file.read_bytes()):
        record = Record.FromString(content)
        if record.HasField("run"):
            run = record.run
            logged.id, logged.name = run.run_id, run.display_name
            logged.group, logged.project = run.run_group, run.project
            logged.config |= {item.key: json.loads(item.value_json) for item in run.config.update if item.key}
        elif record.HasField("history"):
            point = {_name(item): json.loads(item.value_json) for item in record.history.item}
            logged.history.append({**point, "_step": record.history.step.num})
        elif record.HasField("summary"):
            logged.summary |= {_name(item): json.loads(item.value_json) for item in record.summary.update}
    return logged


def _name(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _records(content: bytes) -> Iterator[bytes]:
    """The whole records of a file; one that a killed process was writing is left out."""
    parts, place = b"", FILE_HEADER
    while place + HEADER <= len(content):
        if BLOCK - place % BLOCK < HEADER:
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", content[place : place + HEADER])
        part, place = content[place + HEADER : place + HEADER + length], place + HEADER + length
        parts = part if kind in (WHOLE, FIRST) else parts + part
        if kind in (WHOLE, LAST) and len(part) == length and length:
            yield parts
