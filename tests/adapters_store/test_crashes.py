"""kill -9 in the middle: what was answered holds, and nothing half-made is visible."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adapters_store import Adapter, AdapterNotFound, AdapterStatus, AdapterStore
from tests.adapters_store.making import assert_files_agree, ready

pytestmark = pytest.mark.anyio

REPOSITORY = Path(__file__).parents[2]
# later promises about an adapter take the place of earlier ones
ALLOWED = {
    "queued": {"queued", "ready"},
    "ready": {"ready", "gone"},  # a deletion may have been under way
    "deleted": {"gone"},
    "purged": {"gone"},
}


async def test_a_kill_at_any_step_breaks_no_promise(root: Path, tmp_path: Path) -> None:
    async with await AdapterStore.open(root) as store:
        before = await ready(store, "one", name="handbook")
    crashing = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.adapters_store.crash", str(root), str(tmp_path)),
        cwd=REPOSITORY,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await crashing.communicate()
    assert crashing.returncode == 0
    steps = int(out)
    assert steps > 30
    for n in range(1, steps + 1):
        await check(tmp_path / str(n), tmp_path / f"{n}.promises", before)


async def check(root: Path, promises: Path, before: Adapter) -> None:
    promised = dict(
        reversed(json.loads(line)) for line in promises.read_text().splitlines() if line
    )
    async with await AdapterStore.open(root) as store:
        assert await store.get("default", before.id) == before
        for adapter_id, promise in promised.items():
            assert await state(store, adapter_id) in ALLOWED[promise]
        for adapter in (await store.list("default")).items:
            assert adapter.status in (AdapterStatus.QUEUED, AdapterStatus.READY)
            assert await store.source(adapter.id) in (b"one", b"two")
            if adapter.status is AdapterStatus.READY:
                await store.weights(adapter.id)
        await check_name(store)
    assert_files_agree(root)


async def state(store: AdapterStore, adapter_id: str, tenant: str = "default") -> str:
    try:
        return (await store.get(tenant, adapter_id)).status.value
    except AdapterNotFound:
        return "gone"


async def check_name(store: AdapterStore) -> None:
    """The name points to the newest ready version."""
    versions = await store.list("default", name="handbook", status=AdapterStatus.READY)
    newest = max(versions.items, key=lambda adapter: adapter.version or 0)
    assert await store.resolve("default", "handbook") == newest


BUSY = """
import asyncio, sys
from pathlib import Path
from adapters_store import AdapterStore
from tests.adapters_store.making import ready

async def come_and_go(store, tenant):
    n = 0
    while True:
        n += 1
        adapter = await ready(store, f"text {n % 3}", tenant=tenant)
        print("ready", adapter.id, tenant, flush=True)
        if n > 2:
            print("deleting", adapter.id, tenant, flush=True)
            await store.delete(tenant, adapter.id)
            print("deleted", adapter.id, tenant, flush=True)
            await store.purge(adapter.id)

async def busy():
    async with await AdapterStore.open(Path(sys.argv[1])) as store:
        await asyncio.gather(*(come_and_go(store, f"tenant {n}") for n in range(4)))

asyncio.run(busy())
"""


async def test_kills_at_random_times_under_load_lose_nothing_that_was_answered(
    root: Path,
) -> None:
    dice = random.Random(1)
    for _ in range(4):
        busy = subprocess.Popen(
            [sys.executable, "-c", BUSY, str(root)], cwd=REPOSITORY, stdout=subprocess.PIPE
        )
        assert busy.stdout is not None
        told = [busy.stdout.readline()]  # it has begun
        time.sleep(dice.uniform(0.05, 0.4))
        busy.kill()
        told += busy.stdout.read().splitlines()
        busy.wait()
        promised: dict[str, tuple[str, str]] = {}
        for line in told:
            promise, adapter_id, tenant = line.decode().split(maxsplit=2)
            promised[adapter_id] = (promise, tenant.strip())
        async with await AdapterStore.open(root) as store:
            for adapter_id, (promise, tenant) in promised.items():
                found = await state(store, adapter_id, tenant)
                if promise != "deleting":
                    assert found == {"ready": "ready", "deleted": "gone"}[promise]
                if found == "ready":
                    await store.weights(adapter_id)
            await clear(store)
        assert_files_agree(root)


async def clear(store: AdapterStore) -> None:
    for n in range(4):
        for adapter in (await store.list(f"tenant {n}", limit=100)).items:
            await store.delete(adapter.tenant, adapter.id)
            await store.purge(adapter.id)
