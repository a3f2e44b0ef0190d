from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Awaitable
from pathlib import Path

import pytest

from adapters_store import AdapterStore
from tests.adapters_store.making import new, queue

pytestmark = pytest.mark.anyio

LARGE = 40 << 20  # bytes; hashing or copying them takes longer than the burst allowed
BURST_S = 0.025


async def longest_burst(step: Awaitable[object]) -> float:
    """The most that the event loop's thread computed without coming up for air, in seconds.

    Of processor time, not of the clock: a busy machine must not fail this.
    """
    task = asyncio.ensure_future(step)
    longest, last = 0.0, time.thread_time()
    while not task.done():
        await asyncio.sleep(0)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    await task
    return longest


async def test_large_files_do_not_stall_the_event_loop(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"x" * LARGE)
    syncing: set[threading.Thread] = set()
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        syncing.add(threading.current_thread())
        fsync(descriptor)

    bursts = {}
    store = await AdapterStore.open(root)
    monkeypatch.setattr(os, "fsync", noted)
    bursts["add"] = await longest_burst(store.add(new("large"), upload))
    (large,) = await store.unfinished()
    bursts["source"] = await longest_burst(store.source(large.id))
    adapter = await queue(store, "weights")
    await store.claim(adapter.id)
    async with store.staging() as folder:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(b"w" * LARGE)
        bursts["commit"] = await longest_burst(
            store.commit(adapter.id, folder, rank=8, tokens=1, chunks=1)
        )
    monkeypatch.undo()
    await store.close()
    async with await AdapterStore.open(root) as store:
        bursts["weights"] = await longest_burst(store.weights(adapter.id))
        for job in (large, adapter):
            await store.delete("default", job.id)
            bursts[f"purge {job.id}"] = await longest_burst(store.purge(job.id))
    assert max(bursts.values()) < BURST_S, bursts
    assert syncing
    assert threading.main_thread() not in syncing
