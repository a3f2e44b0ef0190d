"""The operator's log: what callers send cannot write lines of its own."""

import json
import logging
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from server import logs
from server.access import AccessMiddleware

FORGED = "/%0a2026-01-01 00:00:00,000 INFO    server.app: ready%1b[2J"


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    names = ("vllm", "server", "generator", "adapters_store")
    root, levels = logging.getLogger(), {name: logging.getLogger(name).level for name in names}
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


async def defective(scope: Scope, _receive: Receive, send: Send) -> None:
    """Fails with the caller's words."""
    raise ValueError(scope["path"])


async def get(path: str) -> None:
    transport = httpx.ASGITransport(AccessMiddleware(defective))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        assert (await client.get(path)).status_code == 500


@pytest.mark.anyio
async def test_a_path_neither_forges_a_line_nor_steers_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "text")
    await get(FORGED)
    log = capsys.readouterr().err
    assert "\x1b" not in log
    lines = [line for line in log.splitlines() if not line.startswith("    ")]
    assert len(lines) == 2, "the failure and the access, and indented below the first its traceback"
    assert r"GET /\n2026-01-01 00:00:00,000 INFO    server.app: ready\x1b[2J 500" in lines[1]
    assert "    Traceback (most recent call last):" in log.splitlines()


@pytest.mark.anyio
async def test_each_line_for_a_collector_is_one_json_object(
    capsys: pytest.CaptureFixture[str],
) -> None:
    logs.configure("info", "json")
    await get(FORGED)
    failure, access = map(json.loads, capsys.readouterr().err.splitlines())
    assert "Traceback" in failure["exception"]
    assert access["message"].startswith("GET /\n2026")
    assert access["request_id"] == failure["request_id"]


def test_letters_of_all_languages_stay_readable(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("info", "text")
    logging.getLogger("server").info("größe 大小 \u202e")
    assert r"größe 大小 \u202e" in capsys.readouterr().err
