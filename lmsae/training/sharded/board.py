"""The board on which processes leave values for each other, and by which they find each other."""

import hashlib
import hmac
import pickle
import secrets
from datetime import timedelta
from typing import Any, final

import torch.distributed as dist

from lmsae.errors import TrainingError

HOST = "127.0.0.1"
PATIENCE = timedelta(minutes=5)
"""The time in which all processes have started."""
SIGNATURE_BYTES = hashlib.sha256().digest_size


@final
class Board:
    """Values by name, which live as long as the process that opened the board.

    They are pickled, and any user of the machine can reach the port. So each is signed with a key that only these
    processes have, and nothing else is unpickled.
    """

    def __init__(self, port: int = 0, key: str = "") -> None:
        """The board of the process that listens at a port of this machine, with its key; without them, a new board of
        this process."""
        self.key = key or secrets.token_hex()
        """The key that values are signed with. It is handed on by the environment, where other users do not see it."""
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
        written = pickle.dumps(value)
        self._store.set(name, self._sign(name, written) + written)  # pyright: ignore[reportArgumentType]

    def has(self, name: str) -> bool:
        """True if somebody has left a value by this name."""
        return self._store.check([name])

    def read(self, name: str) -> Any:
        """The value that has been left by a name. It is waited for. Raises TrainingError if it was not signed by one of
        these processes."""
        found = self._store.get(name)
        signature, written = found[:SIGNATURE_BYTES], found[SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(name, written)):
            raise TrainingError(
                f"the value {name!r} at port {self.port} is of another program; run the same command again"
            )
        return pickle.loads(written)

    def _sign(self, name: str, written: bytes) -> bytes:
        return hmac.digest(self.key.encode(), name.encode() + b"\0" + written, hashlib.sha256)
