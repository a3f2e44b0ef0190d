"""The middleware in front of an app that shows what reached it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from server.errors import AdapterNotReady, ModelNotFound
from server.residency import EngineRefused, EngineStopped, Residency
from server.routing import INFERENCE_PATHS, InferenceRouting, Target

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}


class Engine:
    """Loads anything but what it was told to refuse."""

    def __init__(self) -> None:
        self.refuses: Exception | None = None
        self.open = asyncio.Event()
        self.open.set()

    async def load(self, name: str, folder: Path) -> None:
        await self.open.wait()
        if self.refuses:
            raise self.refuses

    async def unload(self, name: str) -> None:
        pass


class Upstream:
    """Stands where vLLM's app is: keeps the request, answers in two pieces, the last when told."""

    def __init__(self) -> None:
        self.scope: Scope = {}
        self.body = b""
        self.calls = 0
        self.finish = asyncio.Event()
        self.finish.set()
        self.fails = False

    @property
    def model(self) -> Any:
        return json.loads(self.body)["model"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.calls = scope, self.calls + 1
        self.body, more = b"", True
        while more:
            message = await receive()
            self.body += message["body"]
            more = message["more_body"]
        if self.fails:
            raise RuntimeError("upstream failed")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"first ", "more_body": True})
        await self.finish.wait()
        await send({"type": "http.response.body", "body": b"last"})


async def anywhere() -> Path:
    return Path("/weights")


async def resolve(model: str, scope: Scope) -> Target:
    match model:
        case "base":
            return Target("base")
        case "adp_1" | "handbook":
            return Target("adp_1", anywhere)
        case "queued":
            raise AdapterNotReady("The adapter 'queued' is not ready yet.", param="model")
    raise ModelNotFound(f"The model {model!r} does not exist.", param="model")


class Bench:
    def __init__(self, residency: Residency, engine: Engine) -> None:
        self.upstream = Upstream()
        self.engine = engine
        self.residency = residency
        self.app = InferenceRouting(
            self.upstream, resolve=resolve, residency=residency, max_body_bytes=3000
        )
        transport = httpx.ASGITransport(app=self.app)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://test")

    async def post(self, body: Any, path: str = CHAT) -> httpx.Response:
        return await self.client.post(path, json=body)

    async def leases(self) -> int:
        await asyncio.sleep(0.01)
        return self.residency.leases("adp_1")


@pytest.fixture
def bench() -> Callable[[], Any]:
    @asynccontextmanager
    async def opened(timeout: float = 5.0) -> AsyncIterator[Bench]:
        engine = Engine()
        async with Residency(engine, 1, timeout) as residency:
            bench = Bench(residency, engine)
            async with bench.client:
                yield bench

    return opened


def error_of(response: httpx.Response) -> dict[str, Any]:
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, Any] = body["error"]
    return error


async def test_a_request_to_the_base_model_passes_with_its_body_and_no_lease(bench: Any) -> None:
    async with bench() as on:
        body = {"model": "base", "messages": [{"role": "user", "content": "Grüße 😀"}]}
        response = await on.post(body)
        assert response.text == "first last"
        assert json.loads(on.upstream.body) == body
        assert on.residency.loads == 0


@pytest.mark.parametrize("path", sorted(INFERENCE_PATHS))
async def test_every_inference_route_resolves_a_name_to_the_adapter_s_id(
    bench: Any, path: str
) -> None:
    async with bench() as on:
        response = await on.post({"model": "handbook", "prompt": "Why?", "x": [1, 2.5]}, path)
        assert response.status_code == 200
        assert json.loads(on.upstream.body) == {"model": "adp_1", "prompt": "Why?", "x": [1, 2.5]}
        headers = on.upstream.scope["headers"]
        lengths = [int(value) for name, value in headers if name == b"content-length"]
        assert lengths == [len(on.upstream.body)]
        assert on.residency.resident == {"adp_1"}


async def test_other_routes_methods_and_protocols_pass_untouched(bench: Any) -> None:
    async with bench() as on:
        await on.client.post("/v1/adapters", content=b"not json")
        assert on.upstream.body == b"not json"
        await on.client.get(CHAT)
        assert on.upstream.calls == 2

        async def receive() -> Message:
            return {"type": "websocket.connect", "body": b"", "more_body": False}

        async def send(message: Message) -> None:
            pass

        await on.app({"type": "websocket", "path": CHAT}, receive, send)
        assert on.upstream.calls == 3


async def test_the_lease_lasts_until_the_last_byte_of_a_stream(bench: Any) -> None:
    async with bench() as on:
        on.upstream.finish.clear()
        request = asyncio.create_task(on.post({"model": "adp_1"}))
        assert await on.leases() == 1
        on.upstream.finish.set()
        await request
        assert await on.leases() == 0


async def test_the_lease_ends_when_the_route_fails(bench: Any) -> None:
    async with bench() as on:
        on.upstream.fails = True
        with pytest.raises(RuntimeError, match="upstream failed"):
            await on.post({"model": "adp_1"})
        assert await on.leases() == 0


