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
    a stopped server did not get to is cleared away by the store's next start.
    """

    def __init__(
        self, store: AdapterStore, residency: Residency, jobs: Jobs, changes: Changes
    ) -> None:
        self._store = store
        self._residency = residency
        self._jobs = jobs
        self._changes = changes
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._start(asyncio.create_task(self._sweep()))
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def remove(self, tenant: str, adapter_id: str) -> None:
        """Delete an adapter; its files follow on their own. Raises AdapterNotFound."""
        await self._store.delete(tenant, adapter_id)
        self._changes.announce(adapter_id)
        self._start(asyncio.create_task(self._clear(adapter_id)))

    async def _clear(self, adapter_id: str) -> None:
        try:
            await self._jobs.stop(adapter_id)
            await self._residency.remove(adapter_id)
            await self._store.purge(adapter_id)
        except Exception:
            log.exception("the files of %s stay until the next start", adapter_id)

    async def _sweep(self) -> None:
        while True:
            try:
                while expired := await self._store.expired():
                    for adapter in expired:
                        log.info("%s has expired", adapter.id)
                        with suppress(AdapterNotFound):  # deleted in the meantime
                            await self.remove(adapter.tenant, adapter.id)
            except StoreError as error:
                log.warning("expired adapters are not removed now: %s", error)
            await asyncio.sleep(SWEEP_SECONDS)

    def _start(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
