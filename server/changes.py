"""Waiting for an adapter to change: for answers that wait and for event streams."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from adapters_store import Adapter, AdapterStore


class Changes:
    """Wakes those who wait for an adapter when this process has changed it."""

    def __init__(self, store: AdapterStore) -> None:
        self._store = store
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._closed = False

    def announce(self, adapter_id: str) -> None:
        """The adapter is not what it was: whoever waits for it should look again."""
        for event in self._waiting.get(adapter_id, ()):
            event.set()

    def close(self) -> None:
        """End every wait and every stream, for a server that is stopping."""
        self._closed = True
        for adapter_id in self._waiting:
            self.announce(adapter_id)

    async def watch(self, tenant: str, adapter_id: str) -> AsyncIterator[Adapter]:
        """The adapter as it is and after each change, up to its final state.

        Raises AdapterNotFound, also when the adapter is deleted meanwhile.
        """
        seen = None
        with self._listening(adapter_id) as changed:
            while True:
                changed.clear()  # before looking: a change that comes while we look is not missed
                adapter = await self._store.get(tenant, adapter_id)
                if adapter != seen:
                    yield adapter
                    seen = adapter
                if adapter.status.terminal or self._closed:
                    return
                await changed.wait()

    async def finished(self, tenant: str, adapter_id: str, seconds: float) -> Adapter:
        """The adapter in its final state, or as it is after `seconds`; raises AdapterNotFound."""
        adapter = await self._store.get(tenant, adapter_id)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                async for state in self.watch(tenant, adapter_id):
                    adapter = state
        return adapter

    @contextmanager
    def _listening(self, adapter_id: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        self._waiting[adapter_id].add(event)
        try:
            yield event
        finally:
            self._waiting[adapter_id].remove(event)
            if not self._waiting[adapter_id]:
                del self._waiting[adapter_id]
