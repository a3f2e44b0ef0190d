"""The generator in a child process: results, fairness, refusals, and what happens when it dies."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import torch

from generator.document import DocumentGenerator
from generator.lora import LoraWeights
from generator.process import (
    GenerationRefused,
    GeneratorDied,
    GeneratorProcess,
    GeneratorUnusable,
)
from tests.generator.models import VOCABULARY, generator_folder
from tests.processes import alive

pytestmark = pytest.mark.anyio

CHUNKS = [list(range(1, 20)), list(range(30, 48)), [7] * 11]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """One event loop for the module, so that its tests can share a child process."""
    return "asyncio"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generator_folder(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
async def generator(folder: Path) -> AsyncIterator[GeneratorProcess]:
    process = GeneratorProcess(folder, base_name="tiny-base", max_batch_tokens=64)
    await process.start()
    yield process
    await process.stop()
    assert not process.ready


def made(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    return folder


async def test_documents_at_once_yield_what_each_yields_alone(
    generator: GeneratorProcess, folder: Path, tmp_path: Path
) -> None:
    alone = DocumentGenerator.load(folder, device="cpu")
    documents = {"one": CHUNKS[:1], "three": CHUNKS, "five": [*CHUNKS, *CHUNKS[:2]]}
    out = {name: made(tmp_path, name) for name in documents}
    async with asyncio.TaskGroup() as group:
        results = {
            name: group.create_task(generator.generate(chunks, out[name]))
            for name, chunks in documents.items()
        }
    for name, chunks in documents.items():
        wanted = alone.combine([alone.generate([chunk])[0] for chunk in chunks])
        found = LoraWeights.load(out[name])
        generated = results[name].result()
        assert generated.rank == wanted.rank == found.rank == 2 * (len(chunks) + 1)
        assert generated.chunks == len(chunks)
        assert generated.tokens == sum(map(len, chunks))
        assert generated.norm == pytest.approx(wanted.norm, rel=1e-4)
        delta = found.scaling * found.B["down_proj"].mT @ found.A["down_proj"]
        expected = wanted.scaling * wanted.B["down_proj"].mT @ wanted.A["down_proj"]
        torch.testing.assert_close(delta, expected, rtol=1e-4, atol=1e-5)
        config = json.loads((out[name] / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "tiny-base"


async def test_progress_counts_chunks_up_to_all_of_them(
    generator: GeneratorProcess, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    chunks = CHUNKS * 4
    await generator.generate(
        chunks, made(tmp_path, "out"), lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (12, 12)
    assert len(seen) > 1, "all chunks ran as one batch, although 64 tokens are the limit"
    assert seen == sorted(seen)


async def test_a_document_at_fault_fails_alone(generator: GeneratorProcess, tmp_path: Path) -> None:
    good, bad = made(tmp_path, "good"), made(tmp_path, "bad")
    results = await asyncio.gather(
        generator.generate(CHUNKS, good),
        generator.generate([[VOCABULARY + 5]], bad),
        return_exceptions=True,
    )
    assert (good / "adapter_model.safetensors").exists()
    assert isinstance(results[1], GenerationRefused)
    assert results[1].code == "generation_failed"
    assert list(bad.iterdir()) == []
    assert generator.ready


async def test_why_a_document_was_not_stored_is_logged_and_not_told(
    generator: GeneratorProcess, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(GenerationRefused) as refused:
        await generator.generate(CHUNKS, tmp_path / "nowhere")
    assert refused.value.code == "storage_failed"
    assert str(tmp_path) not in str(refused.value)
    assert str(tmp_path) in caplog.text


async def test_a_cancelled_document_leaves_its_folder_alone_afterwards(
    generator: GeneratorProcess, tmp_path: Path
) -> None:
    assert generator.pid is not None
    out = made(tmp_path, "out")
    os.kill(generator.pid, signal.SIGSTOP)
    task = asyncio.create_task(generator.generate(CHUNKS * 50, out))
    await asyncio.sleep(0.05)
    task.cancel()
    await asyncio.sleep(0.05)
    assert not task.done(), "it did not wait for the child's word"
    os.kill(generator.pid, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await task
    out.rmdir()
    await generator.generate(CHUNKS, made(tmp_path, "next"))
    assert not out.exists()


async def test_a_child_that_dies_fails_what_waits_and_is_replaced_as_soon_as_it_can_be(
    generator: GeneratorProcess, folder: Path, tmp_path: Path
) -> None:
    first, restarts = generator.pid, generator.restarts
    assert first is not None
    os.kill(first, signal.SIGSTOP)  # so that nothing is done before it dies
    waiting = [
        asyncio.create_task(generator.generate(CHUNKS, made(tmp_path, str(n)))) for n in range(3)
    ]
    await asyncio.sleep(0.05)
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(b"broken")
    os.kill(first, signal.SIGKILL)
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(outcome, GeneratorDied)
        assert "SIGKILL" in str(outcome)
    assert not generator.ready

    with pytest.raises(GeneratorDied, match=r"did not start again$"):  # why is in the log
        await generator.generate(CHUNKS, made(tmp_path, "while broken"))

    weights.write_bytes(kept)
    await generator.generate(CHUNKS, made(tmp_path, "later"))  # waits for the next child
    assert generator.ready
    assert generator.pid != first
    assert generator.restarts == restarts + 1


async def test_a_generator_that_cannot_be_loaded_is_refused_with_the_reason(
    tmp_path: Path,
) -> None:
    with pytest.raises(GeneratorUnusable, match="no generator in"):
        await GeneratorProcess(tmp_path / "nothing").start()


def test_a_child_ends_with_its_parent_even_if_that_is_killed(folder: Path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    assert parent.stdout.read() == ""  # the child holds no copy of the pipe: it prints elsewhere
    while alive(child):
        pass


PARENT = """
import asyncio, pathlib, sys
from generator.process import GeneratorProcess

async def main():
    generator = GeneratorProcess(pathlib.Path(sys.argv[1]))
    await generator.start()
    print(generator.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
