"""Adapters: made from documents and descriptions, listed, watched, loaded, downloaded, deleted."""

import hashlib
import json
import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Literal

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from sse_starlette import EventSourceResponse, ServerSentEvent

from adapters_store import (
    Adapter,
    AdapterKind,
    AdapterNotFound,
    AdapterStatus,
    NewAdapter,
    is_adapter_id,
)
from server import errors
from server.generators import SYSTEMS, ServedGenerator
from server.intake import Upload, receive, split
from server.models import require_ready
from server.residency import AdapterGone, EngineRefused, EngineStopped, NoRoom
from server.routes.objects import EXAMPLE_ID, AdapterList, AdapterObject, DeletedAdapter
from server.routes.responses import answers
from server.service import Parts, Service
from server.tenants import Tenant
from server.upload_fields import REQUEST_BODY
from server.zipping import zipped

router = APIRouter(prefix="/v1/adapters", tags=["adapters"], route_class=errors.Route)

AdapterId = Annotated[
    str,
    Path(description="The adapter's ID", openapi_examples={"an adapter": {"value": EXAMPLE_ID}}),
]


@router.post(
    "",
    summary="Make an adapter from a document or a description",
    status_code=201,
    responses=answers(
        {200: "The same content was there already", 202: "Still being made; see `Location`"},
        model=AdapterObject,
        errors=(400, 404, 409, 413, 415, 500, 503),
    ),
    openapi_extra=dict(REQUEST_BODY),
)
async def create_adapter(
    request: Request, response: Response, parts: Parts, tenant: Tenant
) -> AdapterObject:
    """Uploads a document, as a multipart form with a part `file` or as JSON with a field `text`, or
    the description of a task, as JSON with a field `description`.

    The answer waits up to `wait` seconds for the adapter: 201 when it is ready, 202 when it is
    still being made, 404 or 409 when it is deleted or cancelled meanwhile. The same content again
    gives the adapter that is there (200).
    """
    async with parts.store.staging() as folder:
        upload = await receive(
            request,
            folder,
            max_bytes=parts.settings.max_upload_bytes,
            max_wait=parts.settings.max_wait,
        )
    if upload.options.name == parts.engine.base_model:
        raise errors.InvalidRequest("name: this is the base model's name", param="name")
    adapter, created = await _queue(upload, parts, tenant)
    adapter = await parts.changes.finished(tenant, adapter.id, upload.wait)
    response.headers["location"] = f"/v1/adapters/{adapter.id}"
    response.status_code = _outcome(adapter, created)
    return AdapterObject.of(adapter, parts.residency.resident)


async def _queue(upload: Upload, parts: Service, tenant: str) -> tuple[Adapter, bool]:
    """Keep what came in and queue its adapter, once its chunks are known to be within bounds."""
    generator = _generator_of(upload, parts)
    chunks = await to_thread.run_sync(split, generator.splitter, upload)
    data = upload.text.encode()
    ttl = upload.options.ttl_seconds
    adapter, created = await parts.store.add(
        NewAdapter(
            base_model=parts.engine.base_model,
            generator=generator.name,
            fingerprint=_fingerprint(data, upload.kind, generator.name, parts.engine.base_model),
            source_sha256=upload.source_sha256,
            source_bytes=upload.source_bytes,
            tenant=tenant,
            kind=upload.kind,
            name=upload.options.name,
            source_name=upload.source_name,
            metadata=upload.options.metadata,
            tokens=sum(map(len, chunks)),
            chunks=len(chunks),
            expires_at=time.time() + ttl if ttl is not None else None,
        ),
        data,
    )
    if not adapter.status.terminal:  # also one that is not new: its job may have been left behind
        parts.jobs.submit(adapter)
    return adapter, created


def _generator_of(upload: Upload, parts: Service) -> ServedGenerator:
    """The generator that reads what came in; raises GeneratorMissing."""
    if generator := parts.generators.get(upload.kind):
        return generator
    raise errors.GeneratorMissing(
        f"This server runs no generator that reads {upload.source}s. Start it with another "
        f"`--generator DIR`, of a folder with a {SYSTEMS[upload.kind]} generator.",
        param=upload.param,
    )


def _fingerprint(text: bytes, kind: AdapterKind, generator: str, base_model: str) -> str:
    """Equal for what would become the same adapter.

    The base model is part of it: an adapter answers for this one only, see require_ready.
    """
    outcome = [hashlib.sha256(text).hexdigest(), generator, base_model, kind]
    return hashlib.sha256(json.dumps(outcome).encode()).hexdigest()


def _outcome(adapter: Adapter, created: bool) -> int:
    """The status code for an upload whose adapter is now in this state."""
    match adapter.status:
        case AdapterStatus.READY:
            return 201 if created else 200
        case AdapterStatus.FAILED:
            reason = adapter.error.message if adapter.error else "unknown"
            raise errors.GenerationFailed(f"The adapter {adapter.id!r} could not be made: {reason}")
        case AdapterStatus.CANCELLED:
            raise errors.AdapterCancelled(f"The adapter {adapter.id!r} was cancelled.")
    return 202


