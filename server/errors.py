"""Errors of the API, and the one place that turns an error into an answer.

Every error of ours has OpenAI's shape, `{"error": {"message", "type", "param", "code"}}`, with a
word as `code`. What vLLM's own routes refuse has vLLM's: there `code` is the HTTP status, a number,
and `/v1/messages` answers as Anthropic does.

OpenAI's clients retry 408, 409, 429 and everything from 500 on unless the answer carries
`x-should-retry: false`; an error says with `retry` whether trying again can help.
"""

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi import HTTPException as FastAPIHTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

import adapters_store as store

log = logging.getLogger(__name__)

Source = Literal["document", "description"]


class ApiError(Exception):
    """An error that a caller sees, with its HTTP status and OpenAI's `type` and `code`.

    `param` names the offending input; `headers` are sent with the answer.
    """

    status: int = 400
    code: str = "invalid_request"
    retry: bool = False

    def __init__(
        self, message: str, *, param: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.param = param
        self.headers = dict(headers or {})

    @property
    def type(self) -> str:
        return "invalid_request_error" if self.status < 500 else "server_error"


class InvalidRequest(ApiError):
    """A field is missing, unknown, of the wrong type or out of range."""


class MalformedBody(ApiError):
    """The body is not the JSON or multipart form that it claims to be."""

    code = "malformed_body"


class RouteNotFound(ApiError):
    status = 404
    code = "not_found"


class MethodNotAllowed(ApiError):
    status = 405
    code = "method_not_allowed"


class AdapterNotFound(ApiError):
    """No such adapter for this caller, in the adapter API."""

    status = 404
    code = "adapter_not_found"


class ModelNotFound(ApiError):
    """`model` names neither the base model nor an adapter of this caller."""

    status = 404
    code = "model_not_found"


class AdapterNotReady(ApiError):
    """The adapter is still being made: asking again later helps."""

    status = 409
    code = "adapter_not_ready"
    retry = True

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message, param=param, headers={"retry-after": "1"})


class AdapterFailed(ApiError):
    """The adapter could not be made, and never will be."""

    status = 409
    code = "adapter_failed"


class AdapterCancelled(ApiError):
    status = 409
    code = "adapter_cancelled"


class AdapterStateConflict(ApiError):
    """The adapter's state does not allow what was asked."""

    status = 409
    code = "adapter_state_conflict"


class BodyTooLarge(ApiError):
    """The connection is closed with the answer: the rest of the body is not read."""

    status = 413
    code = "body_too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(
            f"The request body is larger than {limit:,} bytes, the most this server takes.",
            headers={"connection": "close"},
        )


class UnsupportedMediaType(ApiError):
    status = 415
    code = "unsupported_media_type"


class GeneratorMissing(ApiError):
    """This server runs no generator that reads what came in."""

    code = "generator_missing"


class SourceRejected(ApiError):
    """What came in cannot become an adapter; `code` says what and why, like `document_empty`."""

    reason: str

    def __init__(self, message: str, *, source: Source, param: str) -> None:
        super().__init__(message, param=param)
        self.code = f"{source}_{self.reason}"


class SourceTooLong(SourceRejected):
    """More tokens than the generator takes."""

    reason = "too_long"


class GenerationFailed(ApiError):
    """The job failed while the caller waited for it."""

    status = 500
    code = "generation_failed"


class InternalError(ApiError):
    """A defect. Its details go to the log, never into the answer."""

    status = 500
    code = "internal_error"
    retry = True

    def __init__(self) -> None:
        super().__init__("The server failed to answer this request; the defect was logged.")


class ServiceNotReady(ApiError):
    status = 503
    code = "not_ready"
    retry = True

    def __init__(self, message: str, *, retry_after: int = 5) -> None:
        super().__init__(message, headers={"retry-after": str(retry_after)})


class StorageUnavailable(ServiceNotReady):
    code = "storage_unavailable"


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(description="What was wrong, where, and what would be right")
    type: str = Field(description="`invalid_request_error` or `server_error`")
    param: str | None = Field(description="The offending field, if it was one")
    code: str | None = Field(description="A stable word to branch on")


class ErrorBody(BaseModel):
    """OpenAI's error shape, as all errors have it but those that vLLM's own routes answer with."""

    error: ErrorDetail

    model_config = {
        "json_schema_extra": {
            "example": {
                "error": {
                    "message": "No adapter 'adp_01k' exists.",
                    "type": "invalid_request_error",
                    "param": "adapter_id",
                    "code": "adapter_not_found",
                }
            }
        }
    }


