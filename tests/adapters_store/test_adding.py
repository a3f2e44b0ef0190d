from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

from adapters_store import AdapterNotFound, AdapterStatus, AdapterStore
from tests.adapters_store.making import assert_files_agree, finish, new, queue, ready

pytestmark = pytest.mark.anyio


async def test_what_is_added_is_found_again_with_its_source(store: AdapterStore) -> None:
    given = new(
        "Leave is 25 days.",
        tenant="hr",
        source_name="handbook.md",
        metadata={"team": "people"},
        options={"max_chunk_tokens": 128},
        tokens=6,
        chunks=1,
    )
    adapter, created = await store.add(given, b"Leave is 25 days.")
    assert created
    assert adapter == await store.get("hr", adapter.id)
    assert adapter.status is AdapterStatus.QUEUED
    assert (adapter.source_name, adapter.tokens, adapter.chunks) == ("handbook.md", 6, 1)
    assert (adapter.metadata, adapter.options) == ({"team": "people"}, {"max_chunk_tokens": 128})
    assert await store.source(adapter.id) == b"Leave is 25 days."


async def test_a_source_given_as_a_file_is_copied(store: AdapterStore, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"from a file" * 300_000)
    adapter, _ = await store.add(new("file"), upload)
    upload.unlink()
    assert await store.source(adapter.id) == b"from a file" * 300_000


async def test_the_same_content_again_is_the_same_adapter(store: AdapterStore) -> None:
    first = await queue(store, "text")
    again, created = await store.add(new("text"), b"text")
    assert (again.id, created) == (first.id, False)
    await finish(store, first.id)
    again, created = await store.add(new("text"), b"text")
    assert (again.id, again.status, created) == (first.id, "ready", False)


async def test_twenty_adds_of_one_content_at_once_make_one_adapter(store: AdapterStore) -> None:
    answers = await asyncio.gather(*(store.add(new("text"), b"text") for _ in range(20)))
    assert len({adapter.id for adapter, _ in answers}) == 1
    assert sum(created for _, created in answers) == 1
    assert len((await store.list("default")).items) == 1


async def test_content_is_never_shared_between_tenants(store: AdapterStore) -> None:
    ours = await ready(store, "text", tenant="ours")
    theirs, created = await store.add(new("text", tenant="theirs"), b"text")
    assert created
    assert theirs.id != ours.id
    assert theirs.status is AdapterStatus.QUEUED


async def test_another_tenants_adapter_does_not_exist(store: AdapterStore) -> None:
    adapter = await ready(store, "text", tenant="ours", name="handbook")
    for step in (
        store.get("theirs", adapter.id),
        store.resolve("theirs", adapter.id),
        store.resolve("theirs", "handbook"),
        store.delete("theirs", adapter.id),
    ):
        with pytest.raises(AdapterNotFound):
            await step
    assert (await store.list("theirs")).items == ()
    assert (await store.get("ours", adapter.id)).status is AdapterStatus.READY


@pytest.mark.parametrize("end", ["failed", "cancelled", "deleted", "expired"])
async def test_an_adapter_that_no_longer_answers_does_not_stand_in_the_way(
    store: AdapterStore, end: str
) -> None:
    soon = time.time() + 0.05 if end == "expired" else None
    first = await queue(store, "text", expires_at=soon)
    match end:
        case "failed":
            await store.fail(first.id, "broken", "it broke")
        case "cancelled":
            await store.cancel(first.id)
        case "deleted":
            await store.delete("default", first.id)
        case "expired":
            await asyncio.sleep(0.06)
    second = await queue(store, "text")
    assert second.id != first.id


async def test_adding_again_keeps_the_later_expiry(store: AdapterStore) -> None:
    soon, later = time.time() + 100, time.time() + 200
    await queue(store, "text", expires_at=later)
    assert (await store.add(new("text", expires_at=soon), b"text"))[0].expires_at == later
    assert (await store.add(new("text", expires_at=None), b"text"))[0].expires_at is None
    assert (await store.add(new("text", expires_at=later), b"text"))[0].expires_at is None


async def test_content_ready_under_one_name_is_ready_at_once_under_another(
    store: AdapterStore,
) -> None:
    first = await ready(store, "text", name="handbook")
    second, created = await store.add(new("text", name="rules", tokens=3), b"text")
    assert created
    assert second.id != first.id
    assert (second.status, second.version) == (AdapterStatus.READY, 1)
    assert (second.sha256, second.rank, second.bytes) == (first.sha256, first.rank, first.bytes)
    assert (await store.resolve("default", "rules")).id == second.id
    # and its weights are its own: they outlive the adapter that they came from
    await store.delete("default", first.id)
    await store.purge(first.id)
    assert (await store.weights(second.id) / "adapter_model.safetensors").is_file()


async def test_content_asked_for_without_a_name_is_found_under_any_name(
    store: AdapterStore,
) -> None:
    named = await ready(store, "text", name="handbook")
    found, created = await store.add(new("text"), b"text")
    assert (found.id, created) == (named.id, False)


@pytest.mark.parametrize("by", ["task", "scope"])
async def test_a_caller_that_goes_away_leaves_a_whole_adapter_or_none(
    store: AdapterStore, root: Path, url: str | None, by: str
) -> None:
    text = b"text" * 100_000
    for delay in (0.0, 0.001, 0.003, 0.01):
        adding = store.add(new(f"text {delay}"), text)
        if by == "scope":
            with anyio.move_on_after(delay):
                await adding
        else:
            task = asyncio.create_task(adding)
            await asyncio.sleep(delay)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
    for adapter in (await store.list("default")).items:
        assert await store.source(adapter.id) == text
    await store.close()
    if url is None:
        assert_files_agree(root)
