"""The catalogue: every adapter of every tenant, in SQL.

Each method is one transaction, which ends whether or not its caller is cancelled. Where files must
change together with rows, the caller hands in what to do with the files (`place`, `remove`); it
runs inside the transaction, under the lock of the blob's row, as the last step before the commit.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal

import sqlalchemy as sa

from adapters_store import names, rows
from adapters_store.adding import OUTCOME, LostRace, find_or_insert, ready_twin
from adapters_store.blobs import Staged
from adapters_store.database import Database
from adapters_store.errors import AdapterNotFound
from adapters_store.records import (
    CLAIMED,
    MAX_ATTEMPTS,
    UNFINISHED,
    Adapter,
    AdapterKind,
    AdapterStatus,
    Failure,
    NewAdapter,
    Page,
    is_adapter_id,
)
from adapters_store.schema import adapters
from adapters_store.schema import names as names_table
from adapters_store.uncancelled import whole

Place = Callable[[], Awaitable[None]]
Remove = Callable[[list[str]], Awaitable[None]]


class Catalogue:
    def __init__(self, database: Database) -> None:
        self._database = database

    # ---- adding

    @whole
    async def add(self, new: NewAdapter, text: Staged, place: Place) -> tuple[Adapter, bool]:
        """The adapter for `new` and whether it was made now. See `AdapterStore.add`."""
        while True:
            try:
                async with self._database.write() as connection:
                    row, created = await find_or_insert(connection, new, text)
                    if created:
                        await place()
                    return rows.adapter_of(row), created
            except LostRace:
                continue

    # ---- looking up

    @whole
    async def get(self, tenant: str, adapter_id: str) -> Adapter:
        async with self._database.read() as connection:
            found = await rows.first(
                connection,
                sa.select(adapters).where(
                    adapters.c.id == adapter_id, adapters.c.tenant == tenant, rows.visible()
                ),
            )
        if found is None:
            raise AdapterNotFound(adapter_id)
        return rows.adapter_of(found)

    @whole
    async def resolve(self, tenant: str, id_or_name: str) -> Adapter:
        if is_adapter_id(id_or_name):
            return await self.get(tenant, id_or_name)
        current = (
            sa.select(adapters)
            .join(names_table, names_table.c.adapter_id == adapters.c.id)
            .where(names_table.c.tenant == tenant, names_table.c.name == id_or_name, rows.visible())
        )
        # nothing is ready yet, or the current version has just expired
        newest = (
            sa.select(adapters)
            .where(
                adapters.c.tenant == tenant,
                adapters.c.name == id_or_name,
                adapters.c.name != "",
                rows.visible(),
            )
            .order_by(rows.ready_first(), adapters.c.version.desc())
            .limit(1)
        )
        async with self._database.read() as connection:
            found = await rows.first(connection, current) or await rows.first(connection, newest)
        if found is None:
            raise AdapterNotFound(id_or_name)
        return rows.adapter_of(found)

    @whole
    async def present(self, adapter_id: str) -> Adapter:
        """An adapter of any tenant, expired or not; raises AdapterNotFound if it is deleted."""
        async with self._database.read() as connection:
            return rows.adapter_of(await rows.by_id(connection, adapter_id))

    @whole
    async def text_key(self, adapter_id: str) -> str:
        async with self._database.read() as connection:
            return str((await rows.by_id(connection, adapter_id))["text_key"])

    @whole
    async def page(
        self,
        tenant: str,
        *,
        after: str | None,
        limit: int,
        order: Literal["asc", "desc"],
        status: AdapterStatus | None,
        name: str | None,
        kind: AdapterKind | None,
    ) -> Page:
        query = sa.select(adapters).where(adapters.c.tenant == tenant, rows.visible())
        if name is not None:
            query = query.where(adapters.c.name == name)
        for column, value in ((adapters.c.status, status), (adapters.c.kind, kind)):
            if value is not None:
                query = query.where((column if name is None else rows.unindexed(column)) == value)
        if after is not None:
            beyond = adapters.c.id < after if order == "desc" else adapters.c.id > after
            query = query.where(beyond)
        by_id = adapters.c.id.desc() if order == "desc" else adapters.c.id.asc()
        found = await self._adapters(query.order_by(by_id).limit(limit + 1))
        return Page(items=found[:limit], has_more=len(found) > limit)

    @whole
    async def unfinished(self, after: str | None, limit: int) -> tuple[Adapter, ...]:
        query = sa.select(adapters).where(rows.PRESENT, adapters.c.status.in_(UNFINISHED))
        if after is not None:
            query = query.where(adapters.c.id > after)
        return await self._adapters(query.order_by(adapters.c.id).limit(limit))

    @whole
    async def expired(self, now: float, limit: int) -> tuple[Adapter, ...]:
        return await self._adapters(
            sa.select(adapters)
            .where(rows.PRESENT, adapters.c.expires_at <= now)
            .order_by(adapters.c.expires_at)
            .limit(limit)
        )

    @whole
    async def deleted(self, after: str | None, limit: int) -> tuple[str, ...]:
        query = sa.select(adapters.c.id).where(adapters.c.deleted_at.is_not(None))
        if after is not None:
            query = query.where(adapters.c.id > after)
        async with self._database.read() as connection:
            return tuple(await connection.scalars(query.order_by(adapters.c.id).limit(limit)))

    @whole
    async def counts(self) -> dict[AdapterStatus, int]:
        query = (
            sa.select(adapters.c.status, sa.func.count())
            .where(rows.PRESENT)
            .group_by(adapters.c.status)
        )
        async with self._database.read() as connection:
            found = {status: count for status, count in await connection.execute(query)}
        return {status: found.get(status, 0) for status in AdapterStatus}

    async def _adapters(self, query: sa.Select[Any]) -> tuple[Adapter, ...]:
        async with self._database.read() as connection:
            found = (await connection.execute(query)).mappings().all()
        return tuple(rows.adapter_of(row) for row in found)

    # ---- steps of a job

    @whole
    async def claim(self, adapter_id: str) -> Adapter | None:
        attempts = adapters.c.attempts + 1
        async with self._database.write() as connection:
            row = await rows.update(
                connection,
                adapter_id,
                (AdapterStatus.QUEUED,),
                {"status": AdapterStatus.GENERATING, "attempts": attempts},
            )
            return None if row is None else rows.adapter_of(row)

    @whole
    async def advance(self, adapter_id: str, values: Mapping[str, Any]) -> Adapter:
        async with self._database.write() as connection:
            return rows.adapter_of(await rows.must_update(connection, adapter_id, CLAIMED, values))

    @whole
    async def record_timings(self, adapter_id: str, timings_ms: Mapping[str, float]) -> Adapter:
        async with self._database.write() as connection:
            row = await rows.by_id(connection, adapter_id, lock=True)
            merged = {"timings_ms": {**row["timings_ms"], **timings_ms}}
            return rows.adapter_of(await rows.update(connection, adapter_id, None, merged) or row)

    @whole
    async def finish(
        self, adapter_id: str, weights: Staged, outcome: Mapping[str, Any], place: Place
    ) -> Adapter:
        """The adapter becomes ready and its name moves to it; see `AdapterStore.commit`."""
        async with self._database.write() as connection:
            await rows.by_id(connection, adapter_id, lock=True)
            await rows.hold_blob(connection, weights)
            row = await rows.must_update(
                connection,
                adapter_id,
                CLAIMED,
                {
                    "status": AdapterStatus.READY,
                    "weights_key": weights.key,
                    "bytes": weights.bytes,
                    **outcome,
                },
            )
            if row["version"] is not None:
                await names.move_forward(connection, row)
            await place()
            return rows.adapter_of(row)

    @whole
    async def adopt(self, adapter_id: str) -> Adapter | None:
        """The adapter becomes ready with a twin's weights; see `AdapterStore.adopt`."""
        async with self._database.write() as connection:
            row = await rows.by_id(connection, adapter_id, lock=True)
            twin = await ready_twin(connection, row["tenant"], row["fingerprint"])
            if twin is None:
                return None
            outcome = {column: twin[column] for column in OUTCOME}
            row = await rows.must_update(
                connection, adapter_id, CLAIMED, {"status": AdapterStatus.READY, **outcome}
            )
            if row["version"] is not None:
                await names.move_forward(connection, row)
            return rows.adapter_of(row)

    @whole
    async def fail(self, adapter_id: str, failure: Failure) -> Adapter:
        return await self._end(adapter_id, rows.failed(failure))

    @whole
    async def cancel(self, adapter_id: str) -> Adapter:
        return await self._end(adapter_id, {"status": AdapterStatus.CANCELLED})

    @whole
    async def retry(self, adapter_id: str, failure: Failure) -> Adapter:
        async with self._database.write() as connection:
            row = await rows.by_id(connection, adapter_id, lock=True)
            again = row["attempts"] < MAX_ATTEMPTS
            values = {"status": AdapterStatus.QUEUED} if again else rows.failed(failure)
            return rows.adapter_of(
                await rows.update(connection, adapter_id, CLAIMED, values) or row
            )

    @whole
    async def release(self, adapter_id: str) -> Adapter:
        attempts = adapters.c.attempts - 1
        async with self._database.write() as connection:
            row = await rows.update(
                connection,
                adapter_id,
                CLAIMED,
                {"status": AdapterStatus.QUEUED, "attempts": attempts},
            )
            return rows.adapter_of(row or await rows.by_id(connection, adapter_id))

    async def _end(self, adapter_id: str, values: Mapping[str, Any]) -> Adapter:
        async with self._database.write() as connection:
            row = await rows.update(connection, adapter_id, UNFINISHED, values)
            return rows.adapter_of(row or await rows.by_id(connection, adapter_id))

    # ---- a ready adapter

    @whole
    async def fail_weights(self, key: str, failure: Failure) -> None:
        """Every adapter with these weights fails: they are damaged beyond use.

        Names keep pointing to them: an error is better than yesterday's answers unannounced.
        """
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(adapters)
                .where(rows.PRESENT, adapters.c.weights_key == key)
                .values(updated_at=time.time(), **rows.failed(failure))
            )

    @whole
    async def touch(self, adapter_ids: Iterable[str]) -> None:
        async with self._database.write() as connection:
            await connection.execute(
                sa.update(adapters)
                .where(adapters.c.id.in_(list(adapter_ids)))
                .values(last_used_at=time.time())
            )

    # ---- going away

    @whole
    async def delete(self, tenant: str, adapter_id: str) -> None:
        async with self._database.write() as connection:
            row = await rows.first(
                connection,
                sa.update(adapters)
                .where(adapters.c.id == adapter_id, adapters.c.tenant == tenant, rows.PRESENT)
                .values(deleted_at=time.time())
                .returning(adapters),
            )
            if row is None:
                raise AdapterNotFound(adapter_id)
            await names.leave(connection, row)

    @whole
    async def purge(self, adapter_id: str, remove: Remove) -> None:
        async with self._database.write() as connection:
            row = await rows.first(
                connection,
                sa.delete(adapters)
                .where(adapters.c.id == adapter_id, adapters.c.deleted_at.is_not(None))
                .returning(adapters),
            )
            if row is not None:
                keys = (row["text_key"], row["weights_key"])
                await remove(await rows.forget_blobs(connection, keys))

    @whole
    async def drop_unreferenced(self, blob: Staged, remove: Remove) -> None:
        """Removes a blob's files unless some adapter refers to it."""
        async with self._database.write() as connection:
            await rows.hold_blob(connection, blob)
            await remove(await rows.forget_blobs(connection, (blob.key,)))
