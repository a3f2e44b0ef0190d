"""One blob may belong to several adapters; it goes with the last of them."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters_store import AdapterStatus, AdapterStore, StoreUnwritable, WrongStatus
from tests.adapters_store.making import (
    assert_files_agree,
    finish,
    new,
    queue,
    ready,
    write_weights,
)

pytestmark = pytest.mark.anyio


def blobs_of(root: Path) -> list[str]:
    kinds = ("texts", "weights")
    return sorted(path.name for kind in kinds for path in (root / "blobs" / kind).iterdir())


async def gone(store: AdapterStore, tenant: str, adapter_id: str) -> None:
    await store.delete(tenant, adapter_id)
    await store.purge(adapter_id)


async def test_equal_content_is_stored_once_and_lives_as_long_as_its_last_adapter(
    store: AdapterStore, root: Path
) -> None:
    ours = await ready(store, "text", tenant="ours")
    theirs = await ready(store, "text", tenant="theirs")
    assert ours.sha256 == theirs.sha256
    assert len(blobs_of(root)) == 2
    await gone(store, "ours", ours.id)
    assert await store.source(theirs.id) == b"text"
    assert (await store.weights(theirs.id)).is_dir()
    await gone(store, "theirs", theirs.id)
    assert blobs_of(root) == []


async def test_deleting_leaves_the_files_until_the_purge(store: AdapterStore) -> None:
    adapter = await ready(store, "text")
    folder = await store.weights(adapter.id)
    await store.delete("default", adapter.id)
    assert (folder / "adapter_model.safetensors").is_file()
    await store.purge(adapter.id)
    assert not folder.exists()
    await store.purge(adapter.id)  # twice is no error


async def test_an_adapter_that_is_not_deleted_is_not_purged(store: AdapterStore) -> None:
    adapter = await ready(store, "text")
    await store.purge(adapter.id)
    assert (await store.get("default", adapter.id)) == adapter
    assert (await store.weights(adapter.id)).is_dir()


async def test_purging_while_the_same_content_is_stored_again_loses_nothing(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    async def come_and_go(tenant: str, times: int) -> str:
        for _ in range(times):
            adapter = await ready(store, "text", tenant=tenant)
            assert await store.source(adapter.id) == b"text"
            weights = await store.weights(adapter.id)
            assert (weights / "adapter_model.safetensors").read_bytes() == b"weights of text"
            await gone(store, tenant, adapter.id)
        return (await ready(store, "text", tenant=tenant)).id

    last = await asyncio.gather(*(come_and_go(f"tenant {n}", 6) for n in range(4)))
    for adapter_id in last:
        assert await store.source(adapter_id) == b"text"
        assert (await store.weights(adapter_id) / "adapter_config.json").is_file()
    await store.close()
    if url is None:
        assert_files_agree(root)


async def test_a_step_that_fails_takes_its_files_back_but_not_those_of_others(
    store: AdapterStore, root: Path
) -> None:
    kept = await ready(store, "one", b"shared", tenant="ours")
    lost = await queue(store, "two", tenant="theirs")
    await store.claim(lost.id)
    before = blobs_of(root)
    for content in (b"shared", b"its own"):
        async with store.staging() as folder:
            write_weights(folder, content)
            await store.cancel(lost.id)
            with pytest.raises(Exception, match="cancelled"):
                await store.commit(lost.id, folder, rank=8, tokens=3, chunks=1)
    assert blobs_of(root) == before
    assert (await store.weights(kept.id) / "adapter_model.safetensors").read_bytes() == b"shared"


@pytest.fixture
def failing_commit() -> Iterator[list[OSError]]:
    """Put an error in, and the next commit of any transaction ends with it."""
    errors: list[OSError] = []

    def fail(_connection: sa.Connection) -> None:
        if errors:
            raise errors.pop()

    sa.event.listen(sa.Engine, "commit", fail)
    yield errors
    sa.event.remove(sa.Engine, "commit", fail)


async def test_a_commit_that_fails_takes_back_files_already_in_place(
    store: AdapterStore, root: Path, failing_commit: list[OSError]
) -> None:
    kept = await ready(store, "kept", b"shared")
    lost = await queue(store, "lost")
    await store.claim(lost.id)
    before = blobs_of(root)
    failing_commit.append(OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(StoreUnwritable):
        await store.add(new("new"), b"new")
    for content in (b"shared", b"its own"):
        failing_commit.append(OSError(errno.ENOSPC, "No space left on device"))
        async with store.staging() as folder:
            write_weights(folder, content)
            with pytest.raises(StoreUnwritable):
                await store.commit(lost.id, folder, rank=8, tokens=3, chunks=1)
    assert blobs_of(root) == before
    assert (await store.weights(kept.id)).is_dir()
    assert (await store.get("default", lost.id)).status is AdapterStatus.GENERATING


async def test_weights_stored_again_repair_what_was_damaged(store: AdapterStore) -> None:
    first = await ready(store, "text", tenant="ours")
    damaged = await store.weights(first.id) / "adapter_model.safetensors"
    damaged.write_bytes(b"damaged")
    adapter, _ = await store.add(new("text", tenant="theirs"), b"text")
    second = await finish(store, adapter.id, b"weights of text")
    assert second.sha256 == first.sha256
    assert damaged.read_bytes() == b"weights of text"


async def test_of_two_jobs_with_equal_content_the_second_takes_the_weights_of_the_first(
    store: AdapterStore,
) -> None:
    first = await queue(store, "text", name="handbook")
    second = await queue(store, "text", name="rules")
    other = await queue(store, "text", tenant="other")
    for adapter in (second, other):
        await store.claim(adapter.id)
    assert await store.adopt(second.id) is None
    made = await finish(store, first.id)
    adopted = await store.adopt(second.id)
    assert adopted is not None
    assert (adopted.status, adopted.sha256) == (AdapterStatus.READY, made.sha256)
    assert (adopted.rank, adopted.tokens, adopted.chunks) == (made.rank, made.tokens, made.chunks)
    assert (await store.resolve("default", "rules")).id == second.id
    assert await store.adopt(other.id) is None, "another tenant's"
    await gone(store, "default", first.id)
    assert (await store.weights(second.id) / "adapter_model.safetensors").is_file()


async def test_a_cancelled_job_adopts_nothing(store: AdapterStore) -> None:
    first = await queue(store, "text", name="handbook")
    second = await queue(store, "text", name="rules")
    await store.claim(second.id)
    await finish(store, first.id)
    await store.cancel(second.id)
    with pytest.raises(WrongStatus):
        await store.adopt(second.id)


async def test_what_is_deleted_is_told_until_it_is_purged(store: AdapterStore) -> None:
    kept = await ready(store, "kept")
    going = [(await queue(store, f"text {number}")).id for number in range(3)]
    for adapter_id in going:
        await store.delete("default", adapter_id)
    first = await store.deleted(limit=2)
    assert sorted([*first, *await store.deleted(after=first[-1])]) == sorted(going)
    for adapter_id in going:
        await store.purge(adapter_id)
    assert await store.deleted() == ()
    assert await store.get("default", kept.id) == kept


async def test_an_expired_adapter_that_made_way_for_its_content_is_told_as_deleted(
    store: AdapterStore,
) -> None:
    first = await queue(store, "text", expires_at=time.time() + 0.05)
    await asyncio.sleep(0.06)
    await queue(store, "text")
    assert await store.expired() == ()
    assert await store.deleted() == (first.id,)
