"""Which adapters are loaded in the engine: one owner of load, evict, drain and remove.

One task owns all state and takes commands from a queue. Loads and unloads run as tasks of their own
and report back through the same queue, so a slow load never delays a request whose adapter is
already there. Requests hold a lease while they run: a leased adapter is never unloaded.

    absent -> wanted -> loading -> resident -> unloading -> absent
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
Folder = Callable[[], Awaitable[Path]]


class Loader(Protocol):
    """What residency needs of the engine."""

    async def load(self, name: str, folder: Path) -> None: ...

    async def unload(self, name: str) -> None: ...


class EngineRefused(Exception):
    """The engine does not take this adapter; the message says what does not fit."""


class EngineStopped(Exception):
    """The engine is gone: it died, or the server is shutting down."""


class AdapterGone(Exception):
    """The adapter is being removed and takes no new requests."""

    def __init__(self, adapter_id: str) -> None:
        super().__init__(f"The adapter {adapter_id!r} is being deleted.")


class NoRoom(Exception):
    """The adapter was not loaded in time."""

    def __init__(self, adapter_id: str, capacity: int, timeout: float) -> None:
        super().__init__(
            f"The adapter {adapter_id!r} was not loaded within {timeout:g} s: at most {capacity} "
            "adapters are loaded at once, and running requests use them all."
        )


class Full(Exception):
    """Another adapter would have to go for this one."""


class _State(Enum):
    WANTED = auto()  # requests wait for it, it waits for a place
    LOADING = auto()
    RESIDENT = auto()
    UNLOADING = auto()


@dataclass(slots=True)
class _Entry:
    """An adapter that is not absent."""

    folder: Folder
    state: _State = _State.WANTED
    leases: int = 0
    leaving: bool = False  # to be unloaded with its last lease
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    evicting: list[asyncio.Future[bool]] = field(default_factory=list)
    removing: list[asyncio.Future[None]] = field(default_factory=list)

    @property
    def awaited(self) -> bool:
        """Whether a request still waits for it: one that went away cancelled its future."""
        return any(not granted.done() for granted in self.waiting)


@dataclass(frozen=True, slots=True)
class _Acquire:
    id: str
    folder: Folder
    granted: asyncio.Future[None]
    ahead_of_use: bool  # only into a place that nobody has or waits for


@dataclass(frozen=True, slots=True)
class _Release:
    id: str


@dataclass(frozen=True, slots=True)
class _Evict:
    id: str
    done: asyncio.Future[bool]


@dataclass(frozen=True, slots=True)
class _Remove:
    id: str
    done: asyncio.Future[None]


@dataclass(frozen=True, slots=True)
class _Loaded:
    id: str
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _Unloaded:
    id: str
    error: Exception | None


class Residency:
    """The owner; use it as an async context manager.

    At most `capacity` adapters are loaded; the least recently used one without a lease makes room
    for the next. A request waits at most `timeout` seconds for its lease.
    """

    def __init__(self, engine: Loader, capacity: int, timeout: float = 30.0) -> None:
        self._engine = engine
        self._capacity = capacity
        self._timeout = timeout
        self._commands: asyncio.Queue[
            _Acquire | _Release | _Evict | _Remove | _Loaded | _Unloaded
        ] = asyncio.Queue()
        self._entries: dict[str, _Entry] = {}  # least recently used first
        self._wanted: list[str] = []  # entries that wait for a place, longest first
        self._tasks: set[asyncio.Task[None]] = set()
        self.loads = 0
        self.evictions = 0
        self.failures = 0

    async def __aenter__(self) -> Self:
        self._start(self._own())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        stopped = EngineStopped("The server is shutting down.")
        for entry in self._entries.values():
            _fail(entry.waiting, stopped)
            _fail(entry.evicting, stopped)
            _fail(entry.removing, stopped)

    @property
    def resident(self) -> frozenset[str]:
        """IDs of the adapters that are loaded now."""
        return frozenset(
            id for id, entry in self._entries.items() if entry.state is _State.RESIDENT
        )

    @property
    def waiting(self) -> int:
        """Requests that wait for a lease."""
        return sum(not f.done() for entry in self._entries.values() for f in entry.waiting)

    def leases(self, adapter_id: str) -> int:
        """Requests that use the adapter now."""
        entry = self._entries.get(adapter_id)
        return entry.leases if entry else 0

    def lease(self, adapter_id: str, folder: Folder) -> AbstractAsyncContextManager[None]:
        """Keep the adapter loaded inside the block, loading it from `folder()` if need be.

        Raises AdapterGone, NoRoom, what the engine's load raises and what `folder()` raises.
        """
        return self._lease(adapter_id, folder, ahead_of_use=False)

    async def preload(self, adapter_id: str, folder: Folder) -> None:
        """Load the adapter ahead of its use, into a place that is free. Raises Full where another
        adapter would have to go for it or wait for it, else what `lease` raises."""
        async with self._lease(adapter_id, folder, ahead_of_use=True):
            pass

    @asynccontextmanager
    async def _lease(
        self, adapter_id: str, folder: Folder, *, ahead_of_use: bool
    ) -> AsyncIterator[None]:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commands.put_nowait(_Acquire(adapter_id, folder, granted, ahead_of_use))
        try:
            async with asyncio.timeout(self._timeout):
                await granted
        except BaseException as stop:
            # the answer may have come in the moment of the interruption
            if granted.cancel() or granted.cancelled():
                refusal = None
            elif (refusal := granted.exception()) is None:
                self._commands.put_nowait(_Release(adapter_id))
            if isinstance(stop, TimeoutError):
                raise refusal or NoRoom(adapter_id, self._capacity, self._timeout) from None
            raise
        try:
            yield
        finally:
            self._commands.put_nowait(_Release(adapter_id))

    async def evict(self, adapter_id: str) -> bool:
        """Unload the adapter; its weights stay in the store.

        True: it is not loaded now. False: requests use it, and it goes with the last of them unless
        another request comes first.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._commands.put_nowait(_Evict(adapter_id, done))
        return await done

    async def remove(self, adapter_id: str) -> None:
        """Refuse new leases, wait for the running ones, unload: then its files may be deleted.

        A caller that is cancelled does not stop the removal.
        """
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commands.put_nowait(_Remove(adapter_id, done))
        await done

    async def _own(self) -> None:
        """The owner task: the only code that changes an entry."""
        while True:
            match await self._commands.get():
                case _Acquire() as wish:
                    self._acquire(wish)
                case _Release(id):
                    self._release(id)
                case _Evict(id, evicted):
                    self._evict(id, evicted)
                case _Remove(id, removed):
                    self._remove(id, removed)
                case _Loaded(id, error):
                    self._loaded(id, error)
                case _Unloaded(id, error):
                    self._unloaded(id, error)
            self._fill()

    def _acquire(self, wish: _Acquire) -> None:
        if wish.granted.done():
            return
        entry = self._entries.get(wish.id)
        if entry is None:
            if wish.ahead_of_use and len(self._entries) >= self._capacity:
                wish.granted.set_exception(Full())
                return
            entry = self._entries[wish.id] = _Entry(wish.folder)
            self._wanted.append(wish.id)
        elif entry.removing:
            wish.granted.set_exception(AdapterGone(wish.id))
            return
        entry.folder = wish.folder
        entry.leaving = False
        _answer(entry.evicting, False)
        entry.waiting.append(wish.granted)
        if entry.state is _State.RESIDENT:
            self._grant(entry)

    def _grant(self, entry: _Entry) -> None:
        entry.leases += sum(not granted.done() for granted in entry.waiting)
        _answer(entry.waiting, None)

    def _release(self, id: str) -> None:
        entry = self._entries.pop(id)
        self._entries[id] = entry  # now the most recently used
        entry.leases -= 1
        self._settle(id, entry)

    def _evict(self, id: str, evicted: asyncio.Future[bool]) -> None:
        entry = self._entries.get(id)
        if entry is None:
            _answer([evicted], True)
            return
        entry.leaving = True
        if entry.leases or entry.awaited:
            _answer([evicted], False)
        else:
            entry.evicting.append(evicted)
            self._settle(id, entry)

    def _remove(self, id: str, removed: asyncio.Future[None]) -> None:
        entry = self._entries.get(id)
        if entry is None:
            _answer([removed], None)
            return
        entry.removing.append(removed)
        _fail(entry.waiting, AdapterGone(id))  # what is wanted only, _fill forgets
        self._settle(id, entry)

    def _settle(self, id: str, entry: _Entry) -> None:
        """Unload an adapter that was asked to go, once nobody uses it."""
        asked = entry.leaving or entry.removing
        if asked and entry.state is _State.RESIDENT and not entry.leases:
            self._unload(id, entry)

    def _unload(self, id: str, entry: _Entry) -> None:
        entry.state = _State.UNLOADING
        self._start(self._call_unload(id))

    def _loaded(self, id: str, error: Exception | None) -> None:
        entry = self._entries[id]
        if error is not None:
            self.failures += 1
            _fail(entry.waiting, error)
            self._forget(id)
            return
        self.loads += 1
        entry.state = _State.RESIDENT
        self._grant(entry)
        self._settle(id, entry)

    def _unloaded(self, id: str, error: Exception | None) -> None:
        entry = self._entries[id]
        if error is not None:
            log.warning("the engine did not unload %s: %s", id, error)
            _fail(entry.evicting, error)
            _fail(entry.removing, error)
        elif not entry.removing:
            self.evictions += 1
        if entry.awaited:
            entry.state = _State.WANTED
            self._wanted.append(id)
        else:
            self._forget(id)

    def _forget(self, id: str) -> None:
        """The adapter is absent now, which some may have waited for."""
        entry = self._entries.pop(id)
        _answer(entry.evicting, True)
        _answer(entry.removing, None)

    def _fill(self) -> None:
        """Load what is wanted, longest waiting first; unload what is idle to make room for it."""
        for id in self._wanted.copy():
            if not self._entries[id].awaited:
                self._wanted.remove(id)
                self._forget(id)
        if not self._wanted:
            return
        placed = [e for e in self._entries.values() if e.state is not _State.WANTED]
        free = self._capacity - len(placed)
        for id in self._wanted[:free]:
            entry = self._entries[id]
            entry.state = _State.LOADING
            self._start(self._call_load(id, entry.folder))
        del self._wanted[:free]
        coming = sum(entry.state is _State.UNLOADING for entry in placed)
        idle = [
            (id, entry)
            for id, entry in self._entries.items()
            if entry.state is _State.RESIDENT and not entry.leases
        ]
        for id, entry in idle[: max(0, len(self._wanted) - coming)]:
            self._unload(id, entry)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            log.critical("residency has a defect and takes no more commands", exc_info=error)

    async def _call_load(self, id: str, folder: Folder) -> None:
        error = None
        try:
            await self._engine.load(id, await folder())
        except Exception as failure:
            error = failure
        self._commands.put_nowait(_Loaded(id, error))

    async def _call_unload(self, id: str) -> None:
        error = None
        try:
            await self._engine.unload(id)
        except Exception as failure:
            error = failure
        self._commands.put_nowait(_Unloaded(id, error))


def _answer(futures: list[asyncio.Future[T]], answer: T) -> None:
    """Resolve all, but those whose callers went away, and clear the list."""
    for future in futures:
        if not future.done():
            future.set_result(answer)
    futures.clear()


def _fail(futures: list[asyncio.Future[T]], error: Exception) -> None:
    """Like `_answer`, with an error."""
    for future in futures:
        if not future.done():
            future.set_exception(error)
    futures.clear()
