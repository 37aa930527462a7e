"""A process that has imported everything and forks a child for each command of lmsae, to be killed for good.

Run as a script. It reads an `Order` as a line of JSON and answers with the child's pid; it reads an empty line, waits
for the child, and answers with how it `Ended`.
"""

import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link"}


@dataclass(frozen=True)
class Order:
    """A command in a folder; the child kills itself just before its `die_at`-th change of a file under artifacts/, or
    sends itself another signal."""

    folder: str
    arguments: Sequence[str]
    die_at: int = 0
    shard_bytes: int = 0
    signal: int = signal.SIGKILL


@dataclass(frozen=True)
class Ended:
    """How a child ended, what it said, and how many changes under artifacts/ it had begun."""

    status: int
    said: str
    events: int


class Zygote:
    """The process, as its user sees it."""

    def __init__(self) -> None:
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self._process: Any = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
        )

    def start(self, order: Order) -> int:
        """Begin a command; its pid."""
        self._process.stdin.write(json.dumps(asdict(order)) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> Ended:
        """How the command that was begun last has ended. Until then its pid is nobody else's, even if it is dead."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def run(self, order: Order) -> Ended:
        """Begin a command and wait for it."""
        self.start(order)
        return self.wait()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def watch(counter: int, die_at: int, number: int) -> None:
    """Count changes of files under artifacts/ into a file descriptor's length, and before the `die_at`-th send this
    process the signal of a number. Several threads change files: each change has a number of its own."""
    numbers = itertools.count(1)

    def look(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in EVENTS or "artifacts/" not in str(arguments[0]):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        change = next(numbers)
        os.write(counter, b".")
        if change == die_at:
            os.kill(os.getpid(), number)

    sys.addaudithook(look)


def obey(order: Order, counter: int) -> int:
    """In the child: run the command."""
    from lmsae.cli import main
    from lmsae.store import array, layout

    assert array.Layout is layout.Layout  # it has its own name for it, and goes on with the real one
    os.chdir(order.folder)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    if order.shard_bytes:
        module: Any = layout
        module.Layout = partial(layout.Layout, target_shard_bytes=order.shard_bytes)
    watch(counter, order.die_at, order.signal)
    return main(list(order.arguments))


def prepare() -> None:
    """Import all that a command will need, and begin what libraries begin late: no child does any of it again."""
    import blake3  # noqa: F401
    import safetensors.torch  # noqa: F401
    import torch
    import transformers.models.gpt_neox.modeling_gpt_neox  # noqa: F401
    import zarrs  # noqa: F401

    import lmsae.cli
    import lmsae.commands.running
    import lmsae.dictionary.as_jumprelu
    import lmsae.evaluation.repeated
    import lmsae.initialization.initialize
    import lmsae.planning.overview
    import lmsae.stages
    import lmsae.stages.inputs.stored
    import lmsae.store.writer
    import lmsae.training.checkpoints
    import lmsae.training.run  # noqa: F401
    from lmsae.kernels import cpu

    cpu.find_largest_of_rows(torch.tensor([[1.0, 2.0]]), 1)  # Numba's compiler
    torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # torch's


def serve() -> None:
    """Fork a child for each line that comes in."""
    prepare()
    while line := sys.stdin.readline():
        order = Order(**json.loads(line))
        counter = os.memfd_create("events")
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                code = obey(order, counter)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(pid, 0)
        said = (Path(order.folder) / "said").read_text()
        ended = Ended(os.waitstatus_to_exitcode(status), said, os.fstat(counter).st_size)
        os.close(counter)
        print(json.dumps(asdict(ended)), flush=True)


if __name__ == "__main__":
    serve()
