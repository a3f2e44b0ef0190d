from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

import pytest

from adapters_store import AdapterNotFound, AdapterStatus, AdapterStore
from tests.adapters_store.making import assert_files_agree, finish, queue, ready, write_weights

pytestmark = pytest.mark.anyio


async def reopen(store: AdapterStore, root: Path, url: str | None) -> AdapterStore:
    await store.close()
    return await AdapterStore.open(root, url)


async def test_a_store_in_order_is_left_as_it_is(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    made = await ready(store, "one", name="handbook")
    waiting = await queue(store, "two")
    async with await reopen(store, root, url) as again:
        assert await again.get("default", made.id) == made
        assert await again.get("default", waiting.id) == waiting
        assert (await again.weights(made.id)).is_dir()
        assert await again.resolve("default", "handbook") == made
        found = again.recovery
        assert {getattr(found, field) for field in found.__slots__} == {0}


@pytest.mark.parametrize(
    "status", [AdapterStatus.EXTRACTING, AdapterStatus.GENERATING, AdapterStatus.STORING]
)
async def test_an_interrupted_job_is_queued_again_once_and_then_fails(
    store: AdapterStore, root: Path, url: str | None, status: AdapterStatus
) -> None:
    adapter = await queue(store, "text")
    await store.claim(adapter.id)
    await store.advance(adapter.id, status)  # type: ignore[arg-type]
    store = await reopen(store, root, url)
    assert store.recovery.requeued == 1
    assert [job.id for job in await store.unfinished()] == [adapter.id]
    assert (await store.get("default", adapter.id)).status is AdapterStatus.QUEUED
    await store.claim(adapter.id)
    async with await reopen(store, root, url) as store:
        assert store.recovery.interrupted == 1
        failed = await store.get("default", adapter.id)
        assert failed.status is AdapterStatus.FAILED
        assert failed.error is not None
        assert failed.error.code == "interrupted"


async def test_deleted_adapters_and_their_files_are_gone_after_a_restart(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    kept = await ready(store, "kept")
    deleted = await ready(store, "deleted")
    await store.delete("default", deleted.id)
    async with await reopen(store, root, url) as again:
        assert again.recovery.purged == 1
        assert [adapter.id for adapter in (await again.list("default")).items] == [kept.id]
        assert len(list((root / "blobs" / "weights").iterdir())) == 1
        assert len(list((root / "blobs" / "texts").iterdir())) == 1


async def test_what_expired_while_the_server_slept_is_gone_after_a_restart(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    old = await ready(store, "old", name="handbook")
    brief = await queue(store, "new", name="handbook", expires_at=time.time() + 0.01)
    await finish(store, brief.id)
    await store.close()
    await asyncio.sleep(0.02)
    async with await AdapterStore.open(root, url) as again:
        assert again.recovery.expired == again.recovery.purged == 1
        assert (await again.resolve("default", "handbook")).id == old.id
        with pytest.raises(AdapterNotFound):
            await again.get("default", brief.id)


@pytest.mark.parametrize("loss", ["folder", "one file", "cut short"])
async def test_an_adapter_whose_weights_were_lost_is_failed_at_start(
    store: AdapterStore, root: Path, url: str | None, loss: str
) -> None:
    kept = await ready(store, "kept")
    adapter = await ready(store, "text")
    folder = await store.weights(adapter.id)
    match loss:
        case "folder":
            shutil.rmtree(folder)
        case "one file":
            (folder / "adapter_config.json").unlink()
        case "cut short":
            (folder / "adapter_model.safetensors").write_bytes(b"w")
    async with await reopen(store, root, url) as again:
        assert again.recovery.weights_missing == 1
        failed = await again.get("default", adapter.id)
        assert failed.status is AdapterStatus.FAILED
        assert failed.error is not None
        assert failed.error.code == "weights_missing"
        assert (await again.get("default", kept.id)).status is AdapterStatus.READY
        assert not folder.exists()


async def test_a_queued_job_whose_source_was_lost_is_failed_at_start(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    adapter = await queue(store, "text")
    shutil.rmtree(root / "blobs" / "texts")
    async with await reopen(store, root, url) as again:
        failed = await again.get("default", adapter.id)
        assert failed.status is AdapterStatus.FAILED
        assert failed.error is not None
        assert failed.error.code == "source_missing"


async def test_leftovers_of_a_killed_process_are_cleared_away(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    kept = await ready(store, "kept")
    await store.close()
    blobs = root / "blobs"
    half = blobs / "staging" / "0123456789abcdef"
    half.mkdir()
    write_weights(half, b"half written")
    orphan = blobs / "weights" / ("0" * 64)
    orphan.mkdir()
    (orphan / "adapter_config.json").write_text("{}")
    (blobs / "texts" / ("1" * 64)).mkdir()
    (blobs / "texts" / "stray").write_text("not even a folder")
    async with await AdapterStore.open(root, url) as again:
        assert again.recovery.leftovers == 4
        assert (await again.weights(kept.id)).is_dir()
    if url is None:
        assert_files_agree(root)
