"""A caller that goes away in the middle of anything leaves the store as usable as before."""

import asyncio
import random
from pathlib import Path

import pytest

from adapters_store import AdapterStatus, AdapterStore, NewAdapter

pytestmark = pytest.mark.anyio


async def test_callers_cancelled_at_any_moment_leave_no_lock_behind(tmp_path: Path) -> None:
    dice = random.Random(0)
    new = NewAdapter(
        base_model="base",
        generator="generator@0",
        fingerprint="f",
        source_sha256="0" * 64,
        source_bytes=4,
    )
    async with await AdapterStore.open(tmp_path) as store:
        adapter, _ = await store.add(new, b"text")
        await store.claim(adapter.id)
        for done in range(60):
            callers = [
                asyncio.ensure_future(step)
                for step in (
                    store.progress(adapter.id, done, 60),
                    store.get("default", adapter.id),
                    store.list("default"),
                    store.record_timings(adapter.id, generate=float(done)),
                )
            ]
            await asyncio.sleep(dice.random() * 0.003)
            for caller in callers:
                caller.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            # with a lock left behind this would be refused after ten seconds
            adapter = await store.advance(adapter.id, AdapterStatus.GENERATING)
        assert adapter.status is AdapterStatus.GENERATING