async def test_the_lease_ends_when_the_request_is_cancelled(bench: Any) -> None:
    async with bench() as on:
        on.upstream.finish.clear()
        request = asyncio.create_task(on.post({"model": "adp_1"}))
        assert await on.leases() == 1
        request.cancel()
        assert await on.leases() == 0


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [("unknown", 404, "model_not_found"), ("queued", 409, "adapter_not_ready")],
)
async def test_a_model_that_cannot_answer_is_refused_before_vllm_sees_it(
    bench: Any, model: str, status: int, code: str
) -> None:
    async with bench() as on:
        response = await on.post({"model": model})
        assert response.status_code == status
        assert error_of(response)["code"] == code
        assert on.upstream.calls == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b'{"model": "\xff"}', "not valid JSON"),
        (b"[" * 2900, "not valid JSON"),
        (b"[1]", "a JSON list, not an object"),
    ],
)
async def test_a_body_that_is_no_json_object_is_refused(bench: Any, body: bytes, says: str) -> None:
    async with bench() as on:
        response = await on.client.post(CHAT, content=body, headers=JSON)
        assert response.status_code == 400
        assert says in error_of(response)["message"]
        assert on.upstream.calls == 0


@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": 3}, {"model": ""}])
async def test_a_missing_or_wrong_model_is_named(bench: Any, body: dict[str, Any]) -> None:
    async with bench() as on:
        response = await on.post(body)
        assert response.status_code == 400
        assert error_of(response)["param"] == "model"


async def test_a_repeated_key_cannot_name_another_model_to_vllm(bench: Any) -> None:
    async with bench() as on:
        twice = b'{"model": "adp_2", "model": "base"}'
        await on.client.post(CHAT, content=twice, headers=JSON)
        assert on.upstream.body == b'{"model": "base"}'


async def test_another_content_type_is_refused(bench: Any) -> None:
    async with bench() as on:
        response = await on.client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
        assert response.status_code == 415
        assert "text/plain" in error_of(response)["message"]


async def test_a_body_that_says_it_is_too_large_is_not_read(bench: Any) -> None:
    async with bench() as on:
        read = []

        async def body() -> AsyncIterator[bytes]:
            read.append(1)
            yield b"x"

        headers = {**JSON, "content-length": "3001"}
        response = await on.client.post(CHAT, content=body(), headers=headers)
        assert response.status_code == 413
        assert "3,000 bytes" in error_of(response)["message"]
        assert not read


async def test_a_body_that_does_not_say_it_is_too_large_is_read_no_further_than_the_limit(
    bench: Any,
) -> None:
    async with bench() as on:
        pieces = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal pieces
            while True:
                pieces += 1
                yield b" " * 100

        response = await on.client.post(CHAT, content=endless(), headers=JSON)
        assert response.status_code == 413
        assert pieces < 35


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (EngineRefused("wrong shape"), 409, "adapter_failed"),
        (EngineStopped("dead"), 503, "not_ready"),
        (ModelNotFound("deleted meanwhile"), 404, "model_not_found"),
    ],
)
async def test_a_load_that_fails_is_answered_with_its_reason(
    bench: Any, refusal: Exception, status: int, code: str
) -> None:
    async with bench() as on:
        on.engine.refuses = refusal
        response = await on.post({"model": "adp_1"})
        assert response.status_code == status
        assert error_of(response) == {
            "message": str(refusal),
            "type": "server_error" if status == 503 else "invalid_request_error",
            "param": error_of(response)["param"],
            "code": code,
        }


async def test_no_room_in_time_is_answered_with_when_to_come_back(bench: Any) -> None:
    async with bench(timeout=0.02) as on:
        async with on.residency.lease("adp_0", anywhere):
            response = await on.post({"model": "adp_1"})
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) > 0
        assert error_of(response)["code"] == "not_ready"


async def test_an_adapter_that_is_being_deleted_is_not_found(bench: Any) -> None:
    async with bench() as on:
        async with on.residency.lease("adp_1", anywhere):
            removing = asyncio.create_task(on.residency.remove("adp_1"))
            response = await on.post({"model": "adp_1"})
            assert response.status_code == 404
            assert error_of(response)["code"] == "model_not_found"
        await removing


async def test_a_client_that_leaves_while_the_adapter_loads_leaks_nothing(bench: Any) -> None:
    async with bench() as on:
        on.engine.open.clear()
        messages: list[Callable[[], Awaitable[Message]]] = []
        left = asyncio.Event()
        sent: list[Message] = []

        async def body() -> Message:
            return {"type": "http.request", "body": b'{"model": "adp_1"}', "more_body": False}

        async def leaves() -> Message:
            await left.wait()
            return {"type": "http.disconnect"}

        messages = [body]

        async def receive() -> Message:
            return await (messages.pop() if messages else leaves)()

        async def send(message: Message) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json")]
        scope = {"type": "http", "method": "POST", "path": CHAT, "headers": headers}
        request = asyncio.create_task(on.app(scope, receive, send))
        await asyncio.sleep(0.01)
        assert on.residency.waiting == 1
        left.set()
        await request
        assert on.residency.waiting == 0
        assert sent == []
        assert on.upstream.calls == 0
        on.engine.open.set()
        assert await on.leases() == 0
