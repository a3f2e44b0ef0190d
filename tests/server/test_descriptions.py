"""Adapters from the descriptions of tasks, over HTTP and with no engine."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from adapters_store import AdapterKind, AdapterStatus
from generator.description import DescriptionReader
from tests.server.assembled import MAX_DESCRIPTION_TOKENS, Assembled, assembled, soon

pytestmark = pytest.mark.anyio

TASK = "Answer as a limerick."


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Assembled]:
    async with assembled(tmp_path) as server:
        yield server


async def test_a_description_becomes_an_adapter_of_its_own_generator(server: Assembled) -> None:
    answer = await server.describe(TASK, name="limericks", metadata={"team": "fun"})
    assert answer.status_code == 201, answer.text
    adapter = answer.json()
    assert answer.headers["location"] == f"/v1/adapters/{adapter['id']}"
    assert (adapter["kind"], adapter["status"], adapter["chunks"]) == ("text", "ready", 1)
    assert adapter["generator"] == "tiny-text@0123456789ab"
    assert (adapter["name"], adapter["version"]) == ("limericks", 1)
    assert (adapter["source_name"], adapter["source_bytes"]) == (TASK, len(TASK))
    assert adapter["metadata"] == {"team": "fun"}
    assert adapter["timings_ms"].keys() == {"extract", "generate", "store", "register"}
    made = {kind: generator.made for kind, generator in server.generators.items()}
    assert made == {AdapterKind.DOCUMENT: 0, AdapterKind.TEXT: 1}
    assert await server.store.source(adapter["id"]) == TASK.encode()
    await soon(lambda: server.engine.loaded == {adapter["id"]})


async def test_its_tokens_are_those_that_the_generator_reads(server: Assembled) -> None:
    server.generators[AdapterKind.TEXT].open.clear()
    queued = (await server.describe("Be brief", wait=0)).json()
    assert (queued["tokens"], queued["chunks"]) == (len("Be brief."), 1)


async def test_the_same_description_again_is_the_same_adapter(server: Assembled) -> None:
    first = (await server.describe(TASK)).json()
    again = await server.describe(TASK)
    assert (again.status_code, again.json()["id"]) == (200, first["id"])
    assert server.generators[AdapterKind.TEXT].made == 1


async def test_a_description_and_a_document_of_the_same_words_are_two_adapters(
    server: Assembled,
) -> None:
    description, document = await server.describe(TASK), await server.upload(TASK)
    assert (description.status_code, document.status_code) == (201, 201)
    kinds = {answer.json()["id"]: answer.json()["kind"] for answer in (description, document)}
    assert list(kinds.values()) == ["text", "document"]
    for kind in ("text", "document"):
        page = (await server.http.get("/v1/adapters", params={"kind": kind})).json()
        assert [kinds[adapter["id"]] for adapter in page["data"]] == [kind]


async def test_a_long_description_is_listed_by_its_beginning(server: Assembled) -> None:
    adapter = (await server.describe("Be\tbrief\n\nand   kind\u2028now")).json()
    assert adapter["source_name"] == "Be brief and kind now"
    adapter = (await server.describe("\u202eBe " + "so " * 20 + "brief")).json()
    assert adapter["source_name"] == "\ufffdBe " + "so " * 18 + "s…"


@pytest.mark.parametrize(
    ("body", "code", "param", "clue"),
    [
        ({"description": ""}, "description_empty", "description", "The description is empty"),
        ({"description": " \n\u2003"}, "description_empty", "description", "white space"),
        ({"description": "a\0b"}, "description_binary", "description", "The description is not"),
        ({"description": "\x01\x02ab"}, "description_binary", "description", "control"),
        ({"description": 7}, "invalid_request", "description", "valid string"),
        ({"description": ["a"]}, "invalid_request", "description", "valid string"),
        ({"description": TASK, "text": TASK}, "invalid_request", "description", "both came"),
        ({"description": None, "text": None}, "invalid_request", "text", "neither came"),
        ({"name": "limericks"}, "invalid_request", "text", "`text`, a document to know, and"),
        ({"description": TASK, "temperature": 1}, "invalid_request", "temperature", "no such"),
        ({"description": TASK, "name": "a b"}, "invalid_request", "name", "a name has"),
    ],
)
async def test_what_is_no_description_is_refused_and_leaves_nothing(
    server: Assembled, body: dict[str, Any], code: str, param: str, clue: str
) -> None:
    answer = await server.http.post("/v1/adapters", json=body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert clue in error["message"]
    assert not (await server.store.list("default")).items


async def test_a_description_is_no_form_field(server: Assembled) -> None:
    answer = await server.http.post(
        "/v1/adapters", files={"file": ("a.md", b"text")}, data={"description": TASK}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "description")


async def test_a_description_of_the_greatest_length_is_taken_and_a_longer_one_told_the_limit(
    server: Assembled,
) -> None:
    limit = MAX_DESCRIPTION_TOKENS  # a byte is a token, and a full stop is added
    assert (await server.describe("a" * (limit - 1))).status_code == 201
    answer = await server.describe("a" * limit)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "description_too_long")
    assert answer.json()["error"]["message"] == (
        f"The description has {limit + 1} tokens or more ({limit} characters); "
        f"this generator takes at most {limit} tokens. Say it in fewer words."
    )


async def test_a_megabyte_of_description_costs_no_more_to_refuse_than_its_beginning(
    server: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = []
    split = DescriptionReader.split

    def noted(reader: DescriptionReader, text: str) -> Any:
        lengths.append(len(text))
        return split(reader, text)

    monkeypatch.setattr(DescriptionReader, "split", noted)
    answer = await server.describe("word " * 200_000)
    assert answer.json()["error"]["code"] == "description_too_long"
    assert "1,000,000 characters" in answer.json()["error"]["message"]
    assert max(lengths) <= 16 * MAX_DESCRIPTION_TOKENS


@pytest.mark.parametrize(
    ("kind", "body", "param", "clues"),
    [
        (AdapterKind.DOCUMENT, {"description": TASK}, "description", ("descriptions", "Text-to-")),
        (AdapterKind.TEXT, {"text": TASK}, "text", ("documents", "Doc-to-LoRA")),
    ],
)
async def test_without_a_generator_for_it_a_request_is_told_which_option_adds_one(
    tmp_path: Path, kind: AdapterKind, body: dict[str, str], param: str, clues: tuple[str, ...]
) -> None:
    async with assembled(tmp_path, kinds=[kind]) as server:
        answer = await server.http.post("/v1/adapters", json=body)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"]) == (400, "generator_missing")
        assert (error["type"], error["param"]) == ("invalid_request_error", param)
        assert answer.headers["x-should-retry"] == "false"
        for clue in (*clues, "--generator DIR"):
            assert clue in error["message"]
        other = await (server.upload(TASK) if kind == "document" else server.describe(TASK))
        assert other.status_code == 201


async def test_a_generator_at_work_does_not_keep_the_other_kind_waiting(tmp_path: Path) -> None:
    async with assembled(tmp_path, jobs=2) as server:
        server.generator.open.clear()
        await server.upload("a text", wait=0)
        await soon(lambda: server.generator.at_work == 1)
        assert (await server.describe(TASK)).status_code == 201


@pytest.mark.parametrize(
    ("restart", "says"),
    [
        ({"fingerprint": "ba9876543210"}, "this server now runs tiny-text@ba9876543210."),
        ({"kinds": [AdapterKind.DOCUMENT]}, "this server now runs none of its kind."),
    ],
)
async def test_what_was_queued_for_a_generator_that_is_gone_fails_and_says_so(
    tmp_path: Path, restart: dict[str, Any], says: str
) -> None:
    async with assembled(tmp_path) as server:
        server.generators[AdapterKind.TEXT].open.clear()
        adapter = (await server.describe(TASK, wait=0)).json()["id"]
        document = (await server.upload("a text", wait=0)).json()["id"]
        await server.settled(document)
    async with assembled(tmp_path, **restart) as server:
        assert await server.settled(adapter) == AdapterStatus.FAILED
        error = (await server.http.get(f"/v1/adapters/{adapter}")).json()["error"]
        assert error["code"] == "generator_changed"
        assert "tiny-text@0123456789ab; " + says in error["message"]
        assert await server.status(document) == AdapterStatus.READY


async def test_what_was_queued_is_made_by_the_generator_that_it_was_queued_for(
    tmp_path: Path,
) -> None:
    async with assembled(tmp_path) as server:
        for generator in server.generators.values():
            generator.open.clear()
        description = (await server.describe(TASK, wait=0)).json()["id"]
        document = (await server.upload(TASK, wait=0)).json()["id"]
    async with assembled(tmp_path) as server:
        for adapter in (description, document):
            assert await server.settled(adapter) == AdapterStatus.READY
        assert [generator.made for generator in server.generators.values()] == [1, 1]


async def test_readiness_and_figures_tell_each_generator(server: Assembled) -> None:
    assert (await server.http.get("/ready")).status_code == 200
    server.generators[AdapterKind.TEXT].ready = False
    server.generators[AdapterKind.TEXT].restarts = 2
    answer = await server.http.get("/ready")
    assert answer.status_code == 503
    assert answer.json() == {
        **{"ready": False, "engine": True, "store": True},
        "generators": {"document": True, "text": False},
    }
    figures = (await server.http.get("/metrics")).text.splitlines()
    for kind, up, restarts in (("document", 1.0, 0.0), ("text", 0.0, 2.0)):
        labels = f'{{generator="tiny-{kind}@0123456789ab",kind="{kind}"}}'
        assert f"doclora_generator_up{labels} {up}" in figures
        assert f"doclora_generator_restarts_total{labels} {restarts}" in figures


async def test_the_openapi_document_shows_both_forms_in_json(server: Assembled) -> None:
    document = (await server.http.get("/openapi.json")).json()
    body = document["paths"]["/v1/adapters"]["post"]["requestBody"]["content"]["application/json"]
    assert {"text", "description"} <= body["schema"]["properties"].keys()
    assert body["schema"]["oneOf"] == [{"required": ["text"]}, {"required": ["description"]}]
    for example in body["examples"].values():
        answer = await server.http.post("/v1/adapters", json=example["value"])
        assert answer.status_code == 201, answer.text
