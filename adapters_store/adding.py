"""Adding an adapter: the row that already answers, or a new one. Steps of one transaction."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import RowMapping
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters_store import names, rows
from adapters_store.blobs import Staged
from adapters_store.records import AdapterStatus, NewAdapter, new_adapter_id
from adapters_store.schema import ANSWERS, adapters, one_answer

OUTCOME = ("weights_key", "tokens", "chunks", "rank", "bytes", "compression_error")
"""What a generator made of a source: equal for equal fingerprints."""


class LostRace(Exception):
    """Another transaction has just inserted the same answer: roll back and look again."""


async def find_or_insert(
    connection: AsyncConnection, new: NewAdapter, text: Staged
) -> tuple[RowMapping, bool]:
    """The row for `new`, and whether it was inserted; raises LostRace."""
    answer = await _answer(connection, new)
    if answer is not None:
        return await _reuse(connection, answer, new), False
    return await _insert(connection, new, text), True


async def _answer(connection: AsyncConnection, new: NewAdapter) -> RowMapping | None:
    """The row that stands for the same content; without a name asked for, under any name."""
    query = (
        sa.select(adapters)
        .where(adapters.c.tenant == new.tenant, adapters.c.fingerprint == new.fingerprint, ANSWERS)
        .order_by(rows.ready_first(), adapters.c.id)
        .limit(1)
        .with_for_update()
    )
    if new.name is not None:
        query = query.where(adapters.c.name == new.name)
    while (found := await rows.first(connection, query)) is not None:
        if found["expires_at"] is None or found["expires_at"] > time.time():
            return found
        # expired and not yet reaped; it must not hold the place of the new one. Its files are for
        # whoever asks for `deleted` adapters
        await rows.update(connection, found["id"], None, {"deleted_at": time.time()})
        await names.leave(connection, found)
    return None


async def _reuse(connection: AsyncConnection, found: RowMapping, new: NewAdapter) -> RowMapping:
    """Content that returns to a name is the name's newest version; the later expiry holds."""
    changes: dict[str, Any] = {}
    if found["expires_at"] is not None:
        later = new.expires_at is None or new.expires_at > found["expires_at"]
        changes["expires_at"] = new.expires_at if later else found["expires_at"]
    if new.name is not None and not await names.is_newest(connection, found):
        changes["version"] = await names.next_version(connection, new.tenant, new.name)
    if not changes:
        return found
    row = await rows.update(connection, found["id"], None, changes)
    assert row is not None
    if row["status"] == AdapterStatus.READY and row["version"] is not None:
        await names.move_forward(connection, row)
    return row


async def _insert(connection: AsyncConnection, new: NewAdapter, text: Staged) -> RowMapping:
    await rows.hold_blob(connection, text)
    donor = None if new.name is None else await ready_twin(connection, new.tenant, new.fingerprint)
    now = time.time()
    outcome = (
        {"tokens": new.tokens, "chunks": new.chunks}
        if donor is None
        else {column: donor[column] for column in OUTCOME}
    )
    row = await rows.first(
        connection,
        rows.insert(connection, adapters)
        .values(
            id=new_adapter_id(),
            tenant=new.tenant,
            kind=new.kind,
            status=AdapterStatus.QUEUED if donor is None else AdapterStatus.READY,
            attempts=0,
            name=new.name or "",
            base_model=new.base_model,
            generator=new.generator,
            fingerprint=new.fingerprint,
            options=dict(new.options),
            source_name=new.source_name,
            source_sha256=new.source_sha256,
            source_bytes=new.source_bytes,
            text_key=text.key,
            timings_ms={},
            progress_done=0,
            progress_total=0,
            metadata=dict(new.metadata),
            created_at=now,
            updated_at=now,
            expires_at=new.expires_at,
            **outcome,
        )
        .on_conflict_do_nothing(index_elements=list(one_answer.columns), index_where=ANSWERS)
        .returning(adapters),
    )
    if row is None:
        raise LostRace
    if new.name is None:
        return row
    version = await names.next_version(connection, new.tenant, new.name)
    named = await rows.update(connection, row["id"], None, {"version": version})
    assert named is not None
    if donor is not None:
        await names.move_forward(connection, named)
    return named


async def ready_twin(
    connection: AsyncConnection, tenant: str, fingerprint: str
) -> RowMapping | None:
    """A ready adapter of the same content under another name, whose weights will do here too."""
    return await rows.first(
        connection,
        sa.select(adapters)
        .where(adapters.c.tenant == tenant, adapters.c.fingerprint == fingerprint, ANSWERS)
        .where(adapters.c.status == AdapterStatus.READY, rows.visible())
        .limit(1)
        .with_for_update(),
    )
