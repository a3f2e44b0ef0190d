"""What an adapter is, as the catalogue knows it. Plain values: no SQL, no files."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

CROCKFORD = "0123456789abcdefghjkmnpqrstvwxyz"
ADAPTER_ID = re.compile(rf"adp_[0-7][{CROCKFORD}]{{25}}")

MAX_ATTEMPTS = 2
"""How often one job may be taken up before it is marked failed."""


class AdapterStatus(StrEnum):
    QUEUED = "queued"
    EXTRACTING = "extracting"
    GENERATING = "generating"
    STORING = "storing"
    READY = "ready"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """True once no job will touch the adapter any more."""
        return self in (self.READY, self.FAILED, self.CANCELLED)


CLAIMED = (AdapterStatus.EXTRACTING, AdapterStatus.GENERATING, AdapterStatus.STORING)
"""A worker has the job in hand."""
UNFINISHED = (AdapterStatus.QUEUED, *CLAIMED)


class AdapterKind(StrEnum):
    DOCUMENT = "document"
    TEXT = "text"
    COMPOSITE = "composite"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an adapter failed: a code for programs and a sentence for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Progress:
    """`done` of `total` chunks; 0 of 0 before the first report."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class NewAdapter:
    """What the caller knows when a document comes in.

    `fingerprint` identifies the outcome: source, generator, base model and options, hashed by the
    caller. The tenant is not part of it; the store never shares a row between tenants. Raises
    ValueError for a name that is empty or could be taken for an adapter ID.
    """

    base_model: str
    generator: str  # "name@first 12 of its fingerprint"
    fingerprint: str
    source_sha256: str  # of the bytes that came in, which may not be the text that was kept
    source_bytes: int
    tenant: str = "default"
    kind: AdapterKind = AdapterKind.DOCUMENT
    name: str | None = None
    source_name: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)  # JSON; a job taken up again needs it
    metadata: Mapping[str, str] = field(default_factory=dict)
    tokens: int | None = None
    chunks: int | None = None
    expires_at: float | None = None  # unix seconds

    def __post_init__(self) -> None:
        if self.name is not None and (not self.name or is_adapter_id(self.name)):
            raise ValueError(
                f"{self.name!r} cannot be a name: a name is not empty and not shaped like an ID"
            )


@dataclass(frozen=True, slots=True)
class Adapter:
    """One row of the catalogue, as it was when it was read. Times are unix seconds."""

    id: str
    tenant: str
    kind: AdapterKind
    status: AdapterStatus
    attempts: int
    name: str | None
    version: int | None  # of the name; None without one
    base_model: str
    generator: str
    fingerprint: str
    options: Mapping[str, Any]
    source_name: str | None
    source_sha256: str
    source_bytes: int
    tokens: int | None
    chunks: int | None
    rank: int | None
    bytes: int | None  # of the weights' two files
    sha256: str | None  # see blobs.py: `sha256sum <the two files> | sha256sum`
    compression_error: float | None
    timings_ms: Mapping[str, float]
    error: Failure | None
    progress: Progress
    metadata: Mapping[str, str]
    created_at: float
    updated_at: float
    last_used_at: float | None
    expires_at: float | None


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of a listing; pass `last_id` as `after` for the next one."""

    items: tuple[Adapter, ...]
    has_more: bool

    @property
    def first_id(self) -> str | None:
        return self.items[0].id if self.items else None

    @property
    def last_id(self) -> str | None:
        return self.items[-1].id if self.items else None


def new_adapter_id() -> str:
    """`adp_` and 26 characters of Crockford base32: 48 bits of milliseconds, 80 random bits.

    IDs sort by the time they were made and cannot be guessed.
    """
    number = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    return "adp_" + "".join(CROCKFORD[number >> shift & 31] for shift in range(125, -1, -5))


def is_adapter_id(text: str) -> bool:
    """True if `text` is shaped like an adapter ID (it need not exist)."""
    return ADAPTER_ID.fullmatch(text) is not None
