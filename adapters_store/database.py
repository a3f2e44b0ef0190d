"""Connections to the catalogue's database: SQLite by default, PostgreSQL by its URL.

SQLite gets one connection that writes and a few that only read. Every writing transaction starts
with BEGIN IMMEDIATE: SQLite's default takes the write lock only at the first write, after the
reads that the write depends on, and so loses updates between processes without an error.
"""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from adapters_store.errors import InvalidCatalogueUrl, StoreLocked, StoreUnavailable
from adapters_store.faults import translated

BUSY_TIMEOUT_S = 10.0
"""How long a writer waits for another process's transaction; ours take milliseconds."""
READERS = 4
POOL_WAIT_S = 60.0

_OWNER = zlib.crc32(b"doclora catalogue")


class Database:
    """The engines behind one catalogue URL."""

    def __init__(self, url: str) -> None:
        """`url` is `sqlite:///<file>` or `postgresql://...`; the async driver is chosen here.

        Raises InvalidCatalogueUrl.
        """
        self.url = _with_driver(_parsed(url))
        self.is_sqlite = self.url.get_backend_name() == "sqlite"
        self.place = (
            str(self.url.database)
            if self.is_sqlite
            else self.url.render_as_string(hide_password=True)
        )
        if self.is_sqlite:
            self._writer = _sqlite_engine(self.url, pool_size=1)
            sa.event.listen(self._writer.sync_engine, "begin", _begin_immediate)
            # each statement its own transaction: no BEGIN and no COMMIT, both trips to a thread
            self._reader = _sqlite_engine(
                self.url,
                pool_size=READERS,
                query_only=True,
                isolation_level="AUTOCOMMIT",
                skip_autocommit_rollback=True,
            )
        else:
            self._writer = create_async_engine(
                self.url, pool_size=READERS, pool_timeout=POOL_WAIT_S, pool_pre_ping=True
            )
            self._reader = self._writer
        self._owned = AsyncExitStack()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction that may write: committed at the end, rolled back on any exception."""
        with translated(self.place):
            async with AsyncExitStack() as leaving:
                connection = await self._connect(self._writer, leaving)
                await leaving.enter_async_context(connection.begin())
                yield connection

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection that only reads. It waits for no writer and delays none."""
        with translated(self.place):
            async with AsyncExitStack() as leaving:
                yield await self._connect(self._reader, leaving)

    async def own(self) -> None:
        """Makes this the only process with the catalogue open; raises StoreLocked.

        On PostgreSQL a session's advisory lock, which the server drops when the process dies. For
        a SQLite file the lock on the data folder does this.
        """
        if self.is_sqlite:
            return
        async with AsyncExitStack() as leaving:
            with translated(self.place):
                connection = await self._connect(self._writer, leaving)
                got_it = await connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_OWNER)))
                await connection.commit()
            if not got_it:
                raise StoreLocked(self.place, pid=None)
            # the lock lives as long as the server's session: end that, not only our use of it
            leaving.push_async_callback(connection.invalidate)
            self._owned = leaving.pop_all()

    async def close(self) -> None:
        await self._owned.aclose()
        await self._reader.dispose()
        await self._writer.dispose()

    async def _connect(self, engine: AsyncEngine, leaving: AsyncExitStack) -> AsyncConnection:
        try:
            return await leaving.enter_async_context(engine.connect())
        except (OSError, sa.exc.TimeoutError) as error:  # no answer, or none of the pool is free
            raise StoreUnavailable(self.place, str(error)) from error


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # what they say may quote a part of the password
        raise InvalidCatalogueUrl("the catalogue's URL cannot be read") from None


def _with_driver(url: URL) -> URL:
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg"}
    backend = url.get_backend_name()
    if backend not in drivers:
        raise InvalidCatalogueUrl(f"the catalogue's URL begins with {backend}://")
    return url.set(drivername=drivers[backend])


def _sqlite_engine(
    url: URL, *, pool_size: int, query_only: bool = False, **options: Any
) -> AsyncEngine:
    engine = create_async_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_WAIT_S,
        connect_args={"timeout": BUSY_TIMEOUT_S},
        **options,
    )
    sa.event.listen(engine.sync_engine, "connect", _prepare(query_only))
    return engine


def _begin_immediate(connection: sa.Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare(query_only: bool) -> Callable[[Any, Any], None]:
    pragmas = [
        "journal_mode = WAL",
        "synchronous = FULL",  # an answer given outlives a power cut; NORMAL would not sync here
        "foreign_keys = ON",
        *(["query_only = ON"] if query_only else []),
    ]

    def connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # the driver opens no transaction of its own
        cursor = connection.cursor()
        for pragma in pragmas:
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return connect
