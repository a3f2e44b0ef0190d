"""From a queued row to a ready adapter.

Workers take adapters from a queue; the catalogue's unfinished rows are its truth, so what a
stopped server left behind is taken up again at the next start. Several adapters are in work at
once, so that a generator's process can share its batches among them. A job whose beginning or end
the store cannot note now waits until it can.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from anyio import to_thread

from adapters_store import (
    Adapter,
    AdapterNotFound,
    AdapterStatus,
    AdapterStore,
    StoreError,
    StoreUnavailable,
    StoreUnwritable,
    WrongStatus,
)
from generator.process import Generated, GenerationRefused, GeneratorDied, GeneratorProcess
from server.changes import Changes
from server.generators import Generators, ServedGenerator
from server.metrics import Metrics, Stage
from server.registration import Registration

log = logging.getLogger(__name__)

Chunks = Sequence[Sequence[int]]
T = TypeVar("T")

PAUSES_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Jobs:
    """Makes queued adapters, `workers` at once; an async context manager."""

    def __init__(
        self,
        store: AdapterStore,
        generators: Generators,
        registration: Registration,
        changes: Changes,
        metrics: Metrics,
        *,
        workers: int,
    ) -> None:
        self._store = store
        self._generators = generators
        self._registration = registration
        self._changes = changes
        self._metrics = metrics
        self._number = workers
        self._queue: asyncio.Queue[Adapter] = asyncio.Queue()
        self._known: set[str] = set()  # submitted and not yet done with
        self._equal: dict[tuple[str, str], deque[Adapter]] = {}  # behind one that is being made
        self._running: dict[str, asyncio.Task[None]] = {}
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        last = None
        while left := await self._store.unfinished(after=last):
            last = left[-1].id
            for adapter in left:
                self.submit(adapter)
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

    def submit(self, adapter: Adapter) -> None:
        """Make this adapter when a worker is free. One that is on its way already is left alone."""
        if adapter.id not in self._known:
            self._known.add(adapter.id)
            self._queue.put_nowait(adapter)

    async def stop(self, adapter_id: str) -> None:
        """End the work on an adapter that was cancelled or deleted; when this returns nothing
        touches it any more."""
        if task := self._running.get(adapter_id):
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        """Take what is queued. Of equal content one is made at a time: the next takes its weights,
        or is made itself if there are none."""
        while True:
            adapter = await self._queue.get()
            content = adapter.tenant, adapter.fingerprint
            if content in self._equal:
                self._equal[content].append(adapter)
                continue
            equal = self._equal[content] = deque([adapter])
            while equal:
                await self._finish(equal.popleft().id)
            del self._equal[content]

    async def _finish(self, adapter_id: str) -> None:
        task = self._running[adapter_id] = asyncio.create_task(self._run(adapter_id))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()  # when the worker itself is cancelled: the server is stopping
            await asyncio.gather(task, return_exceptions=True)
            del self._running[adapter_id]
            self._known.discard(adapter_id)

    async def _run(self, adapter_id: str) -> None:
        try:
            while await self._attempt(adapter_id):
                pass
        except asyncio.CancelledError:
            with suppress(StoreError):
                await self._store.release(adapter_id)
            raise
        except (AdapterNotFound, WrongStatus):
            log.info("%s was deleted or cancelled while it was made", adapter_id)
        except Exception:  # the same content again, or the next start, takes it up
            log.exception("%s was left unfinished", adapter_id)
        finally:
            self._changes.announce(adapter_id)

    async def _attempt(self, adapter_id: str) -> bool:
        """Make the adapter, or note why that was not possible. True: it is to be tried again.

        Raises AdapterNotFound, WrongStatus: it was deleted or cancelled meanwhile.
        """
        adapter = await _insist(partial(self._store.claim, adapter_id))
        if adapter is None:  # cancelled or deleted while it was queued
            return False
        self._changes.announce(adapter_id)
        try:
            await self._make(adapter)
        except (AdapterNotFound, WrongStatus):
            raise
        except GeneratorDied as error:
            return await self._retry(adapter_id, error)
        except GenerationRefused as error:
            await self._fail(adapter_id, error.code, str(error))
        except StoreError as error:
            log.error("%s: %s", adapter_id, error)
            await self._fail(adapter_id, "storage_failed", "The adapter could not be stored.")
        except Exception:
            log.exception("%s failed", adapter_id)
            await self._fail(adapter_id, "internal_error", "A defect of the server; it was logged.")
        return False

    async def _retry(self, adapter_id: str, error: GeneratorDied) -> bool:
        log.warning("%s: %s", adapter_id, error)
        retry = partial(self._store.retry, adapter_id, "generator_died", f"{error}, twice")
        again = await _insist(retry)
        self._changes.announce(adapter_id)
        return again.status is AdapterStatus.QUEUED

    async def _fail(self, adapter_id: str, code: str, message: str) -> None:
        log.warning("%s failed: %s", adapter_id, message)
        await _insist(partial(self._store.fail, adapter_id, code, message))

    async def _make(self, adapter: Adapter) -> None:
        if await _insist(partial(self._store.adopt, adapter.id)) is None:
            await self._generate(adapter)
        else:
            log.info("%s is ready: the same content was made under another name", adapter.id)
        await self._registration.preload(adapter.id)

    async def _generate(self, adapter: Adapter) -> None:
        generator = self._generator_of(adapter)
        began = time.perf_counter()
        text = (await self._store.source(adapter.id)).decode()
        chunks = await to_thread.run_sync(generator.splitter.split, text)
        extracted = time.perf_counter()
        async with self._store.staging() as folder:
            generated = await self._generated(generator.process, adapter.id, chunks, folder)
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

    def _generator_of(self, adapter: Adapter) -> ServedGenerator:
        """The very generator that the adapter was queued for; raises GenerationRefused."""
        generator = self._generators.get(adapter.kind)
        if generator is not None and generator.name == adapter.generator:
            return generator
        now = f"runs {generator.name}" if generator is not None else "runs none of its kind"
        raise GenerationRefused(
            "generator_changed",
            f"The adapter was queued for the generator {adapter.generator}; this server now {now}. "
            "Upload its source again.",
        )

    async def _generated(
        self, generator: GeneratorProcess, adapter_id: str, chunks: Chunks, folder: Path
    ) -> Generated:
        reports: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        reporter = asyncio.create_task(self._report(adapter_id, reports))
        try:
            return await generator.generate(
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


async def _insist(step: Callable[[], Awaitable[T]]) -> T:
    """Take a step in the store, again and again while its disk is full or it does not answer."""
    for pause in chain(PAUSES_SECONDS, repeat(PAUSES_SECONDS[-1])):
        try:
            return await step()
        except (StoreUnwritable, StoreUnavailable) as error:
            log.warning("a job waits %g s for the store: %s", pause, error)
            await asyncio.sleep(pause)
    raise AssertionError("unreachable")
