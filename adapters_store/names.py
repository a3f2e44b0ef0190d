"""Names and their versions. Every function is a step inside a caller's transaction."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters_store import rows
from adapters_store.records import AdapterStatus
from adapters_store.schema import adapters, names


async def next_version(connection: AsyncConnection, tenant: str, name: str) -> int:
    """Takes the next version number of a name; the first is 1. The name does not move."""
    taken = await connection.scalar(
        rows.insert(connection, names)
        .values(tenant=tenant, name=name, last_version=1)
        .on_conflict_do_update(
            index_elements=["tenant", "name"], set_={"last_version": names.c.last_version + 1}
        )
        .returning(names.c.last_version)
    )
    assert taken is not None
    return int(taken)


async def is_newest(connection: AsyncConnection, row: RowMapping) -> bool:
    """True if no later version was ever added under the name of this adapter's row."""
    last = await connection.scalar(
        sa.select(names.c.last_version).where(*_name_of(row)).with_for_update()
    )
    return bool(last == row["version"])


async def move_forward(connection: AsyncConnection, row: RowMapping) -> None:
    """Points the name of a ready adapter to it, unless it points to a later version already."""
    current = (
        sa.select(adapters.c.version).where(adapters.c.id == names.c.adapter_id).scalar_subquery()
    )
    await connection.execute(
        sa.update(names)
        .where(*_name_of(row), sa.func.coalesce(current, 0) < row["version"])
        .values(adapter_id=row["id"])
    )


async def leave(connection: AsyncConnection, row: RowMapping) -> None:
    """Moves the name of a deleted adapter off it. See `leave_deleted`."""
    if row["name"]:
        await leave_deleted(connection, *_name_of(row))


async def leave_deleted(connection: AsyncConnection, *scope: sa.ColumnElement[bool]) -> None:
    """Moves names off deleted adapters: back to the newest ready version that remains.

    A name under which nothing remains is forgotten, its version counter too. `scope` narrows
    the names looked at; without it, all of them.
    """
    remaining = sa.and_(
        adapters.c.tenant == names.c.tenant,
        adapters.c.name == names.c.name,
        rows.PRESENT,
    )
    newest_ready = (
        sa.select(adapters.c.id)
        .where(remaining, rows.unindexed(adapters.c.status) == AdapterStatus.READY)
        .order_by(adapters.c.version.desc())
        .limit(1)
        .scalar_subquery()
    )
    points_to_deleted = sa.exists().where(
        adapters.c.id == names.c.adapter_id, adapters.c.deleted_at.is_not(None)
    )
    await connection.execute(
        sa.update(names).where(*scope, points_to_deleted).values(adapter_id=newest_ready)
    )
    await connection.execute(sa.delete(names).where(*scope, ~sa.exists().where(remaining)))


def _name_of(row: RowMapping) -> tuple[sa.ColumnElement[bool], sa.ColumnElement[bool]]:
    return names.c.tenant == row["tenant"], names.c.name == row["name"]
