"""The server in the test's own process: real store, jobs and routes; generators and an engine that
do what a test tells them."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from adapters_store import AdapterKind, AdapterStore
from generator.chunks import Chunker
from generator.config import TextGeneratorConfig
from generator.description import DescriptionReader
from generator.process import Generated, GenerationRefused, GeneratorDied
from server.app import furnish
from server.generators import ServedGenerator
from server.service import Service
from server.settings import Settings
from tests.adapters_store.making import write_weights
from tests.generator.models import PROMPT, text_hypernetwork_config, tokenizer

MAX_CHUNK_TOKENS, MAX_CHUNKS = 24, 5  # a byte is a token
MAX_DESCRIPTION_TOKENS = 96
BOTH = (AdapterKind.DOCUMENT, AdapterKind.TEXT)
PATIENCE_SECONDS = 60.0


class ScriptedGenerator:
    """Makes weights of the chunks' own bytes, once `open`; fails first as often as it is told."""

    restarts = 0

    def __init__(self) -> None:
        self.ready = True
        self.open = asyncio.Event()
        self.open.set()
        self.deaths = 0
        self.refusals = 0
        self.made = 0
        self.at_work = 0
        self.done = MAX_CHUNKS  # what it reports before it goes on

    async def generate(
        self, chunks: Sequence[Sequence[int]], out: Path, progress: Callable[[int, int], None]
    ) -> Generated:
        if self.deaths:
            self.deaths -= 1
            raise GeneratorDied("the generator process was killed")
        self.at_work += 1
        try:
            progress(min(self.done, len(chunks)), len(chunks))
            await self.open.wait()
        finally:
            self.at_work -= 1
        if self.refusals:
            self.refusals -= 1
            raise GenerationRefused("generation_failed", "the generator failed on it")
        write_weights(out, repr(chunks).encode())
        self.made += 1
        return Generated(rank=8, chunks=len(chunks), tokens=8, seconds=0.1, norm=1.0)


class IdleEngine:
    """Takes every adapter, and remembers which it has."""

    ready = True

    def __init__(self, base_model: str) -> None:
        self.base_model = base_model
        self.loaded: set[str] = set()

    async def load(self, name: str, folder: Path) -> None:
        assert (folder / "adapter_model.safetensors").is_file()
        self.loaded.add(name)

    async def unload(self, name: str) -> None:
        self.loaded.remove(name)


@dataclass
class Assembled:
    service: Service
    store: AdapterStore
    generators: dict[AdapterKind, ScriptedGenerator]
    engine: IdleEngine
    http: httpx.AsyncClient

    @property
    def generator(self) -> ScriptedGenerator:
        """The one that reads documents."""
        return self.generators[AdapterKind.DOCUMENT]

    async def upload(self, text: str, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/adapters", json={"text": text, **fields})

    async def describe(self, description: str, **fields: Any) -> httpx.Response:
        return await self.http.post("/v1/adapters", json={"description": description, **fields})

    async def status(self, adapter_id: str) -> str:
        return str((await self.store.get("default", adapter_id)).status)

    async def settled(self, adapter_id: str) -> str:
        """The adapter's final status, which must come soon."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not (await self.store.get("default", adapter_id)).status.terminal:
                await asyncio.sleep(0.005)
        return await self.status(adapter_id)


async def soon(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.005)


def splitter(kind: AdapterKind) -> Chunker | DescriptionReader:
    if kind is AdapterKind.DOCUMENT:
        limits = {"max_chunk_tokens": MAX_CHUNK_TOKENS, "max_chunks": MAX_CHUNKS}
        return Chunker(tokenizer(), PROMPT, **limits)
    config = TextGeneratorConfig(
        name="tiny",
        base_model="base",
        pooling="mean",
        max_description_tokens=MAX_DESCRIPTION_TOKENS,
        hypernetwork=text_hypernetwork_config(),
    )
    return DescriptionReader(tokenizer(), config)


@asynccontextmanager
async def assembled(
    data: Path,
    *,
    base_model: str = "tiny",
    kinds: Sequence[AdapterKind] = BOTH,
    fingerprint: str = "0123456789ab",
    **settings: Any,
) -> AsyncIterator[Assembled]:
    """A server with its data in `data` and a generator of each of the kinds; `settings` are those
    of the command."""
    processes, engine = {kind: ScriptedGenerator() for kind in kinds}, IdleEngine(base_model)
    generators = {
        kind: ServedGenerator(f"tiny-{kind}@{fingerprint}", splitter(kind), process)
        for kind, process in processes.items()
    }
    given = Settings(data_dir=data, **settings)
    async with (
        await AdapterStore.open(data) as store,
        Service.running(given, store, generators, engine) as service,
    ):
        app = FastAPI()
        furnish(app, service)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as http:
            yield Assembled(service, store, processes, engine, http)
