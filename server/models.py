"""From the `model` of a request to what the engine is asked for."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.types import Scope

from adapters_store import (
    Adapter,
    AdapterStatus,
    AdapterStore,
    StoreError,
)
from server import errors
from server.routing import Target
from server.tenants import tenant_of

log = logging.getLogger(__name__)

NOTE_USE_SECONDS = 2.0


class Models:
    """Names of models as callers know them; an async context manager that notes their use."""

    def __init__(self, base_model: str, store: AdapterStore) -> None:
        self._base_model = base_model
        self._store = store
        self._used: set[str] = set()
        self._noting: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._noting = asyncio.create_task(self._note_use())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._noting is not None
        self._noting.cancel()
        await asyncio.gather(self._noting, return_exceptions=True)
        with suppress(StoreError):
            await self._store.touch(self._used)

    async def resolve(self, model: str, scope: Scope) -> Target:
        """The engine's name for `model` and where its weights are.

        Raises ModelNotFound, AdapterNotReady, AdapterFailed, AdapterCancelled.
        """
        if model == self._base_model:
            return Target(model)
        with self._translating(model):
            adapter = await self._store.resolve(tenant_of(scope), model)
        require_ready(adapter, self._base_model, param="model")
        self._used.add(adapter.id)
        return Target(adapter.id, partial(self._weights, adapter.id))

    async def _weights(self, adapter_id: str) -> Path:
        with self._translating(adapter_id):
            return await self._store.weights(adapter_id)

    @contextmanager
    def _translating(self, model: str) -> Iterator[None]:
        """Turn what the store raises into errors of the API: here an adapter is a model."""
        try:
            with errors.translating():
                yield
        except errors.AdapterNotFound as error:
            raise errors.ModelNotFound(
                f"The model {model!r} does not exist: it is neither the base model "
                f"{self._base_model!r} nor the ID or name of an adapter of yours.",
                param="model",
            ) from error

    async def _note_use(self) -> None:
        """Write the times of last use down, many in one go."""
        while True:
            await asyncio.sleep(NOTE_USE_SECONDS)
            used, self._used = self._used, set()
            try:
                await self._store.touch(used)
            except StoreError as error:
                log.warning("the use of %d adapters was not noted: %s", len(used), error)


def require_ready(adapter: Adapter, base_model: str, *, param: str) -> None:
    """Raise the error that says why `adapter` cannot be used with `base_model`, if it cannot."""
    if adapter.base_model != base_model:
        raise errors.AdapterStateConflict(
            f"The adapter {adapter.id!r} was made for the base model {adapter.base_model!r}; this "
            f"server runs {base_model!r}. Upload its source again.",
            param=param,
        )
    match adapter.status:
        case AdapterStatus.READY:
            return
        case AdapterStatus.FAILED:
            reason = adapter.error.message if adapter.error else "unknown"
            raise errors.AdapterFailed(
                f"The adapter {adapter.id!r} could not be made: {reason}", param=param
            )
        case AdapterStatus.CANCELLED:
            raise errors.AdapterCancelled(
                f"The adapter {adapter.id!r} was cancelled before it was ready.", param=param
            )
    raise errors.AdapterNotReady(
        f"The adapter {adapter.id!r} is not ready yet: it is {adapter.status}. "
        f"GET /v1/adapters/{adapter.id}/events follows its progress.",
        param=param,
    )
