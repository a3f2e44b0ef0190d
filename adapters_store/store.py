"""Catalogue and blobs as one promise: a row never speaks of files that are not there.

What an answer of this class says survives a kill and a power cut. Files come first (staged, synced,
renamed into place), the row that makes them count comes last, and what a killed process left
behind is put right by the next `open`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from adapters_store import migrations
from adapters_store.blobs import WEIGHTS, Blobs, DamagedBlob, Staged, sha256_of
from adapters_store.catalogue import Catalogue
from adapters_store.database import Database
from adapters_store.durable import make_folder
from adapters_store.errors import CorruptSource, CorruptWeights, StoreError, WrongStatus
from adapters_store.faults import translated
from adapters_store.identity import bind
from adapters_store.lock import FolderLock
from adapters_store.records import Adapter, AdapterKind, AdapterStatus, Failure, NewAdapter, Page
from adapters_store.recovery import Recovery, recover
from adapters_store.uncancelled import to_its_end

MAX_PAGE = 1000

logger = logging.getLogger(__name__)
T = TypeVar("T")


class AdapterStore:
    """Every adapter of every tenant, at rest under one data folder.

    Made by `open`; an async context manager that closes. Every method may raise StoreUnwritable
    (disk full, read-only) or StoreUnavailable (catalogue locked or down), and then has changed
    nothing. What a method began it ends, even when its caller is cancelled meanwhile.
    """

    def __init__(
        self,
        folder: Path,
        database: Database,
        blobs: Blobs,
        recovery: Recovery,
        closing: AsyncExitStack,
    ) -> None:
        self.folder = folder
        self.recovery = recovery
        self._catalogue = Catalogue(database)
        self._blobs = blobs
        self._closing = closing

    @classmethod
    async def open(cls, root: Path, url: str | None = None) -> Self:
        """Opens the store under `root`, creating or migrating and repairing it as needed.

        `url` is the catalogue's database, by default a SQLite file under `root`. Raises
        StoreLocked when another process has it open, UnreadableCatalogue when it is damaged or
        of a newer release, FolderMismatch when catalogue and files are not each other's,
        StoreUnwritable.
        """
        async with AsyncExitStack() as closing:
            with translated(root):
                make_folder(root)
                lock = FolderLock(root)
                closing.callback(lock.release)
                blobs = await asyncio.to_thread(Blobs, root / "blobs")
                closing.callback(blobs.close)
            database = Database(url or f"sqlite:///{(root / 'catalogue.db').resolve()}")
            closing.push_async_callback(database.close)
            await database.own()
            async with database.write() as connection:
                await connection.run_sync(migrations.upgrade)
            await bind(database, blobs)
            recovery = await recover(database, blobs)
            logger.info("opened %s: %s", root, recovery)
            return cls(root, database, blobs, recovery, closing.pop_all())
        raise AssertionError("unreachable")

    async def close(self) -> None:
        await self._closing.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    # ---- adding and looking up

    async def add(self, new: NewAdapter, text: Path | bytes) -> tuple[Adapter, bool]:
        """Keeps the source text and queues an adapter for it; returns it and whether it is new.

        `text` is the text itself or a file with it, which is copied. A tenant's adapter with the
        same fingerprint that is not failed, cancelled, expired or deleted is returned instead
        (False), living on until the later of the two expiry times. With a name it must have that
        name: content that comes back to a name after newer content takes the next version, and
        the name moves to it. Where only another name has the content ready, a new adapter with
        the same weights is `ready` at once (True).
        """
        return await to_its_end(self._add(new, text))

    async def get(self, tenant: str, adapter_id: str) -> Adapter:
        """The tenant's adapter; raises AdapterNotFound."""
        return await self._catalogue.get(tenant, adapter_id)

    async def resolve(self, tenant: str, id_or_name: str) -> Adapter:
        """The adapter of an ID, or the one a name points to; raises AdapterNotFound.

        A name of which no version is ready yet resolves to its newest adapter, whose status
        tells why there is no answer.
        """
        return await self._catalogue.resolve(tenant, id_or_name)

    async def list(
        self,
        tenant: str,
        *,
        after: str | None = None,
        limit: int = 20,
        order: Literal["asc", "desc"] = "desc",
        status: AdapterStatus | None = None,
        name: str | None = None,
        kind: AdapterKind | None = None,
    ) -> Page:
        """A tenant's adapters, newest first or oldest first, from beyond the ID `after`.

        Walking the pages meets every adapter that was there at the first one exactly once.
        """
        _check_limit(limit)
        return await self._catalogue.page(
            tenant, after=after, limit=limit, order=order, status=status, name=name, kind=kind
        )

    async def source(self, adapter_id: str) -> bytes:
        """The source text, checked against its SHA-256; raises AdapterNotFound, CorruptSource."""
        key = await self._catalogue.text_key(adapter_id)
        try:
            return await self._blobs.text(key)
        except DamagedBlob as damage:
            raise CorruptSource(adapter_id, sha256_of(key), damage.found) from damage

    async def weights(self, adapter_id: str) -> Path:
        """The local PEFT folder of a ready adapter, its checksum verified once per process.

        The folder stays until the adapter is purged. Raises AdapterNotFound, WrongStatus, and
        CorruptWeights, after which every adapter with these weights is `failed`.
        """
        adapter = await self._catalogue.present(adapter_id)
        if adapter.status != AdapterStatus.READY or adapter.sha256 is None:
            raise WrongStatus(adapter_id, adapter.status, (AdapterStatus.READY,))
        key = f"{WEIGHTS}/{adapter.sha256}"
        try:
            return await self._blobs.weights(key)
        except DamagedBlob as damage:
            corrupt = CorruptWeights(adapter_id, adapter.sha256, damage.found)
            await self._catalogue.fail_weights(key, Failure("corrupt_weights", str(corrupt)))
            raise corrupt from damage

    # ---- the steps of a job

    async def claim(self, adapter_id: str) -> Adapter | None:
        """Takes up a queued adapter: `generating`, one more attempt. None if it is not queued."""
        return await self._catalogue.claim(adapter_id)

    async def advance(
        self,
        adapter_id: str,
        status: Literal[AdapterStatus.EXTRACTING, AdapterStatus.GENERATING, AdapterStatus.STORING],
        *,
        tokens: int | None = None,
        chunks: int | None = None,
    ) -> Adapter:
        """Moves a claimed adapter to another stage; raises AdapterNotFound or WrongStatus.

        WrongStatus means that the adapter was cancelled: the job should stop.
        """
        known = {"tokens": tokens, "chunks": chunks}
        values = {column: value for column, value in known.items() if value is not None}
        return await self._catalogue.advance(adapter_id, {"status": status, **values})

    async def progress(self, adapter_id: str, done: int, total: int) -> Adapter:
        """Notes that `done` of `total` chunks are made; raises as `advance` does."""
        return await self._catalogue.advance(
            adapter_id, {"progress_done": done, "progress_total": total}
        )

    def staging(self) -> AbstractAsyncContextManager[Path]:
        """A fresh folder to build an adapter in, on the filesystem of the store.

        It is removed at the end, whatever happens in between.
        """
        return self._blobs.staging()

    async def commit(
        self,
        adapter_id: str,
        staged: Path,
        *,
        rank: int,
        tokens: int,
        chunks: int,
        compression_error: float | None = None,
    ) -> Adapter:
        """Stores the weights in `staged` (a PEFT folder made under `staging`) for good.

        The adapter becomes `ready` and its name moves to it, in one step; the files leave
        `staged`. Raises AdapterNotFound or WrongStatus (deleted or cancelled meanwhile),
        IncompleteWeights.
        """
        outcome = {
            "rank": rank,
            "tokens": tokens,
            "chunks": chunks,
            "compression_error": compression_error,
        }
        return await to_its_end(self._commit(adapter_id, staged, outcome))

    async def adopt(self, adapter_id: str) -> Adapter | None:
        """Makes a claimed adapter ready with the weights of a ready one of the same content.

        Its tenant's adapter with the same fingerprint under another name is meant: content that
        came twice at once is generated once. None if there is none; raises as `advance` does.
        """
        return await self._catalogue.adopt(adapter_id)

    async def record_timings(self, adapter_id: str, **milliseconds: float) -> Adapter:
        """Adds stages (extract, generate, store, register) to `timings_ms`."""
        return await self._catalogue.record_timings(adapter_id, milliseconds)

    async def fail(self, adapter_id: str, code: str, message: str) -> Adapter:
        """Ends an unfinished adapter as `failed`; a finished one is returned as it is."""
        return await self._catalogue.fail(adapter_id, Failure(code, message))

    async def cancel(self, adapter_id: str) -> Adapter:
        """Ends an unfinished adapter as `cancelled`; a finished one is returned as it is."""
        return await self._catalogue.cancel(adapter_id)

    async def retry(self, adapter_id: str, code: str, message: str) -> Adapter:
        """Queues a claimed adapter again, or fails it for this reason after its last attempt."""
        return await self._catalogue.retry(adapter_id, Failure(code, message))

    async def release(self, adapter_id: str) -> Adapter:
        """Gives a claim back as if it had not been taken, for a server that is shutting down."""
        return await self._catalogue.release(adapter_id)

    # ---- use, deletion, looking over everything

    async def touch(self, adapter_ids: Iterable[str]) -> None:
        """Notes that these adapters were used now, in one write."""
        if ids := set(adapter_ids):
            await self._catalogue.touch(ids)

    async def delete(self, tenant: str, adapter_id: str) -> None:
        """Makes an adapter invisible for good; raises AdapterNotFound.

        Its name goes back to the newest ready version that remains, or is gone. The files stay
        until `purge`, which belongs after the last use of the weights; `deleted` tells what is
        still to be purged, and `open` purges too.
        """
        await self._catalogue.delete(tenant, adapter_id)

    async def purge(self, adapter_id: str) -> None:
        """Removes a deleted adapter's row, and the files that no other adapter shares.

        Does nothing for an adapter that is not deleted.
        """
        await to_its_end(self._catalogue.purge(adapter_id, self._blobs.remove))

    async def unfinished(
        self, *, after: str | None = None, limit: int = 100
    ) -> tuple[Adapter, ...]:
        """Jobs of all tenants that are not finished, oldest first, from beyond the ID `after`."""
        _check_limit(limit)
        return await self._catalogue.unfinished(after, limit)

    async def expired(self, now: float | None = None, limit: int = 100) -> tuple[Adapter, ...]:
        """Adapters of all tenants past their expiry, for the caller to `delete` and `purge`."""
        _check_limit(limit)
        return await self._catalogue.expired(time.time() if now is None else now, limit)

    async def deleted(self, *, after: str | None = None, limit: int = 100) -> tuple[str, ...]:
        """IDs of all tenants' adapters that wait for their `purge`, from beyond the ID `after`.

        Not only what `delete` deleted: an expired adapter makes way for an upload of its content.
        """
        _check_limit(limit)
        return await self._catalogue.deleted(after, limit)

    async def counts(self) -> Mapping[AdapterStatus, int]:
        """How many adapters of all tenants have each status."""
        return await self._catalogue.counts()

    # ---- files first, then the row

    async def _add(self, new: NewAdapter, text: Path | bytes) -> tuple[Adapter, bool]:
        async with self.staging() as folder:
            blob = await self._blobs.stage_text(text, folder)
            return await self._keep(
                blob, self._catalogue.add(new, blob, lambda: self._blobs.place(blob))
            )

    async def _commit(self, adapter_id: str, staged: Path, outcome: Mapping[str, Any]) -> Adapter:
        blob = await self._blobs.stage_weights(staged)
        return await self._keep(
            blob,
            self._catalogue.finish(adapter_id, blob, outcome, lambda: self._blobs.place(blob)),
        )

    async def _keep(self, blob: Staged, transaction: Awaitable[T]) -> T:
        """Runs the transaction that makes `blob` count; takes its files back if it fails."""
        try:
            return await transaction
        except BaseException:
            try:
                await self._catalogue.drop_unreferenced(blob, self._blobs.remove)
            except (StoreError, OSError):
                # a disk that took no row may take no cleaning up either; `open` will do it
                logger.warning("left %s for the next start to clear away", blob.key)
            raise


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_PAGE:
        raise ValueError(f"limit is {limit}; it must be between 1 and {MAX_PAGE}")