@router.get(
    "",
    summary="List adapters",
    responses=answers(errors=(400, 503)),
)
async def list_adapters(
    parts: Parts,
    tenant: Tenant,
    after: Annotated[
        str | None, Query(description="The last ID of the page before this one")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Adapters on a page")] = 20,
    order: Annotated[Literal["asc", "desc"], Query(description="Oldest or newest first")] = "desc",
    status: Annotated[AdapterStatus | None, Query(description="Only those in this state")] = None,
    name: Annotated[str | None, Query(description="Only versions of this name")] = None,
    kind: Annotated[AdapterKind | None, Query(description="Only those of this kind")] = None,
) -> AdapterList:
    """A page of adapters, newest first unless `order` says otherwise."""
    if after is not None and not is_adapter_id(after):
        raise errors.InvalidRequest(f"after: {after!r} is not an adapter ID", param="after")
    page = await parts.store.list(
        tenant, after=after, limit=limit, order=order, status=status, name=name, kind=kind
    )
    resident = parts.residency.resident
    return AdapterList(
        data=[AdapterObject.of(adapter, resident) for adapter in page.items],
        first_id=page.first_id,
        last_id=page.last_id,
        has_more=page.has_more,
    )


@router.get("/{adapter_id}", summary="Get an adapter", responses=answers(errors=(404, 503)))
async def get_adapter(adapter_id: AdapterId, parts: Parts, tenant: Tenant) -> AdapterObject:
    """The adapter as it is now."""
    adapter = await parts.store.get(tenant, adapter_id)
    return AdapterObject.of(adapter, parts.residency.resident)


@router.get(
    "/{adapter_id}/events",
    summary="Follow an adapter",
    response_class=EventSourceResponse,
    responses=answers({200: "Server-sent events; each `data` is the adapter"}, errors=(404, 503)),
)
async def follow_adapter(
    adapter_id: AdapterId, parts: Parts, tenant: Tenant
) -> EventSourceResponse:
    """The adapter as it is and at each change, until it is ready, failed or cancelled."""
    await parts.store.get(tenant, adapter_id)

    async def states() -> AsyncIterator[ServerSentEvent]:
        try:
            async for adapter in parts.changes.watch(tenant, adapter_id):
                state = AdapterObject.of(adapter, parts.residency.resident)
                yield ServerSentEvent(state.model_dump_json(by_alias=True))
        except AdapterNotFound:  # deleted while we watched: the stream just ends
            return

    return EventSourceResponse(states(), sep="\n")


@router.post(
    "/{adapter_id}/cancel",
    summary="Cancel an adapter that is being made",
    responses=answers(errors=(404, 409, 503)),
)
async def cancel_adapter(adapter_id: AdapterId, parts: Parts, tenant: Tenant) -> AdapterObject:
    """Gives up a queued or running job. A finished adapter stays what it is (409)."""
    await parts.store.get(tenant, adapter_id)
    adapter = await parts.store.cancel(adapter_id)  # first: if it cannot be, the job goes on
    if adapter.status is not AdapterStatus.CANCELLED:
        raise errors.AdapterStateConflict(
            f"The adapter {adapter_id!r} is {adapter.status} already and cannot be cancelled.",
            param="adapter_id",
        )
    await parts.jobs.stop(adapter_id)
    parts.changes.announce(adapter_id)
    return AdapterObject.of(adapter, parts.residency.resident)


@router.post(
    "/{adapter_id}/load",
    summary="Load an adapter into the engine",
    responses=answers(errors=(404, 409, 503)),
)
async def load_adapter(adapter_id: AdapterId, parts: Parts, tenant: Tenant) -> AdapterObject:
    """Makes the adapter resident ahead of its use. A chat does this by itself."""
    await _ready(adapter_id, parts, tenant)
    try:
        async with parts.residency.lease(adapter_id, partial(parts.store.weights, adapter_id)):
            pass
    except AdapterGone as error:
        raise AdapterNotFound(adapter_id) from error
    except EngineRefused as error:
        raise errors.AdapterFailed(str(error), param="adapter_id") from error
    except (NoRoom, EngineStopped) as error:
        raise errors.ServiceNotReady(str(error)) from error
    return await get_adapter(adapter_id, parts, tenant)


@router.post(
    "/{adapter_id}/evict",
    summary="Unload an adapter from the engine",
    responses=answers(errors=(404, 409, 503)),
)
async def evict_adapter(adapter_id: AdapterId, parts: Parts, tenant: Tenant) -> AdapterObject:
    """Frees the adapter's place in the engine; its weights are kept, and its next use loads it.

    An adapter in use goes with its last request, unless another request comes before that.
    """
    await _ready(adapter_id, parts, tenant)
    await parts.residency.evict(adapter_id)
    return await get_adapter(adapter_id, parts, tenant)


@router.get(
    "/{adapter_id}/weights",
    summary="Download an adapter",
    response_class=StreamingResponse,
    responses=answers(
        {200: "A zip of the adapter in PEFT's format"},
        media_type="application/zip",
        errors=(404, 409, 503),
    ),
)
async def download_adapter(
    adapter_id: AdapterId, parts: Parts, tenant: Tenant
) -> StreamingResponse:
    """The adapter as a PEFT folder in a zip, usable with PEFT or any vLLM."""
    adapter = await _ready(adapter_id, parts, tenant)
    folder = await parts.store.weights(adapter_id)
    pieces = await to_thread.run_sync(zipped, folder, adapter_id, adapter.created_at)
    return StreamingResponse(
        pieces,
        media_type="application/zip",
        headers={"content-disposition": f'attachment; filename="{adapter_id}.zip"'},
    )


@router.delete("/{adapter_id}", summary="Delete an adapter", responses=answers(errors=(404, 503)))
async def delete_adapter(adapter_id: AdapterId, parts: Parts, tenant: Tenant) -> DeletedAdapter:
    """Deletes the adapter and its source for good. Running answers end normally first."""
    await parts.removal.remove(tenant, adapter_id)
    return DeletedAdapter(id=adapter_id)


async def _ready(adapter_id: str, parts: Service, tenant: str) -> Adapter:
    adapter = await parts.store.get(tenant, adapter_id)
    require_ready(adapter, parts.engine.base_model, param="adapter_id")
    return adapter
