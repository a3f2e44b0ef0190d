"""Inference requests on their way to vLLM's routes: which adapter they mean, loaded while they run.

A pure ASGI middleware. It reads the body, resolves `model`, writes the adapter's ID into the body,
holds the adapter's lease until the last byte of the answer, and hands the request on. vLLM never
sees a name that is not loaded.
"""

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import (
    AdapterFailed,
    ApiError,
    BodyTooLarge,
    InvalidRequest,
    MalformedBody,
    ModelNotFound,
    ServiceNotReady,
    UnsupportedMediaType,
    error_response,
)
from server.residency import AdapterGone, EngineRefused, EngineStopped, Folder, NoRoom, Residency

# The only routes of vLLM that this server has: each takes `model` in a JSON body.
INFERENCE_PATHS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/messages/count_tokens",
        "/tokenize",
        "/detokenize",
    }
)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request's `model` means: the engine's name for it, and where its weights are.

    `folder` is None for the base model, which needs no lease.
    """

    model: str
    folder: Folder | None = None


# From the `model` of a request and its scope; raises ApiError.
Resolve = Callable[[str, Scope], Awaitable[Target]]


class InferenceRouting:
    """The middleware. Bodies are at most `max_body_bytes` long."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        resolve: Resolve,
        residency: Residency,
        max_body_bytes: int = 4 * 2**20,
    ) -> None:
        self._app = app
        self._resolve = resolve
        self._residency = residency
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        infers = scope["type"] == "http" and scope["path"] in INFERENCE_PATHS
        if not infers or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        async with AsyncExitStack() as stack:
            try:
                request = await self._read(scope, receive)
                target = await self._resolve(_model(request), scope)
                if target.folder is not None:
                    lease = self._residency.lease(target.model, target.folder)
                    await _enter(stack, lease, receive)
            except ClientDisconnect:
                return
            except ApiError as error:
                await error_response(error)(scope, receive, send)
                return
            except (AdapterGone, NoRoom, EngineRefused, EngineStopped) as error:
                await error_response(_translate(error))(scope, receive, send)
                return
            request["model"] = target.model
            await self._app(*_with_body(request, scope, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> dict[str, Any]:
        """The JSON object in the body; reads no further than the limit."""
        headers = Headers(scope=scope)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != "application/json":
            raise UnsupportedMediaType(
                f"The content type is {media_type or 'missing'}; it must be application/json."
            )
        declared = headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            raise BodyTooLarge(self._max_body_bytes)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise BodyTooLarge(self._max_body_bytes)
            more = message.get("more_body", False)
        try:
            request = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise MalformedBody(f"The body is not valid JSON: {error}.") from error
        if not isinstance(request, dict):
            raise MalformedBody(f"The body is a JSON {type(request).__name__}, not an object.")
        return request


def _model(request: dict[str, Any]) -> str:
    model = request.get("model")
    if not isinstance(model, str) or not model:
        raise InvalidRequest(
            f"`model` is {model!r}; it must be the base model's name, an adapter ID or name."
            if "model" in request
            else "`model` is missing: the base model's name, an adapter ID or an adapter name.",
            param="model",
        )
    return model


async def _enter(
    stack: AsyncExitStack, lease: AbstractAsyncContextManager[None], receive: Receive
) -> None:
    """Wait for the lease, but no longer than the client does.

    The body has been read, so the only message that can come is the client's disconnect, and
    servers repeat that one.
    """
    entering = asyncio.ensure_future(stack.enter_async_context(lease))
    leaving: asyncio.Future[Message] = asyncio.ensure_future(receive())
    try:
        first: set[asyncio.Future[Any]] = {entering, leaving}
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
    finally:
        entering.cancel()
        leaving.cancel()
        await asyncio.gather(entering, leaving, return_exceptions=True)
    if entering.cancelled():
        raise ClientDisconnect
    entering.result()


def _translate(error: Exception) -> ApiError:
    match error:
        case AdapterGone():
            return ModelNotFound(str(error), param="model")
        case EngineRefused():
            return AdapterFailed(str(error), param="model")
        case _:
            return ServiceNotReady(str(error))


def _with_body(request: dict[str, Any], scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """The scope and messages of the request with its new body.

    The body is always written anew, so that vLLM cannot read another `model` from it than was
    resolved (a repeated key, another encoding).
    """
    body = json.dumps(request).encode()
    headers = [(name, value) for name, value in scope["headers"] if name != b"content-length"]
    scope["headers"] = [*headers, (b"content-length", str(len(body)).encode())]
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    return scope, replay
