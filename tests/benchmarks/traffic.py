"""Chat requests over HTTP as callers send them, timed."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import httpx

from generator.training.corpus import documents
from generator.training.corpus.inventory import Split

ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """One answered request: seconds to the first token and to the last, tokens of the prompt."""

    first: float
    last: float
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Load:
    """Many requests at once: answer tokens a second, and the median seconds to the first token."""

    tokens_per_second: float
    first: float


async def ask(client: httpx.AsyncClient, model: str, text: str) -> Asked:
    """Streams an answer of exactly ANSWER_TOKENS tokens."""
    began = time.perf_counter()
    first = last = 0.0
    prompt_tokens = 0
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": ANSWER_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
        if answer.status_code != 200:
            raise RuntimeError(f"{answer.status_code}: {(await answer.aread()).decode()}")
        async for line in answer.aiter_lines():
            if not line.startswith("data: {"):
                continue
            part = json.loads(line.removeprefix("data: "))
            if part.get("usage"):
                prompt_tokens = part["usage"]["prompt_tokens"]
            if part["choices"] and part["choices"][0]["delta"].get("content"):
                last = time.perf_counter() - began
                first = first or last
    return Asked(first, last, prompt_tokens)


async def one_by_one(url: str, model: str, texts: Sequence[str]) -> list[Asked]:
    """The texts, each after the answer to the one before."""
    async with _client(url) as client:
        return [await ask(client, model, text) for text in texts]


async def at_once(url: str, models: Sequence[str], texts: Sequence[str], callers: int) -> Load:
    """The texts from so many callers at once, to the models in turn."""
    waiting = iter(enumerate(texts))
    asked: list[Asked] = []

    async def caller(client: httpx.AsyncClient) -> None:
        for index, text in waiting:
            asked.append(await ask(client, models[index % len(models)], text))

    began = time.perf_counter()
    async with _client(url) as client, asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller(client))
    seconds = time.perf_counter() - began
    return Load(len(texts) * ANSWER_TOKENS / seconds, statistics.median(a.first for a in asked))


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=300)


def upload(client: httpx.Client, text: str) -> dict[str, Any]:
    """The adapter of a document, once it is ready."""
    answer = client.post("/v1/adapters", json={"text": text, "wait": 300})
    if answer.status_code not in (200, 201):
        raise RuntimeError(f"{answer.status_code}: {answer.text}")
    adapter: dict[str, Any] = answer.json()
    return adapter


def questions(count: int, seed: int) -> list[str]:
    """Questions such as the embedded model is asked."""
    rng = Random(f"questions {seed}")
    return [
        documents.document(rng, Split.HELD_OUT, facts=1).facts[0].question for _ in range(count)
    ]


def document(facts: int, seed: int) -> str:
    """A document with so many facts."""
    rng = Random(f"document {seed}")
    subjects = max(1, facts // 4)
    return documents.document(rng, Split.HELD_OUT, facts=facts, subjects=subjects).text
