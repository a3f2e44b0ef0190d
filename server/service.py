"""The parts of a running server that routes work with, and how they hang together."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from adapters_store import AdapterStore
from server.changes import Changes
from server.generators import Generators
from server.jobs import Jobs
from server.metrics import Metrics
from server.models import Models
from server.registration import Registration, TimedEngine
from server.removal import Removal
from server.residency import Loader, Residency
from server.settings import Settings


class ServingEngine(Loader, Protocol):
    """What is asked of the engine, besides loading."""

    @property
    def base_model(self) -> str: ...

    @property
    def ready(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    started_at: float  # unix seconds
    store: AdapterStore
    generators: Generators
    engine: ServingEngine
    residency: Residency
    models: Models
    changes: Changes
    jobs: Jobs
    removal: Removal
    metrics: Metrics

    @classmethod
    @asynccontextmanager
    async def running(
        cls,
        settings: Settings,
        store: AdapterStore,
        generators: Generators,
        engine: ServingEngine,
    ) -> AsyncIterator["Service"]:
        """Work on the store's unfinished jobs, and on what comes, until the block ends."""
        metrics = Metrics()
        changes = Changes(store)
        timed = TimedEngine(engine, store, metrics)
        async with AsyncExitStack() as stack:
            residency = await stack.enter_async_context(Residency(timed, settings.max_resident))
            metrics.count(residency, generators)
            models = await stack.enter_async_context(Models(engine.base_model, store))
            registration = Registration(residency, store)
            jobs = await stack.enter_async_context(
                Jobs(store, generators, registration, changes, metrics, workers=settings.jobs)
            )
            removal = Removal(store, residency, jobs, changes)
            await stack.enter_async_context(removal)
            yield cls(
                settings=settings,
                started_at=time.time(),
                store=store,
                generators=generators,
                engine=engine,
                residency=residency,
                models=models,
                changes=changes,
                jobs=jobs,
                removal=removal,
                metrics=metrics,
            )


def _service(request: Request) -> Service:
    service: Service = request.app.state.doclora
    return service


Parts = Annotated[Service, Depends(_service)]
