"""From a queued row to a ready adapter.

Workers take adapter IDs from a queue; the catalogue's unfinished rows are its truth, so what a
stopped server left behind is taken up again at the next start. Several documents are in work at
once, so that the generator process can share its batches among them.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from anyio import to_thread

from adapters_store import (
    Adapter,
    AdapterNotFound,
    AdapterStatus,
    AdapterStore,
    StoreError,
    WrongStatus,
)
from generator.chunks import Chunker
from generator.process import Generated, GenerationRefused, GeneratorDied, GeneratorProcess
from server.changes import Changes
from server.metrics import Metrics, Stage
from server.registration import Registration

log = logging.getLogger(__name__)

Chunks = Sequence[Sequence[int]]


class Jobs:
    """Makes queued adapters, `workers` at once; an async context manager.

    `generator_name` is what the rows of this generator carry ("name@fingerprint").
    """

    def __init__(
        self,
        store: AdapterStore,
        chunker: Chunker,
        generator: GeneratorProcess,
        generator_name: str,
        registration: Registration,
        changes: Changes,
        metrics: Metrics,
        *,
        workers: int,
    ) -> None:
        self._store = store
        self._chunker = chunker
        self._generator = generator
        self._generator_name = generator_name
        self._registration = registration
        self._changes = changes
        self._metrics = metrics
        self._number = workers
        self._queue: asyncio.Queue[str] = asyncio.Queue()
        self._running: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        last = None
        while left := await self._store.unfinished(after=last):
            last = left[-1].id
            for adapter in left:
                self.submit(adapter.id)
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._number)]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    def submit(self, adapter_id: str) -> None:
        """Make this adapter when a worker is free."""
        self._queue.put_nowait(adapter_id)

    async def stop(self, adapter_id: str) -> None:
        """Give up a job that is running; when this returns it touches nothing any more."""
        if task := self._running.get(adapter_id):
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        while True:
            adapter_id = await self._queue.get()
            task = self._running[adapter_id] = asyncio.create_task(self._run(adapter_id))
            try:
                await asyncio.wait([task])
            finally:
                task.cancel()  # when the worker itself is cancelled: the server is stopping
                await asyncio.gather(task, return_exceptions=True)
                del self._running[adapter_id]

    async def _run(self, adapter_id: str) -> None:
        try:
            adapter = await self._store.claim(adapter_id)
            if adapter is None:  # cancelled or deleted while it was queued
                return
            self._changes.announce(adapter_id)
            await self._settle(adapter)
        except StoreError:  # not even the failure could be noted; the next start takes it up
            log.exception("%s was left unfinished", adapter_id)
        finally:
            self._changes.announce(adapter_id)

    async def _settle(self, adapter: Adapter) -> None:
        """Make the adapter, or note why that was not possible."""
        try:
            await self._make(adapter)
        except asyncio.CancelledError:
            with suppress(StoreError):
                await self._store.release(adapter.id)
            raise
        except (AdapterNotFound, WrongStatus):
            log.info("%s was deleted or cancelled while it was made", adapter.id)
        except GeneratorDied as error:
            log.warning("%s: %s", adapter.id, error)
            again = await self._store.retry(adapter.id, "generator_died", f"{error}, twice")
            if again.status is AdapterStatus.QUEUED:
                self.submit(adapter.id)
        except GenerationRefused as error:
            await self._fail(adapter, error.code, str(error))
        except StoreError as error:
            log.error("%s: %s", adapter.id, error)
            await self._fail(adapter, "storage_failed", "The adapter could not be stored.")
        except Exception:
            log.exception("%s failed", adapter.id)
            await self._fail(adapter, "internal_error", "A defect of the server; it was logged.")

    async def _fail(self, adapter: Adapter, code: str, message: str) -> None:
        log.warning("%s failed: %s", adapter.id, message)
        await self._store.fail(adapter.id, code, message)

    async def _make(self, adapter: Adapter) -> None:
        if adapter.generator != self._generator_name:
            raise GenerationRefused(
                "generator_changed",
                f"The document was queued for the generator {adapter.generator}; this server now "
                f"runs {self._generator_name}. Upload it again.",
            )
        began = time.perf_counter()
        text = (await self._store.source(adapter.id)).decode()
        chunks = await to_thread.run_sync(self._chunker.split, text)
        extracted = time.perf_counter()
        async with self._store.staging() as folder:
            generated = await self._generate(adapter.id, chunks, folder)
            done = time.perf_counter()
            await self._store.advance(adapter.id, AdapterStatus.STORING)
            self._changes.announce(adapter.id)
            await self._store.commit(
                adapter.id,
                folder,
                rank=generated.rank,
                tokens=generated.tokens,
                chunks=generated.chunks,
            )
        stages: dict[Stage, float] = {
            "extract": extracted - began,
            "generate": done - extracted,
            "store": time.perf_counter() - done,
        }
        for stage, seconds in stages.items():
            self._metrics.observe(stage, seconds)
        await self._store.record_timings(
            adapter.id, **{stage: round(seconds * 1000, 1) for stage, seconds in stages.items()}
        )
        log.info(
            "%s is ready: %d tokens in %d chunks, rank %d, %.0f ms",
            *(adapter.id, generated.tokens, generated.chunks, generated.rank),
            sum(stages.values()) * 1000,
        )
        await self._registration.preload(adapter.id)

    async def _generate(self, adapter_id: str, chunks: Chunks, folder: Path) -> Generated:
        reports: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        reporter = asyncio.create_task(self._report(adapter_id, reports))
        try:
            return await self._generator.generate(
                chunks, folder, lambda done, total: reports.put_nowait((done, total))
            )
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    async def _report(self, adapter_id: str, reports: asyncio.Queue[tuple[int, int]]) -> None:
        """Keep the row's progress up to the newest report."""
        while True:
            done, total = await reports.get()
            while not reports.empty():
                done, total = reports.get_nowait()
            await self._store.progress(adapter_id, done, total)
            self._changes.announce(adapter_id)