def error_response(error: ApiError) -> JSONResponse:
    """The answer for `error`: usable inside a route and in a bare ASGI middleware."""
    detail = ErrorDetail(message=str(error), type=error.type, param=error.param, code=error.code)
    headers = error.headers if error.retry else {**error.headers, "x-should-retry": "false"}
    return JSONResponse({"error": detail.model_dump()}, error.status, headers=headers)


def invalid_fields(errors: Sequence[Any]) -> ApiError:
    """Pydantic's list of faults as one error that names the first field and lists them all."""
    if errors[0]["type"] == "json_invalid":
        return MalformedBody(f"The body is not valid JSON: {errors[0]['ctx']['error']}.")
    faults = []
    for fault in errors:
        if fault["type"] == "extra_forbidden":
            fault = {**fault, "msg": "no such field is known here"}
        where = fault["loc"]
        place = ".".join(str(part) for part in where[where[:1] in SOURCES :])
        faults.append((place or None, str(fault["msg"]).removeprefix("Value error, ")))
    message = "; ".join(f"{place}: {what}" if place else what for place, what in faults)
    return InvalidRequest(message, param=faults[0][0])


def _from_http(error: HTTPException, request: Request) -> ApiError:
    if error.status_code == 404 and error.detail == "Not Found":
        return RouteNotFound(f"No route {request.method} {request.url.path}; /docs lists them.")
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        return MethodNotAllowed(
            f"{request.url.path} does not take {request.method}; it takes {allowed}.",
            headers={"allow": allowed},
        )
    translated = ApiError(str(error.detail), headers=error.headers)
    translated.status = error.status_code
    return translated


SOURCES = (("body",), ("query",), ("path",), ("header",))


def _methods(request: Request) -> set[str]:
    """What the request's path takes. Starlette's own `allow` header knows its first route only."""
    taken: set[str] = set()
    for route in request.app.routes:
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE:
            taken |= route.methods
    return taken


@contextmanager
def translating() -> Iterator[None]:
    """Turn what the store and the generator raise into errors of the API."""
    try:
        yield
    except Exception as error:
        translated = _translate(error)
        if translated is None:
            raise
        raise translated from error


def _translate(error: Exception) -> ApiError | None:
    match error:
        case store.AdapterNotFound():
            return AdapterNotFound(f"No adapter {error.id_or_name!r} exists.", param="adapter_id")
        case store.WrongStatus():
            return AdapterStateConflict(
                f"The adapter {error.adapter_id!r} is {error.status}, not "
                f"{' or '.join(error.wanted)}."
            )
        case store.CorruptWeights() | store.CorruptSource():
            return AdapterFailed(f"{str(error)[:1].upper()}{str(error)[1:]}.")
        case store.StoreUnwritable():
            log.error("%s", error)
            return StorageUnavailable(f"The server cannot store anything now: {error.reason}.")
        case store.StoreUnavailable():
            log.error("%s", error)
            return StorageUnavailable("The server's catalogue does not answer now.")
    return None


class Route(APIRoute):
    """A route of ours: what its handler did not foresee is a defect (500), logged with its trace.

    vLLM's app answers 400 to any ValueError or TypeError, which is right for its own handlers and
    would hide ours.
    """

    def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            try:
                with translating():
                    return await handle(request)
            except ClientDisconnect:
                return Response(status_code=499)  # for the log alone: nobody reads it
            except (ApiError, HTTPException, RequestValidationError):
                raise
            except Exception as error:
                log.exception("%s %s failed", request.method, request.url.path)
                raise InternalError from error

        return guarded


def install(app: FastAPI) -> None:
    """Replace the app's handlers so that every exception leaves in OpenAI's shape."""

    @app.exception_handler(ApiError)
    async def _api_error(_request: Request, error: ApiError) -> Response:
        return error_response(error)

    @app.exception_handler(HTTPException)
    @app.exception_handler(FastAPIHTTPException)  # vLLM registers a handler for it too
    async def _http_error(request: Request, error: HTTPException) -> Response:
        return error_response(_from_http(error, request))

    @app.exception_handler(RequestValidationError)
    async def _validation_error(_request: Request, error: RequestValidationError) -> Response:
        return error_response(invalid_fields(error.errors()))
