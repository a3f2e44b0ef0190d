from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from adapters_store import AdapterStore
from tests.adapters_store.making import new, queue

pytestmark = pytest.mark.anyio

LARGE = 40 << 20  # bytes; hashing or syncing them takes far longer than the stall allowed
STALL_S = 0.025


async def longest_stall(step: Awaitable[object]) -> float:
    """The longest that the event loop did not come back while `step` ran, in seconds."""
    task = asyncio.ensure_future(step)
    longest, last = 0.0, time.perf_counter()
    while not task.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await task
    return longest


async def test_large_files_do_not_stall_the_event_loop(root: Path, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"x" * LARGE)

    async def stalls() -> dict[str, float]:
        found = {}
        store = await AdapterStore.open(root)
        found["add"] = await longest_stall(store.add(new("large"), upload))
        (job,) = await store.unfinished()
        found["source"] = await longest_stall(store.source(job.id))
        adapter = await queue(store, "weights")
        await store.claim(adapter.id)
        async with store.staging() as folder:
            (folder / "adapter_config.json").write_text("{}")
            (folder / "adapter_model.safetensors").write_bytes(b"w" * LARGE)
            found["commit"] = await longest_stall(
                store.commit(adapter.id, folder, rank=8, tokens=1, chunks=1)
            )
        await store.close()
        async with await AdapterStore.open(root) as store:
            found["weights"] = await longest_stall(store.weights(adapter.id))
            for job in (adapter, *await store.unfinished()):
                await store.delete("default", job.id)
                found["purge"] = await longest_stall(store.purge(job.id))
        return found

    # the best of three: on a busy machine the scheduler stalls everybody now and then
    rounds = [await stalls() for _ in range(3)]
    best = {step: min(stalls[step] for stalls in rounds) for step in rounds[0]}
    assert max(best.values()) < STALL_S, best
