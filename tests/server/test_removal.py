"""What is deleted or expired leaves the engine and the disk, whoever found it."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from server.residency import EngineStopped
from tests.server.assembled import PATIENCE_SECONDS, Assembled, assembled, soon

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Assembled]:
    async with assembled(tmp_path) as server:
        yield server


def files(server: Assembled) -> set[str]:
    blobs = server.store.folder / "blobs"
    return {str(path) for kind in ("texts", "weights") for path in (blobs / kind).rglob("*")}


def pass_two_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 7200)


async def test_an_expired_adapter_that_an_upload_found_first_leaves_engine_and_disk(
    server: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = (await server.upload("a text", name="handbook", ttl_seconds=3600)).json()
    weights = await server.store.weights(old["id"])
    assert server.engine.loaded == {old["id"]}
    pass_two_hours(monkeypatch)
    server.generator.refusals = 1
    await server.upload("a text", name="handbook")  # the weights are not shared: it fails
    await server.service.removal.sweep()
    await soon(lambda: not server.engine.loaded)
    await soon(lambda: not weights.exists())


async def test_an_expired_adapter_leaves_engine_and_disk(
    server: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    await server.upload("a text", ttl_seconds=3600)
    pass_two_hours(monkeypatch)
    await server.service.removal.sweep()
    await soon(lambda: not server.engine.loaded)
    await soon(lambda: not files(server))


async def test_what_could_not_be_cleared_away_is_tried_again(
    server: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = (await server.upload("a text")).json()["id"]

    refused = asyncio.Event()

    async def refuse(_name: str) -> None:
        refused.set()
        raise EngineStopped("not now")

    with monkeypatch.context() as broken:
        broken.setattr(server.engine, "unload", refuse)
        await server.http.delete(f"/v1/adapters/{adapter}")
        await refused.wait()
    assert files(server)
    async with asyncio.timeout(PATIENCE_SECONDS):
        while files(server):
            await server.service.removal.sweep()
            await asyncio.sleep(0.005)


async def test_an_adapter_in_use_is_cleared_away_once_after_its_last_request(
    server: Assembled,
) -> None:
    adapter = (await server.upload("a text")).json()["id"]

    async def weights() -> Path:
        return await server.store.weights(adapter)

    async with server.service.residency.lease(adapter, weights):
        await server.http.delete(f"/v1/adapters/{adapter}")
        for _ in range(3):
            await server.service.removal.sweep()
        await asyncio.sleep(0.05)
        assert server.engine.loaded == {adapter}
        assert files(server)
    await soon(lambda: not files(server))
