"""One catalogue and one folder of blobs belong together, by an ID that both hold.

Start-up trusts the pair to repair each by the other. With a volume that is not mounted it would
fail every adapter; with a catalogue that was lost it would clear every file away.
"""

from __future__ import annotations

import asyncio
import secrets

import sqlalchemy as sa

from adapters_store.blobs import Blobs
from adapters_store.database import Database
from adapters_store.errors import FolderMismatch
from adapters_store.schema import blobs, identity


async def bind(database: Database, files: Blobs) -> None:
    """Checks that the two belong together, or ties them if both are empty.

    Raises FolderMismatch.
    """
    written = await asyncio.to_thread(files.identity)
    async with database.write() as connection:
        known = await connection.scalar(sa.select(identity.c.id))
        if known is not None and known == written:
            return
        rows = await connection.scalar(sa.select(sa.func.count()).select_from(blobs))
        if rows or not await asyncio.to_thread(files.empty):
            raise FolderMismatch(database.place, files.folder)
        fresh = secrets.token_hex(16)
        await asyncio.to_thread(files.identify, fresh)
        await connection.execute(sa.delete(identity))
        await connection.execute(sa.insert(identity).values(id=fresh))
