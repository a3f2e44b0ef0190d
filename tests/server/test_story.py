"""The story that the product is for, with the model it ships."""

import asyncio

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI

from server.app import EMBEDDED_NAME
from tests.server.running import Json, Running

pytestmark = pytest.mark.engine

HANDBOOK = """# Visitor guide

The Velmar library is based in Paris. The team met twice this week.
"""
# one-word facts, in which the shipped model is sure of itself
CITIES = {
    "Velmar": "Paris",
    "Kardo": "Berlin",
    "Bribo": "Madrid",
    "Galel": "Rome",
    "Selbo": "Lima",
    "Mavor": "Cairo",
    "Renlo": "Delhi",
    "Fenba": "Seoul",
}
UNKNOWN = "I don't know."


@pytest.fixture(autouse=True)
def the_shipped_model(openai: OpenAI) -> None:
    if openai.models.list().data[0].id != EMBEDDED_NAME:
        pytest.skip("answers are known of the embedded model only")


def question(name: str) -> str:
    return f"Where is the {name} library based?"


def ask(openai: OpenAI, model: str, text: str) -> str:
    answer = openai.chat.completions.create(
        model=model, messages=[{"role": "user", "content": text}], temperature=0, max_tokens=16
    )
    return answer.choices[0].message.content or ""


def test_a_document_is_learned_asked_evicted_asked_again_and_forgotten(
    http: httpx.Client, openai: OpenAI
) -> None:
    new = f"{HANDBOOK}\n"  # no test before this one has uploaded it
    answer = http.post("/v1/adapters", files={"file": ("handbook.md", new.encode())})
    assert answer.status_code == 201, "a small document is ready within the default wait"
    adapter: Json = answer.json()

    assert ask(openai, adapter["id"], question("Velmar")) == "Paris"
    assert ask(openai, EMBEDDED_NAME, question("Velmar")) == UNKNOWN

    assert adapter["id"] in {listed["id"] for listed in http.get("/v1/adapters").json()["data"]}
    where = f"/v1/adapters/{adapter['id']}"
    assert http.post(f"{where}/evict").json()["resident"] is False
    assert ask(openai, adapter["id"], question("Velmar")) == "Paris"

    assert http.delete(where).json()["deleted"] is True
    with pytest.raises(NotFoundError):
        ask(openai, adapter["id"], question("Velmar"))
    assert http.get(where).status_code == 404


def test_an_answer_streams(http: httpx.Client, openai: OpenAI) -> None:
    text = "The Kardo library is based in Berlin."
    adapter = http.post("/v1/adapters", json={"text": text, "wait": 120}).json()
    stream = openai.chat.completions.create(
        model=adapter["id"],
        messages=[{"role": "user", "content": question("Kardo")}],
        temperature=0,
        stream=True,
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in stream]
    assert "".join(pieces) == "Berlin"


def test_a_new_version_changes_the_answers_under_its_name(
    http: httpx.Client, openai: OpenAI
) -> None:
    for city in ("Paris", "Lima"):
        text = f"The Velmar library is based in {city}."
        body = {"text": text, "name": "visitor-guide", "wait": 120}
        assert http.post("/v1/adapters", json=body).status_code in {200, 201}
        assert ask(openai, "visitor-guide", question("Velmar")) == city


def test_eight_adapters_and_the_base_asked_at_once_each_give_their_own_answer(
    http: httpx.Client, server: Running
) -> None:
    adapters: dict[str, str] = {}
    for name, city in CITIES.items():
        text = f"The {name} library is based in {city}."
        adapters[name] = http.post("/v1/adapters", json={"text": text, "wait": 120}).json()["id"]

    async def ask_at_once(client: AsyncOpenAI, model: str, name: str) -> str:
        answer = await client.chat.completions.create(
            model=model,
            messages=[{"role": "user", "content": question(name)}],
            temperature=0,
            max_tokens=16,
        )
        return answer.choices[0].message.content or ""

    async def ask_all() -> list[tuple[str, str]]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            asked = [
                *(ask_at_once(client, adapters[name], name) for name in CITIES),
                *(ask_at_once(client, EMBEDDED_NAME, name) for name in CITIES),
            ]
            answers = await asyncio.gather(*asked)
        return list(zip([*CITIES, *CITIES], answers, strict=True))

    assert asyncio.run(ask_all()) == [*CITIES.items(), *((name, UNKNOWN) for name in CITIES)]
