"""A program `lmsae` that starts at once: a process that has imported everything forks for each call.

Engines start lmsae some hundred times in the tests, and each start imports torch and transformers for three to six
seconds, while its work takes a fraction of one. What runs is lmsae itself, in a process of its own, with the caller's
arguments, environment, folder and streams. A signal to the program reaches that process, and it dies with the program.
Tests of the installed package start the real one.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

CLIENT = '''#!{python} -IS
"""The program `lmsae` of tests.engines.forking."""
import json, os, signal, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
call = {{"arguments": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}}
socket.send_fds(server, [b"."], [0, 1, 2])
answers = server.makefile("rw")
answers.write(json.dumps(call) + "\\n")
answers.flush()
child = int(answers.readline())
for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"):
    signal.signal(getattr(signal, name), lambda number, frame: os.kill(child, number))
status = os.waitstatus_to_exitcode(int(answers.readline()))
if status < 0:
    signal.signal(-status, signal.SIG_DFL) if -status != signal.SIGKILL else None
    os.kill(os.getpid(), -status)
sys.exit(status)
'''


@contextlib.contextmanager
def started(package: Path) -> Iterator[Path]:
    """The folder of a program `lmsae` that is imported from a folder, while the process that forks takes calls."""
    with tempfile.TemporaryDirectory(prefix="lmsae-") as made:  # the address of a socket is short
        folder = Path(made)
        address, program = folder / "calls", folder / "lmsae"
        program.write_text(CLIENT.format(python=sys.executable, address=str(address)))
        program.chmod(0o755)
        command = [sys.executable, "-P", __file__, str(address)]
        environment = {**os.environ, "PYTHONPATH": str(package)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            assert server.stdout.readline() == "ready\n"
            yield folder
            server.kill()


def _serve(address: str) -> None:
    _import_everything()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for keepers
    print("ready", flush=True)
    while True:
        call, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(call)
            os._exit(0)
        call.close()


def _import_everything() -> None:
    """What the stages import when they work. No thread may run before a fork, so nothing is computed."""
    import gc
    import threading

    import altair
    import datasets
    import matplotlib.pyplot
    import transformers
    import zarr
    from transformers.models.gpt_neox import modeling_gpt_neox

    import lmsae.cli
    import lmsae.evaluation.scoring
    import lmsae.interpretation.describing
    import lmsae.kernels.cpu
    import lmsae.report.writing
    import lmsae.stages.jobs.train_jobs

    imported = (altair, datasets, matplotlib, transformers, zarr, modeling_gpt_neox, lmsae)
    assert all(imported)
    assert threading.active_count() == 1, threading.enumerate()
    gc.freeze()


def _keep(call: socket.socket) -> None:
    """Run one call in a child, tell the program its process and its end, and kill it if the program goes away."""
    import json
    import select

    _, streams, _, _ = socket.recv_fds(call, 1, 3)
    answers = call.makefile("rw")
    asked = json.loads(answers.readline())
    child = os.fork()
    if child == 0:
        call.close()
        _become(asked["arguments"], asked["environment"], asked["folder"], streams)
    for stream in streams:
        os.close(stream)
    answers.write(f"{child}\n")
    answers.flush()
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([ended, call], [], [])
    if ended not in ready:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    answers.write(f"{status}\n")
    answers.flush()


def _become(arguments: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """Be the program that was called, and end as it does."""
    from lmsae.cli import main

    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.argv = ["lmsae", *arguments]
    code = 1
    try:
        code = main(arguments)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
