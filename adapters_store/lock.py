"""One process per data folder, by a lock that dies with its holder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from adapters_store.errors import StoreLocked

PID_WIDTH = 20

_held: set[Path] = set()


class FolderLock:
    """An exclusive lock on `folder/lock`; the file holds the holder's process ID.

    A POSIX record lock: unlike flock(2) a forked child does not hold it too, so that an engine
    process outliving a killed server does not keep the folder locked. It knows no other holder in
    the same process, and closing any descriptor of the file drops it, hence `_held`.
    """

    def __init__(self, folder: Path) -> None:
        """Takes the lock; raises StoreLocked."""
        self.folder = folder.resolve()
        if self.folder in _held:
            raise StoreLocked(folder, os.getpid())
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # for people and for StoreLocked; padded, so that a full disk need not grow the file
            os.pwrite(descriptor, f"{os.getpid():<{PID_WIDTH}}".encode(), 0)
        except OSError as error:
            holder = os.pread(descriptor, PID_WIDTH, 0).decode(errors="replace").strip()
            os.close(descriptor)
            if isinstance(error, BlockingIOError | PermissionError):
                raise StoreLocked(folder, int(holder) if holder.isdigit() else None) from error
            raise
        self._descriptor = descriptor
        _held.add(self.folder)

    def release(self) -> None:
        _held.discard(self.folder)
        os.close(self._descriptor)
