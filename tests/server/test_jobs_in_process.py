"""Jobs against a real store, whatever the generator and the store do to them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from adapters_store import StoreUnavailable, StoreUnwritable
from server import jobs
from tests.server.assembled import PATIENCE_SECONDS, Assembled, assembled, soon

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Assembled]:
    async with assembled(tmp_path, jobs=2) as server:
        yield server


async def queued(server: Assembled, text: str, **fields: Any) -> str:
    answer = await server.upload(text, wait=0, **fields)
    assert answer.status_code == 202, answer.text
    return str(answer.json()["id"])


class Failing:
    """A method that first raises `error` some times."""

    def __init__(self, method: Callable[..., Awaitable[Any]], times: int, error: Exception) -> None:
        self._method = method
        self._error = error
        self.left = times

    async def __call__(self, *args: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self._error
        return await self._method(*args)


LOCKED = StoreUnavailable("catalogue", "database is locked")
FULL = StoreUnwritable("catalogue", "no space left on device")


async def test_a_job_whose_generator_died_is_tried_again_and_can_still_be_stopped(
    server: Assembled,
) -> None:
    server.generator.deaths = 1
    server.generator.open.clear()
    adapter = await queued(server, "a text")
    await soon(lambda: server.generator.at_work == 1)
    cancelled = await server.http.post(f"/v1/adapters/{adapter}/cancel")
    assert cancelled.json()["status"] == "cancelled"
    assert server.generator.at_work == 0


async def test_after_a_generators_death_all_workers_work(server: Assembled) -> None:
    server.generator.deaths = 1
    assert await server.settled(await queued(server, "a text")) == "ready"
    server.generator.open.clear()
    for number in range(3):
        await queued(server, f"text {number}")
    await soon(lambda: server.generator.at_work == 2)


async def test_a_job_that_sees_two_generators_die_fails(server: Assembled) -> None:
    server.generator.deaths = 2
    assert await server.settled(await queued(server, "a text")) == "failed"


@pytest.mark.parametrize("error", [LOCKED, FULL], ids=["locked", "full"])
@pytest.mark.parametrize("step", ["claim", "fail", "retry"])
async def test_a_job_waits_for_a_store_that_takes_nothing_down(
    server: Assembled, monkeypatch: pytest.MonkeyPatch, step: str, error: Exception
) -> None:
    monkeypatch.setattr(jobs, "PAUSES_SECONDS", (0.001, 0.002))
    monkeypatch.setattr(server.store, step, Failing(getattr(server.store, step), 5, error))
    server.generator.refusals = step == "fail"
    server.generator.deaths = step == "retry"
    adapter = await queued(server, "a text")
    assert await server.settled(adapter) == ("failed" if step == "fail" else "ready")


async def test_a_job_that_waits_for_the_store_does_not_hold_up_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS), assembled(tmp_path) as server:
        claim = Failing(server.store.claim, 1, LOCKED)
        monkeypatch.setattr(server.store, "claim", claim)
        monkeypatch.setattr(jobs, "PAUSES_SECONDS", (1000.0,))
        adapter = await queued(server, "a text")
        await soon(lambda: not claim.left)
    async with assembled(tmp_path) as server:
        assert await server.settled(adapter) == "ready"


async def test_an_upload_takes_up_a_job_that_nobody_works_on(
    server: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = Failing(server.store.claim, 1, RuntimeError())
    monkeypatch.setattr(server.store, "claim", claim)
    adapter = await queued(server, "a text")
    await soon(lambda: not claim.left)
    assert await server.status(adapter) == "queued"
    again = await server.upload("a text")
    assert (again.status_code, again.json()["id"]) == (200, adapter)


async def test_a_job_goes_on_when_its_cancellation_cannot_be_noted(
    server: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.generator.open.clear()
    adapter = await queued(server, "a text")
    await soon(lambda: server.generator.at_work == 1)
    monkeypatch.setattr(server.store, "cancel", Failing(server.store.cancel, 1, LOCKED))
    assert (await server.http.post(f"/v1/adapters/{adapter}/cancel")).status_code == 503
    server.generator.open.set()
    assert await server.settled(adapter) == "ready"


async def test_equal_content_under_many_names_is_generated_once(server: Assembled) -> None:
    server.generator.open.clear()
    names = [None, "a", "b", "c"]
    uploads = [await queued(server, "a text", name=name) for name in names]
    other = await queued(server, "another text")
    await soon(lambda: server.generator.at_work == 2)  # equal content keeps no worker waiting
    server.generator.open.set()
    for adapter in (*uploads, other):
        assert await server.settled(adapter) == "ready"
    assert server.generator.made == 2
    made = [await server.store.get("default", adapter) for adapter in uploads]
    assert len({adapter.sha256 for adapter in made}) == 1
    assert [adapter.chunks for adapter in made] == [made[0].chunks] * 4
    for name, adapter in zip(names[1:], uploads[1:], strict=True):
        assert (await server.store.resolve("default", name)).id == adapter
    await soon(lambda: server.engine.loaded == {*uploads, other})


async def test_equal_content_is_generated_after_all_when_the_first_fails(
    server: Assembled,
) -> None:
    server.generator.open.clear()
    server.generator.refusals = 1
    first, second = [await queued(server, "a text", name=name) for name in ("a", "b")]
    server.generator.open.set()
    assert await server.settled(second) == "ready"
    assert await server.status(first) == "failed"


async def test_equal_content_is_generated_after_all_when_the_first_is_cancelled(
    server: Assembled,
) -> None:
    server.generator.open.clear()
    first, second = [await queued(server, "a text", name=name) for name in ("a", "b")]
    await soon(lambda: server.generator.at_work == 1)
    await server.http.post(f"/v1/adapters/{first}/cancel")
    server.generator.open.set()
    assert await server.settled(second) == "ready"
    assert await server.status(first) == "cancelled"


async def test_what_the_generator_reports_is_the_adapters_progress(server: Assembled) -> None:
    server.generator.done = 2
    server.generator.open.clear()
    adapter = await queued(server, "words " * 12)
    async with asyncio.timeout(PATIENCE_SECONDS):
        async for state in server.service.changes.watch("default", adapter):
            if state.progress.total:
                break
    assert (state.progress.done, state.progress.total) == (2, 4)
    assert (await server.http.get(f"/v1/adapters/{adapter}")).json()["progress"] == {
        "done": 2,
        "total": 4,
    }
