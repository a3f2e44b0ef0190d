"""Putting a store right after its last process stopped, however it stopped.

Runs at start-up, alone with the data (the store holds the lock), in a fixed number of SQL
statements, one listing of the blobs and one pass over the folders: time grows with the number of
adapters, and only by what a listing costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters_store import names, rows
from adapters_store.blobs import Blobs
from adapters_store.database import Database
from adapters_store.records import CLAIMED, MAX_ATTEMPTS, UNFINISHED, AdapterStatus, Failure
from adapters_store.schema import adapters, blobs

INTERRUPTED = Failure(
    "interrupted",
    f"the server stopped {MAX_ATTEMPTS} times while this adapter was being made; "
    "delete it and upload its source again",
)
WEIGHTS_MISSING = Failure(
    "weights_missing",
    "the weights of this adapter are missing or cut short on disk; "
    "delete it and upload its source again",
)
SOURCE_MISSING = Failure(
    "source_missing",
    "the source text of this adapter was lost before it was made; upload it again",
)

# parameters of one statement; SQLite allows 32,766
_BATCH = 10_000


@dataclass(frozen=True, slots=True)
class Recovery:
    """What start-up found and did, in adapters and, for the last one, blobs."""

    expired: int
    purged: int
    requeued: int
    interrupted: int
    weights_missing: int
    source_missing: int
    leftovers: int


async def recover(database: Database, files: Blobs) -> Recovery:
    now = time.time()
    async with database.write() as connection:
        expired = await _count(
            connection,
            sa.update(adapters)
            .where(rows.PRESENT, adapters.c.expires_at <= now)
            .values(deleted_at=now),
        )
        await names.leave_deleted(connection)
        purged = await _count(
            connection, sa.delete(adapters).where(adapters.c.deleted_at.is_not(None))
        )
        requeued = await _change(
            connection,
            {"status": AdapterStatus.QUEUED},
            adapters.c.status.in_(CLAIMED),
            adapters.c.attempts < MAX_ATTEMPTS,
        )
        interrupted = await _change(
            connection, rows.failed(INTERRUPTED), adapters.c.status.in_(CLAIMED)
        )
        weights_missing, source_missing = await _mark_damaged(connection, await files.listing())
        await connection.execute(
            sa.delete(blobs)
            .where(~sa.exists().where(adapters.c.text_key == blobs.c.key))
            .where(~sa.exists().where(adapters.c.weights_key == blobs.c.key))
        )
        known = list(await connection.scalars(sa.select(blobs.c.key)))
    # after the commit: no row refers to these any more, and nobody else is here to add one
    leftovers = await files.clear_leftovers(known)
    return Recovery(
        expired, purged, requeued, interrupted, weights_missing, source_missing, leftovers
    )


async def _mark_damaged(connection: AsyncConnection, found: dict[str, int]) -> tuple[int, int]:
    """Fails adapters whose blobs are not there in their full size."""
    held = await connection.execute(sa.select(blobs.c.key, blobs.c.bytes))
    damaged = [key for key, size in held if found.get(key) != size]
    weights = source = 0
    for keys in _batches(damaged):
        weights += await _change(
            connection,
            {**rows.failed(WEIGHTS_MISSING), "weights_key": None},
            adapters.c.weights_key.in_(keys),
        )
        source += await _change(
            connection,
            rows.failed(SOURCE_MISSING),
            adapters.c.text_key.in_(keys),
            adapters.c.status.in_(UNFINISHED),
        )
    return weights, source


async def _change(
    connection: AsyncConnection, values: dict[str, object], *where: sa.ColumnElement[bool]
) -> int:
    changed = sa.update(adapters).where(rows.PRESENT, *where)
    return await _count(connection, changed.values(updated_at=time.time(), **values))


async def _count(connection: AsyncConnection, statement: sa.UpdateBase) -> int:
    return (await connection.execute(statement)).rowcount


def _batches(keys: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(keys), _BATCH):
        yield keys[start : start + _BATCH]
