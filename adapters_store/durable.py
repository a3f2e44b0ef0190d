"""Files that survive a power cut. Blocking: call these on a thread."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

BLOCK = 1 << 20


def write(source: Path | bytes, target: Path) -> tuple[str, int]:
    """Copies `source` to the new file `target` and syncs it; returns its SHA-256 and size."""
    digest, size = hashlib.sha256(), 0
    with target.open("xb") as out:
        if isinstance(source, bytes):
            digest.update(source)
            size = out.write(source)
        else:
            with source.open("rb") as incoming:
                while block := incoming.read(BLOCK):
                    digest.update(block)
                    size += out.write(block)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest(), size


def sync(file: Path) -> tuple[str, int]:
    """Syncs a file that somebody else wrote; returns its SHA-256 and size."""
    with file.open("rb") as reader:
        os.fsync(reader.fileno())
        return hashlib.file_digest(reader, "sha256").hexdigest(), reader.tell()


def sync_folder(folder: Path) -> None:
    """Makes renames into and out of `folder` last."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Creates `folder`, for the owner's eyes only, in a way that lasts."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_folder(folder.parent)


def read(file: Path) -> tuple[bytes, str]:
    """A file's content and its SHA-256."""
    content = file.read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def digest(file: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with file.open("rb") as reader:
        return hashlib.file_digest(reader, "sha256").hexdigest()
