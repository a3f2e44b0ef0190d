"""Loading adapters into the engine: timed, and ahead of the first question where there is room."""

import logging
import time
from functools import partial
from pathlib import Path

from adapters_store import AdapterStore, StoreError
from server.metrics import Metrics
from server.residency import (
    AdapterGone,
    EngineRefused,
    EngineStopped,
    Full,
    Loader,
    NoRoom,
    Residency,
)

log = logging.getLogger(__name__)


class TimedEngine:
    """The engine as residency sees it. How long the last load of an adapter took is kept in its
    row: it is small beside the load and tells what the first question had to wait for."""

    def __init__(self, engine: Loader, store: AdapterStore, metrics: Metrics) -> None:
        self._engine = engine
        self._store = store
        self._metrics = metrics

    async def load(self, name: str, folder: Path) -> None:
        began = time.perf_counter()
        await self._engine.load(name, folder)
        seconds = time.perf_counter() - began
        self._metrics.observe("register", seconds)
        try:
            await self._store.record_timings(name, register=round(seconds * 1000, 1))
        except StoreError as error:
            log.warning("the load of %s was not recorded: %s", name, error)

    async def unload(self, name: str) -> None:
        await self._engine.unload(name)


class Registration:
    """Loads new adapters while there is room, so that the first question finds them there."""

    def __init__(self, residency: Residency, store: AdapterStore) -> None:
        self._residency = residency
        self._store = store

    async def preload(self, adapter_id: str) -> None:
        """Load a ready adapter unless another would have to go for it. Failing is no error: the
        first question tries again and hears the reason."""
        try:
            await self._residency.preload(adapter_id, partial(self._store.weights, adapter_id))
        except Full:
            return
        except (AdapterGone, EngineRefused, EngineStopped, NoRoom, StoreError) as error:
            log.warning("%s was not loaded ahead of its use: %s", adapter_id, error)
