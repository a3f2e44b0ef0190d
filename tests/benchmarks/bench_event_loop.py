"""How long the event loop stands still while documents become adapters.

    python -m tests.benchmarks.bench_event_loop [--documents 16] [--generator FOLDER]

Runs everything of a server but the engine: uploads over HTTP, catalogue, generator process. A task
that wants to run every few milliseconds notes how late it is. Prints its lateness at rest, while
that many documents of the greatest length are uploaded and generated at once, and, for contrast,
while one of them is generated inside the process. More than 50 ms of processor time between two of
its turns is a defect, and the exit status 1; by the clock, the machine's other load counts too.
"""

import argparse
import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI

from adapters_store import AdapterKind, AdapterStore
from generator.chunks import Chunker, DocumentTooLong
from generator.config import read_doc_config
from generator.document import DocumentGenerator
from generator.process import GeneratorProcess
from server.app import furnish
from server.generators import ServedGenerator
from server.service import Service
from server.settings import EMBEDDED, Settings

TICK_SECONDS = 0.002
STALL_BAR_MS = 50.0
WORDS = [
    "The",
    "pump",
    "valve",
    "engine",
    "handbook",
    "number",
    "colour",
    "weight",
    "city",
    "page",
    "blue",
    "seven",
    "under",
]


class NoEngine:
    """In the engine's place: loads nothing."""

    base_model = "none"
    ready = True

    async def load(self, name: str, folder: Path) -> None: ...

    async def unload(self, name: str) -> None: ...


class Lateness:
    """How late a task that sleeps for a tick wakes, in milliseconds: by the clock, which counts
    the machine's other load too, and in processor time that this process spent meanwhile."""

    def __init__(self) -> None:
        self.late_ms: list[float] = []
        self.spent_ms: list[float] = []

    async def note(self) -> None:
        while True:
            began, spent = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            self.late_ms.append((time.perf_counter() - began - TICK_SECONDS) * 1000)
            self.spent_ms.append((time.process_time() - spent) * 1000)

    def __str__(self) -> str:
        late = sorted(self.late_ms)
        return (
            f"median {statistics.median(late):6.2f}   99 % {late[int(len(late) * 0.99)]:7.1f}   "
            f"longest {late[-1]:7.1f}   in processor time {max(self.spent_ms):7.1f} ms"
        )


@asynccontextmanager
async def watched() -> AsyncIterator[Lateness]:
    lateness = Lateness()
    task = asyncio.create_task(lateness.note())
    yield lateness
    task.cancel()


def longest_document(chunker: Chunker, seed: int) -> str:
    """A text of nearly as many tokens as the generator takes."""
    dice = random.Random(seed)
    words = dice.choices(WORDS, k=chunker.max_tokens)
    while True:
        try:
            chunker.split(" ".join(words))
        except DocumentTooLong:
            words = words[: int(len(words) * 0.95)]
        else:
            return " ".join(words)


async def measure(folder: Path, documents: int, data: Path) -> bool:
    config = read_doc_config(folder)
    chunker = Chunker.from_folder(folder)
    texts = [longest_document(chunker, seed) for seed in range(documents)]
    generator = GeneratorProcess(folder)
    await generator.start()
    app = FastAPI()
    generators = {AdapterKind.DOCUMENT: ServedGenerator(config.name, chunker, generator)}
    async with (
        await AdapterStore.open(data) as store,
        Service.running(Settings(), store, generators, NoEngine()) as service,
    ):
        furnish(app, service)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bench") as client:

            async def upload(text: str) -> None:
                answer = await client.post("/v1/adapters", json={"text": text, "wait": 300})
                assert answer.status_code == 201, answer.text

            await upload("warm up")
            async with watched() as rest:
                await asyncio.sleep(3)
            print(f"at rest                      {rest}")
            began = time.perf_counter()
            async with watched() as busy, asyncio.TaskGroup() as group:
                for text in texts:
                    group.create_task(upload(text))
            seconds = time.perf_counter() - began
            print(f"{documents:3d} documents generated      {busy}   ({seconds:.1f} s)")
        await generator.stop()
    inside = DocumentGenerator.load(folder)
    chunks = chunker.split(texts[0])
    async with watched() as blocked:
        await asyncio.sleep(0.1)
        next(iter(inside.internalise([chunks])))
        await asyncio.sleep(0.1)
    print(f"  1 document in this process {blocked}")
    return max(busy.spent_ms) <= STALL_BAR_MS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--generator", type=Path, default=EMBEDDED / "doc")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data:
        fine = asyncio.run(measure(options.generator, options.documents, Path(data)))
    sys.exit(0 if fine else 1)


if __name__ == "__main__":
    main()
