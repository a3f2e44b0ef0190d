"""Every error leaves in OpenAI's shape, with a request ID, and says whether to try again."""

from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from openai import AsyncOpenAI, ConflictError

from server import errors
from server.access import AccessMiddleware

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    router = APIRouter(route_class=errors.Route)

    @router.get("/items/{number}")
    async def item(number: int) -> int:
        return number

    @router.post("/documents")
    async def document(fields: dict[str, int]) -> dict[str, int]:
        return fields

    @router.get("/documents")
    async def documents() -> list[str]:
        return []

    @router.get("/defect")
    async def defect() -> None:
        raise ValueError("a secret of the server")

    @router.get("/pending")
    async def pending() -> None:
        raise errors.AdapterNotReady("still at it", param="model")

    @router.post("/failed/chat/completions")
    async def failed() -> None:
        raise errors.AdapterFailed("never will be", param="model")

    @app.exception_handler(ValueError)  # as vLLM's app has it
    async def foreign(_request: object, _error: Exception) -> None:
        raise AssertionError("a defect of ours was taken for a caller's mistake")

    app.include_router(router)
    errors.install(app)
    app.add_middleware(AccessMiddleware)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test/") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code", "param"),
    [
        ("GET", "/items/seven", None, 400, "invalid_request", "number"),
        ("POST", "/documents", b'{"a": 1,}', 400, "malformed_body", None),
        ("POST", "/documents", b'{"a": "x"}', 400, "invalid_request", "a"),
        ("GET", "/nothing", None, 404, "not_found", None),
        ("DELETE", "/defect", None, 405, "method_not_allowed", None),
        ("GET", "/defect", None, 500, "internal_error", None),
        ("GET", "/pending", None, 409, "adapter_not_ready", "model"),
    ],
)
async def test_an_error_has_openais_shape(
    client: httpx.AsyncClient,
    method: str,
    path: str,
    body: bytes | None,
    status: int,
    code: str,
    param: str | None,
) -> None:
    answer = await client.request(
        method, path, content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (error["code"], error["param"]) == (code, param)
    assert error["type"] == ("server_error" if status >= 500 else "invalid_request_error")
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"].startswith("req_")


async def test_a_wrong_method_is_told_the_right_one(client: httpx.AsyncClient) -> None:
    answer = await client.delete("/documents")
    assert answer.headers["allow"] == "GET, POST"
    assert "GET, POST" in answer.json()["error"]["message"]


async def test_a_callers_request_id_is_kept_unless_it_is_ill_formed(
    client: httpx.AsyncClient,
) -> None:
    kept = await client.get("/items/1", headers={"x-request-id": "trace-1"})
    assert kept.headers.get_list("x-request-id") == ["trace-1"]
    replaced = await client.get("/items/1", headers={"x-request-id": "two words"})
    assert replaced.headers["x-request-id"].startswith("req_")


async def test_openais_client_retries_what_can_help_and_nothing_else(
    client: httpx.AsyncClient,
) -> None:
    pending = await client.get("/pending")
    assert "x-should-retry" not in pending.headers
    assert pending.headers["retry-after"] == "1"

    requests = []
    client.event_hooks["request"].append(lambda request: _record(requests, request))
    openai = AsyncOpenAI(
        api_key="none", base_url="http://test/failed", http_client=client, max_retries=3
    )
    with pytest.raises(ConflictError, match="never will be"):
        await openai.chat.completions.create(model="m", messages=[])
    assert len(requests) == 1


async def _record(requests: list[httpx.Request], request: httpx.Request) -> None:
    requests.append(request)
