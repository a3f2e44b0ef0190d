"""What can go wrong in the store: one family, so that a caller can catch `StoreError`.

Messages name the adapter or the folder, what was found and what would be right. They hold no
text of a document and, but for the errors an operator meets at start-up, no path on disk.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path


class StoreError(Exception):
    """Base of everything the store raises on purpose."""


class AdapterNotFound(StoreError):
    """No such adapter for this tenant: never made, deleted, expired, or another tenant's."""

    def __init__(self, id_or_name: str) -> None:
        super().__init__(f"no adapter has the ID or name {id_or_name!r}")
        self.id_or_name = id_or_name


class WrongStatus(StoreError):
    """The adapter's status does not allow this step (it was cancelled meanwhile, for example)."""

    def __init__(self, adapter_id: str, status: str, wanted: Iterable[str]) -> None:
        self.wanted = tuple(wanted)
        super().__init__(
            f"adapter {adapter_id} is {status}; this step needs {' or '.join(self.wanted)}"
        )
        self.adapter_id = adapter_id
        self.status = status


class IncompleteWeights(StoreError):
    """A staged folder is not exactly one PEFT adapter."""

    def __init__(self, found: Iterable[str], wanted: Iterable[str]) -> None:
        super().__init__(
            f"an adapter's folder holds exactly {', '.join(sorted(wanted))}; "
            f"this one holds {', '.join(sorted(found)) or 'nothing'}"
        )


class CorruptBlob(StoreError):
    """Bytes at rest are not the bytes that were stored.

    `expected` and `found` are SHA-256 in hex; `found` is "missing" where there is no file.
    """

    what = "stored bytes"

    def __init__(self, adapter_id: str, expected: str, found: str) -> None:
        super().__init__(
            f"adapter {adapter_id}: its {self.what} should have SHA-256 {expected} "
            f"but on disk it is {found}; delete the adapter and upload its document again"
        )
        self.adapter_id = adapter_id
        self.expected = expected
        self.found = found


class CorruptWeights(CorruptBlob):
    """The weights of an adapter are damaged or gone; the adapter is now `failed`."""

    what = "weights"


class CorruptSource(CorruptBlob):
    """The source text of an adapter is damaged or gone."""

    what = "source text"


class StoreLocked(StoreError):
    """Another process has this data folder (or this catalogue) open."""

    def __init__(self, place: Path | str, pid: int | None) -> None:
        holder = f"process {pid}" if pid is not None else "another process"
        super().__init__(
            f"{place} is in use by {holder}; stop it, or give this one a data folder of its own"
        )
        self.place = place
        self.pid = pid


class FolderMismatch(StoreError):
    """The catalogue and the folder of blobs are not each other's; nothing was changed."""

    def __init__(self, catalogue: str, folder: Path) -> None:
        super().__init__(
            f"the catalogue at {catalogue} does not belong to the files in {folder}: "
            "is the right volume mounted, and the right catalogue given? "
            "A new store starts with both empty"
        )
        self.catalogue = catalogue
        self.folder = folder


class InvalidCatalogueUrl(StoreError):
    """The catalogue's URL is none, or of a database that the store does not know."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"{reason}; a catalogue's URL is sqlite:///<file> or "
            "postgresql://<user>:<password>@<host>/<database>"
        )


class StoreUnwritable(StoreError):
    """The disk is full, over quota, failing or read-only. Nothing of the step is visible."""

    def __init__(self, place: Path | str, reason: str) -> None:
        super().__init__(f"cannot write to {place}: {reason}; nothing was stored")
        self.place = place
        self.reason = reason


class StoreUnavailable(StoreError):
    """The catalogue does not answer now (locked by a stranger, database down); try again."""

    def __init__(self, place: Path | str, reason: str) -> None:
        super().__init__(f"the catalogue at {place} does not answer: {reason}")
        self.place = place
        self.reason = reason


class UnreadableCatalogue(StoreError):
    """The catalogue is damaged, no database at all, or written by a newer release."""

    def __init__(self, place: Path | str, reason: str) -> None:
        super().__init__(f"the catalogue at {place} cannot be read: {reason}")
        self.place = place
        self.reason = reason
