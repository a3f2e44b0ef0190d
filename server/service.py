"""The parts of a running server, as the routes find them."""

from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from adapters_store import AdapterStore
from generator.chunks import Chunker
from generator.process import GeneratorProcess
from server.changes import Changes
from server.jobs import Jobs
from server.metrics import Metrics
from server.removal import Removal
from server.residency import Residency
from server.settings import Settings


class ServingEngine(Protocol):
    """What the routes ask of the engine."""

    @property
    def base_model(self) -> str: ...

    @property
    def ready(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class Service:
    settings: Settings
    started_at: float  # unix seconds
    store: AdapterStore
    chunker: Chunker
    generator: GeneratorProcess
    generator_name: str  # name@fingerprint
    engine: ServingEngine
    residency: Residency
    changes: Changes
    jobs: Jobs
    removal: Removal
    metrics: Metrics


def _service(request: Request) -> Service:
    service: Service = request.app.state.doclora
    return service


Parts = Annotated[Service, Depends(_service)]
