"""Files that survive a power cut."""

import os
from pathlib import Path


def sync(path: Path) -> None:
    """Flushes a file's contents, or a folder's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
