"""Chat with adapters through OpenAI's own client."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI, ConflictError, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.server.running import MAX_LORAS, Json, Running, document, eventually

pytestmark = pytest.mark.engine

# enough to answer, and always the same answer
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "seed": 0}


def adapter_of(http: httpx.Client, text: str | None = None, **fields: object) -> Json:
    answer = http.post("/v1/adapters", json={"text": text or document(), "wait": 120, **fields})
    assert answer.status_code in {200, 201}, answer.text
    adapter: Json = answer.json()
    return adapter


def question(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def ask(openai: OpenAI, model: str, text: str = "What colour is the pump?") -> str:
    answer = openai.chat.completions.create(model=model, messages=question(text), **GREEDY)
    assert answer.model
    return answer.choices[0].message.content or ""


def long_answer(openai: OpenAI, model: str, max_tokens: int) -> Iterator[ChatCompletionChunk]:
    """A stream of exactly `max_tokens` tokens."""
    return iter(
        openai.chat.completions.create(
            model=model,
            messages=question("What colour is the pump?"),
            stream=True,
            temperature=0,
            max_tokens=max_tokens,
            extra_body={"ignore_eos": True},
        )
    )


def test_an_adapter_answers_by_id_and_by_name(http: httpx.Client, openai: OpenAI) -> None:
    adapter = adapter_of(http, name="by-name")
    assert ask(openai, adapter["id"]) == ask(openai, "by-name")


def test_a_streamed_answer_is_the_answer(http: httpx.Client, openai: OpenAI) -> None:
    adapter = adapter_of(http)
    stream = openai.chat.completions.create(
        model=adapter["id"],
        messages=question("What colour is the pump?"),
        stream=True,
        stream_options={"include_usage": True},
        **GREEDY,
    )
    pieces, usage = [], None
    for chunk in stream:
        pieces += [choice.delta.content or "" for choice in chunk.choices]
        usage = chunk.usage or usage
    assert len(pieces) > 1
    assert "".join(pieces) == ask(openai, adapter["id"])
    assert usage is not None
    assert usage.prompt_tokens < adapter["tokens"] + 60, "the document is not in the prompt"


def test_models_lists_the_base_and_ready_adapters_without_paths(
    http: httpx.Client, openai: OpenAI, server: Running
) -> None:
    named = adapter_of(http, name="listed")
    with server.generator_stopped():
        unready = http.post("/v1/adapters", json={"text": document(), "wait": 0}).json()
        models = openai.models.list().data
    base, *adapters = models
    assert base.id == named["base_model"]
    ids = [model.id for model in adapters]
    assert ids == sorted(ids, reverse=True)
    assert named["id"] in ids
    assert unready["id"] not in ids
    for name in (named["id"], "listed"):
        model = openai.models.retrieve(name)
        assert (model.id, model.object, model.owned_by) == (named["id"], "model", "doclora")
    assert openai.models.retrieve(base.id).id == base.id
    assert "/" not in http.get("/v1/models").text.replace(base.id, ""), "a path on disk"
    eventually(lambda: http.get(f"/v1/models/{unready['id']}").status_code == 200)
    ids.insert(0, unready["id"])
    page = http.get("/v1/models", params={"limit": 1}).json()
    assert [model["id"] for model in page["data"]] == [base.id, ids[0]]
    following = http.get("/v1/models", params={"limit": 1, "after": page["last_id"]}).json()
    assert [model["id"] for model in following["data"]] == ids[1:2]


def test_an_unknown_model_is_not_found(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError) as refusal:
        ask(openai, "nobody")
    assert refusal.value.code == "model_not_found"
    with pytest.raises(NotFoundError):
        openai.models.retrieve("nobody")


def test_an_adapter_that_is_not_ready_is_a_conflict_worth_another_try(
    http: httpx.Client, openai: OpenAI, server: Running
) -> None:
    with server.generator_stopped():
        adapter = http.post("/v1/adapters", json={"text": document(), "wait": 0}).json()
        with pytest.raises(ConflictError) as refusal:
            ask(openai, adapter["id"])
        assert refusal.value.code == "adapter_not_ready"
        assert "x-should-retry" not in refusal.value.response.headers
        with pytest.raises(ConflictError):
            openai.models.retrieve(adapter["id"])
    patient = openai.with_options(max_retries=20)
    assert patient.chat.completions.create(
        model=adapter["id"], messages=question("What colour?"), **GREEDY
    )


def test_an_evicted_adapter_comes_back_by_itself(http: httpx.Client, openai: OpenAI) -> None:
    adapter = adapter_of(http)
    before = ask(openai, adapter["id"])
    where = f"/v1/adapters/{adapter['id']}"
    assert http.post(f"{where}/evict").json()["resident"] is False
    assert ask(openai, adapter["id"]) == before
    used = http.get(where).json()
    assert used["resident"] is True
    eventually(lambda: http.get(where).json()["last_used_at"])


def test_a_deleted_adapter_answers_no_more(http: httpx.Client, openai: OpenAI) -> None:
    adapter = adapter_of(http)
    ask(openai, adapter["id"])
    http.delete(f"/v1/adapters/{adapter['id']}")
    with pytest.raises(NotFoundError):
        ask(openai, adapter["id"])


def test_deleting_an_adapter_lets_a_running_stream_end_normally(
    http: httpx.Client, openai: OpenAI, server: Running
) -> None:
    before = server.files()
    adapter = adapter_of(http)
    chunks = long_answer(openai, adapter["id"], max_tokens=300)
    next(chunks)
    assert http.delete(f"/v1/adapters/{adapter['id']}").status_code == 200
    assert server.files() - before, "its files stay while it answers"
    reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices]
    assert reasons[-1] == "length"
    assert len(reasons) > 100
    with pytest.raises(NotFoundError):
        ask(openai, adapter["id"])
    eventually(lambda: not server.files() - before)


def test_evicting_an_adapter_lets_a_running_stream_end_normally(
    http: httpx.Client, openai: OpenAI
) -> None:
    adapter = adapter_of(http)
    where = f"/v1/adapters/{adapter['id']}"
    chunks = long_answer(openai, adapter["id"], max_tokens=200)
    next(chunks)
    assert http.post(f"{where}/evict").json()["resident"] is True, "it is in use"
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
    eventually(lambda: http.get(where).json()["resident"] is False)


def test_eight_adapters_and_the_base_answer_at_once(
    http: httpx.Client, openai: OpenAI, server: Running
) -> None:
    """More adapters than fit into a batch; nobody gets another's answer or an error."""
    models = [adapter_of(http)["id"] for _ in range(4 * MAX_LORAS)]
    models.append(openai.models.list().data[0].id)

    async def ask_all() -> list[str | APIStatusError]:
        async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            requests = [
                client.chat.completions.create(
                    model=model, messages=question("What colour is the pump?"), **GREEDY
                )
                for model in models * 2
            ]
            answers = await asyncio.gather(*requests)
        return [answer.model for answer in answers]

    assert asyncio.run(ask_all()) == models * 2


@pytest.mark.parametrize("route", ["completions", "responses", "messages", "tokenize"])
def test_the_other_inference_routes_take_adapters_too(http: httpx.Client, route: str) -> None:
    adapter = adapter_of(http, name=f"for-{route}")
    prompt = "What colour is the pump?"
    path, body = {
        "completions": ("/v1/completions", {"prompt": prompt, "max_tokens": 4}),
        "responses": ("/v1/responses", {"input": prompt, "max_output_tokens": 16}),
        "messages": ("/v1/messages", {"messages": question(prompt), "max_tokens": 4}),
        "tokenize": ("/tokenize", {"prompt": prompt}),
    }[route]
    for model in (adapter["id"], adapter["name"]):
        answer = http.post(path, json={"model": model, **body})
        assert answer.status_code == 200, answer.text
    answer = http.post(path, json={"model": "nobody", **body})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
