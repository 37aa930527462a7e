"""The board on which processes leave values for each other, and by which they find each other."""

import pickle
from datetime import timedelta
from typing import Any, final

import torch.distributed as dist

HOST = "127.0.0.1"
PATIENCE = timedelta(minutes=5)
"""The time in which all processes have started."""


@final
class Board:
    """Values by name, which live as long as the process that opened the board. They are pickled: all processes are of
    one user and one machine."""

    def __init__(self, port: int = 0) -> None:
        """The board of the process that listens at a port of this machine; without one, a new board of this process."""
        self._store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage]
            HOST, port, is_master=not port, wait_for_workers=False, timeout=PATIENCE
        )

    @property
    def port(self) -> int:
        """The port of this machine at which the board is found."""
        return self._store.port

    @property
    def store(self) -> Any:
        """The board as a torch.distributed.Store."""
        return self._store

    def leave(self, name: str, value: object) -> None:
        """Leave a value."""
        self._store.set(name, pickle.dumps(value))  # pyright: ignore[reportArgumentType]

    def has(self, name: str) -> bool:
        """True if somebody has left a value by this name."""
        return self._store.check([name])

    def read(self, name: str) -> Any:
        """The value that has been left by a name. It is waited for."""
        return pickle.loads(self._store.get(name))
