"""Single steps on rows of adapters and blobs, inside a caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters_store.blobs import Staged, sha256_of
from adapters_store.errors import AdapterNotFound, WrongStatus
from adapters_store.records import Adapter, AdapterKind, AdapterStatus, Failure, Progress
from adapters_store.schema import adapters, blobs

PRESENT = adapters.c.deleted_at.is_(None)

_SAME = (
    *("id", "tenant", "attempts", "version", "base_model", "generator", "fingerprint", "options"),
    *("source_name", "source_sha256", "source_bytes", "tokens", "chunks", "rank", "bytes"),
    *("compression_error", "timings_ms", "metadata"),
    *("created_at", "updated_at", "last_used_at", "expires_at"),
)


def adapter_of(row: RowMapping) -> Adapter:
    failed = row["error_code"] is not None
    return Adapter(
        kind=AdapterKind(row["kind"]),
        status=AdapterStatus(row["status"]),
        name=row["name"] or None,
        sha256=sha256_of(row["weights_key"]) if row["weights_key"] else None,
        error=Failure(row["error_code"], row["error_message"]) if failed else None,
        progress=Progress(row["progress_done"], row["progress_total"]),
        **{field: row[field] for field in _SAME},
    )


def failed(failure: Failure) -> dict[str, Any]:
    """The columns of an adapter that failed."""
    return {
        "status": AdapterStatus.FAILED,
        "error_code": failure.code,
        "error_message": failure.message,
    }


def visible() -> sa.ColumnElement[bool]:
    """Neither deleted nor expired."""
    not_expired = sa.or_(adapters.c.expires_at.is_(None), adapters.c.expires_at > time.time())
    return sa.and_(PRESENT, not_expired)


def unindexed(column: sa.Column[str]) -> sa.ColumnElement[str]:
    """The column's value, out of reach of its indexes.

    For a query that names a name: names are rare and statuses are not, but SQLite has no
    statistics to tell, and would as soon walk through every ready adapter.
    """
    return column.concat("")


def ready_first() -> sa.ColumnElement[Any]:
    return sa.case((adapters.c.status == AdapterStatus.READY, 0), else_=1)


def insert(connection: AsyncConnection, table: sa.Table) -> sqlite.Insert | postgresql.Insert:
    """An INSERT that can say ON CONFLICT, which SQLAlchemy spells once per dialect."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    return postgresql.insert(table)


async def first(
    connection: AsyncConnection, query: sa.Select[Any] | sa.UpdateBase
) -> RowMapping | None:
    return (await connection.execute(query)).mappings().first()


async def by_id(connection: AsyncConnection, adapter_id: str, *, lock: bool = False) -> RowMapping:
    """The row of an adapter that is not deleted; raises AdapterNotFound."""
    query = sa.select(adapters).where(adapters.c.id == adapter_id, PRESENT)
    row = await first(connection, query.with_for_update() if lock else query)
    if row is None:
        raise AdapterNotFound(adapter_id)
    return row


async def update(
    connection: AsyncConnection,
    adapter_id: str,
    allowed: Iterable[AdapterStatus] | None,
    values: Mapping[str, Any],
) -> RowMapping | None:
    """Compare and set: changes the row if its status is `allowed`; None if it is not."""
    query = sa.update(adapters).where(adapters.c.id == adapter_id, PRESENT)
    if allowed is not None:
        query = query.where(adapters.c.status.in_(list(allowed)))
    return await first(
        connection, query.values(updated_at=time.time(), **values).returning(adapters)
    )


async def must_update(
    connection: AsyncConnection,
    adapter_id: str,
    allowed: Iterable[AdapterStatus],
    values: Mapping[str, Any],
) -> RowMapping:
    """As `update`; raises AdapterNotFound or WrongStatus where it changes nothing."""
    row = await update(connection, adapter_id, allowed, values)
    if row is None:
        found = await by_id(connection, adapter_id)
        raise WrongStatus(adapter_id, found["status"], allowed)
    return row


async def hold_blob(connection: AsyncConnection, blob: Staged) -> None:
    """Registers a blob and locks its row until the transaction ends."""
    statement = insert(connection, blobs).values(key=blob.key, bytes=blob.bytes)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["key"], set_={"bytes": statement.excluded.bytes}
        )
    )


async def forget_blobs(connection: AsyncConnection, keys: Iterable[str | None]) -> list[str]:
    """Deletes the rows of those blobs that no adapter refers to; returns their keys.

    The rows stay locked until the transaction ends, so the caller may remove the files.
    """
    forgotten = []
    for key in sorted({key for key in keys if key}):
        # lock first and look afterwards: whoever held the lock may have added a referrer
        await connection.execute(sa.select(blobs).where(blobs.c.key == key).with_for_update())
        gone = await connection.scalar(
            sa.delete(blobs)
            .where(blobs.c.key == key)
            .where(~sa.exists().where(adapters.c.text_key == key))
            .where(~sa.exists().where(adapters.c.weights_key == key))
            .returning(blobs.c.key)
        )
        if gone is not None:
            forgotten.append(key)
    return forgotten
