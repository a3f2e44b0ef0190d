"""Whether the server lives, whether it can work, and how it does."""

from typing import Literal

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from pydantic import BaseModel, Field

from adapters_store import AdapterKind, StoreError
from server import errors
from server.routes.responses import answers
from server.service import Parts

router = APIRouter(tags=["health"], route_class=errors.Route)


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """Each part on its own, and all of them together."""

    ready: bool
    engine: bool = Field(description="vLLM answers")
    generators: dict[AdapterKind, bool] = Field(
        description="By the kind of adapters that each makes: its process has its hypernetwork "
        "loaded"
    )
    store: bool = Field(description="The catalogue answers")


@router.get("/health", summary="Whether the process lives")
async def health() -> Health:
    return Health()


@router.get(
    "/ready",
    summary="Whether every part is up",
    responses=answers({503: "A part is not ready"}, model=Readiness),
)
async def ready(parts: Parts, response: Response) -> Readiness:
    try:
        await parts.store.unfinished(limit=1)
        store = True
    except StoreError:
        store = False
    engine = parts.engine.ready
    generators = {kind: made_by.process.ready for kind, made_by in parts.generators.items()}
    every = engine and all(generators.values()) and store
    response.status_code = 200 if every else 503
    return Readiness(ready=every, engine=engine, generators=generators, store=store)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses=answers({200: "Prometheus text format"}, media_type="text/plain"),
)
async def metrics(parts: Parts) -> Response:
    """This server's figures (`doclora_*`), then the engine's (`vllm:*`), which vLLM keeps in this
    process's default registry."""
    own = parts.metrics.render(await parts.store.counts(), len(parts.residency.resident))
    return Response(own + generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)
