"""A folder as a zip, made while it is sent."""

import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import gmtime
from typing import BinaryIO

PIECE_BYTES = 2**20


class _Sink:
    """The writable, unseekable file that ZipFile writes to; what it wrote is taken in pieces."""

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered."""

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, deque()
        return b"".join(pieces)


def zipped(folder: Path, name: str, modified: float) -> Iterator[bytes]:
    """The files of `folder` as an uncompressed zip with one folder `name`, in pieces.

    The files are open when this returns: they may be deleted while they are sent. `modified` (unix
    seconds) is the files' time in the zip, so that equal weights make equal zips.
    """
    with ExitStack() as stack:
        files = [
            (path.name, stack.enter_context(path.open("rb")))
            for path in sorted(folder.iterdir())
            if path.is_file()
        ]
        return _pieces(files, name, modified, stack.pop_all())
    raise AssertionError("unreachable")


def _pieces(
    files: Sequence[tuple[str, BinaryIO]], name: str, modified: float, opened: ExitStack
) -> Iterator[bytes]:
    sink = _Sink()
    with opened, zipfile.ZipFile(sink, "w") as archive:  # type: ignore[call-overload]
        for filename, file in files:
            entry = zipfile.ZipInfo(f"{name}/{filename}", gmtime(modified)[:6])
            entry.external_attr = 0o644 << 16
            with archive.open(entry, "w") as target:
                while piece := file.read(PIECE_BYTES):
                    target.write(piece)
                    yield sink.take()
    yield sink.take()
