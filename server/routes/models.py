"""The models that a request may name, as OpenAI's clients list them."""

from typing import Annotated

from fastapi import APIRouter, Path, Query

from adapters_store import Adapter, AdapterNotFound, AdapterStatus, is_adapter_id
from server import errors
from server.models import require_ready
from server.routes.objects import ModelList, ModelObject
from server.routes.responses import answers
from server.service import Parts, Service
from server.tenants import Tenant

router = APIRouter(prefix="/v1/models", tags=["models"], route_class=errors.Route)


@router.get("", summary="List models", responses=answers(errors=(400, 503)))
async def list_models(
    parts: Parts,
    tenant: Tenant,
    after: Annotated[
        str | None, Query(description="The last ID of the page before this one")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Adapters on a page")] = 1000,
) -> ModelList:
    """The base model, then the ready adapters, newest first."""
    base = _base(parts)
    models = [base] if after is None else []
    if after == base.id:
        after = None
    if after is not None and not is_adapter_id(after):
        raise errors.InvalidRequest(f"after: {after!r} is not a model's ID", param="after")
    page = await parts.store.list(tenant, after=after, limit=limit, status=AdapterStatus.READY)
    # a catalogue may hold adapters of a base model that was served before
    models += [_of(adapter) for adapter in page.items if adapter.base_model == base.id]
    return ModelList(
        data=models,
        first_id=models[0].id if models else None,
        last_id=page.last_id or (models[-1].id if models else None),
        has_more=page.has_more,
    )


@router.get("/{model:path}", summary="Get a model", responses=answers(errors=(404, 409, 503)))
async def get_model(
    model: Annotated[str, Path(description="The base model's name, an adapter's ID or name")],
    parts: Parts,
    tenant: Tenant,
) -> ModelObject:
    """The base model or a ready adapter."""
    if model == parts.engine.base_model:
        return _base(parts)
    try:
        adapter = await parts.store.resolve(tenant, model)
    except AdapterNotFound as error:
        raise errors.ModelNotFound(f"The model {model!r} does not exist.", param="model") from error
    require_ready(adapter, parts.engine.base_model, param="model")
    return _of(adapter)


def _base(parts: Service) -> ModelObject:
    return ModelObject(id=parts.engine.base_model, created=int(parts.started_at))


def _of(adapter: Adapter) -> ModelObject:
    return ModelObject(
        id=adapter.id,
        created=int(adapter.created_at),
        parent=adapter.base_model,
        name=adapter.name,
    )
