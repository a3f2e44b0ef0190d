"""Adapters that go for good: deleted by a caller, or past their time."""

import asyncio
import logging
from contextlib import suppress
from types import TracebackType
from typing import Self

from adapters_store import AdapterNotFound, AdapterStore, StoreError
from server.changes import Changes
from server.jobs import Jobs
from server.residency import Residency

log = logging.getLogger(__name__)

SWEEP_SECONDS = 10.0


class Removal:
    """Deletes adapters; an async context manager that also removes expired ones.

    A deleted adapter is invisible at once. Its files go after the last request that uses it; what
    could not be cleared away is tried again with the next sweep, and what a stopped server did not
    get to is cleared away by the store's next start.
    """

    def __init__(
        self, store: AdapterStore, residency: Residency, jobs: Jobs, changes: Changes
    ) -> None:
        self._store = store
        self._residency = residency
        self._jobs = jobs
        self._changes = changes
        self._sweeping: asyncio.Task[None] | None = None
        self._clearing: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        self._sweeping = asyncio.create_task(self._sweep_regularly())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._sweeping is not None
        tasks = [self._sweeping, *self._clearing.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def remove(self, tenant: str, adapter_id: str) -> None:
        """Delete an adapter; its files follow on their own. Raises AdapterNotFound."""
        await self._store.delete(tenant, adapter_id)
        self._clear(adapter_id)

    async def sweep(self) -> None:
        """Remove what has expired, and begin to clear away what else is deleted. Raises StoreError.

        That is what expired and made way for an upload before a sweep saw it, and what could not
        be cleared away before.
        """
        while expired := await self._store.expired():
            for adapter in expired:
                log.info("%s has expired", adapter.id)
                with suppress(AdapterNotFound):  # deleted in the meantime
                    await self.remove(adapter.tenant, adapter.id)
        last = None
        while deleted := await self._store.deleted(after=last):
            last = deleted[-1]
            for adapter_id in deleted:
                self._clear(adapter_id)

    async def _sweep_regularly(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                log.warning("expired adapters are not removed now: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _clear(self, adapter_id: str) -> None:
        if adapter_id not in self._clearing:
            task = self._clearing[adapter_id] = asyncio.create_task(self._clear_away(adapter_id))
            task.add_done_callback(lambda _: self._clearing.pop(adapter_id))
            self._changes.announce(adapter_id)

    async def _clear_away(self, adapter_id: str) -> None:
        try:
            await self._jobs.stop(adapter_id)
            await self._residency.remove(adapter_id)
            await self._store.purge(adapter_id)
        except Exception:
            log.exception("the files of %s stay for now", adapter_id)
