"""Uploads over HTTP, with no engine: what is taken, what is refused, what is the same adapter."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.server.assembled import PATIENCE_SECONDS, Assembled, assembled, soon

pytestmark = pytest.mark.anyio


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Assembled]:
    async with assembled(tmp_path) as server:
        yield server


async def test_a_text_that_begins_with_a_great_deal_of_white_space_is_taken(
    server: Assembled,
) -> None:
    answer = await server.upload("\n" * 80_000 + "a text")
    assert answer.status_code == 201, answer.text


async def test_metadata_nested_beyond_all_bounds_is_refused(server: Assembled) -> None:
    for deep in ("[" * 50_000, '{"a":' * 12_000):
        answer = await server.http.post(
            "/v1/adapters", files={"file": ("a.md", b"text")}, data={"metadata": deep}
        )
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == "metadata"


async def test_without_a_wish_an_upload_waits_no_longer_than_the_server_allows(
    tmp_path: Path,
) -> None:
    async with assembled(tmp_path, max_wait=0.1) as server:
        server.generator.open.clear()
        async with asyncio.timeout(PATIENCE_SECONDS):
            in_json = await server.upload("one text")
            in_a_form = await server.http.post("/v1/adapters", files={"file": ("a.md", b"two")})
        assert (in_json.status_code, in_a_form.status_code) == (202, 202)
        refused = await server.upload("a text", wait=0.2)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "wait")


async def test_without_a_wish_an_upload_waits(server: Assembled) -> None:
    assert (await server.upload("a text")).status_code == 201


async def test_the_same_text_for_another_base_model_is_another_adapter(tmp_path: Path) -> None:
    async with assembled(tmp_path, base_model="old") as server:
        first = (await server.upload("a text", name="handbook")).json()
        assert (await server.upload("a text", name="handbook")).json()["id"] == first["id"]
    async with assembled(tmp_path, base_model="new") as server:
        where = f"/v1/adapters/{first['id']}/load"
        told = (await server.http.post(where)).json()["error"]["message"]
        assert "Upload its source again" in told
        again = await server.upload("a text", name="handbook")
        assert again.status_code == 201
        assert (again.json()["base_model"], again.json()["version"]) == ("new", 2)
        where = f"/v1/adapters/{again.json()['id']}/load"
        assert (await server.http.post(where)).status_code == 200


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [("cancel", 409, "adapter_cancelled"), ("delete", 404, "adapter_not_found")],
)
async def test_an_upload_that_waits_hears_of_its_adapters_end(
    tmp_path: Path, end: str, status: int, code: str
) -> None:
    async with assembled(tmp_path, jobs=1) as server:
        server.generator.open.clear()
        await server.upload("a text before it", wait=0)
        await soon(lambda: server.generator.at_work == 1)
        waiting = asyncio.create_task(server.upload("a text", name="queued"))
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (found := (await server.store.list("default", name="queued")).items):
                await asyncio.sleep(0.005)
            where = f"/v1/adapters/{found[0].id}"
            if end == "delete":
                await server.http.delete(where)
            else:
                await server.http.post(f"{where}/cancel")
            answer = await waiting
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


async def test_the_openapi_document_tells_how_an_upload_may_end(server: Assembled) -> None:
    document = (await server.http.get("/openapi.json")).json()
    upload = document["paths"]["/v1/adapters"]["post"]
    assert {"200", "201", "202", "400", "404", "409", "413", "415", "500", "503"} == set(
        upload["responses"]
    )
    for form in upload["requestBody"]["content"].values():
        assert "300" in form["schema"]["properties"]["wait"]["description"]
