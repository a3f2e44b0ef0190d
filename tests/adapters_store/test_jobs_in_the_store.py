from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from adapters_store import (
    AdapterNotFound,
    AdapterStatus,
    AdapterStore,
    Failure,
    IncompleteWeights,
    Progress,
    WrongStatus,
)
from tests.adapters_store.making import (
    assert_files_agree,
    finish,
    queue,
    ready,
    write_weights,
)

pytestmark = pytest.mark.anyio


async def test_a_job_goes_from_queued_to_ready_with_everything_recorded(
    store: AdapterStore,
) -> None:
    adapter = await queue(store, "text")
    claimed = await store.claim(adapter.id)
    assert claimed is not None
    assert (claimed.status, claimed.attempts) == (AdapterStatus.GENERATING, 1)
    assert (await store.progress(adapter.id, 3, 7)).progress == Progress(3, 7)
    storing = await store.advance(adapter.id, AdapterStatus.STORING, tokens=900, chunks=7)
    assert (storing.status, storing.tokens, storing.chunks) == (AdapterStatus.STORING, 900, 7)
    async with store.staging() as folder:
        write_weights(folder, b"weights")
        made = await store.commit(
            adapter.id, folder, rank=64, tokens=901, chunks=7, compression_error=0.01
        )
    assert made.status is AdapterStatus.READY
    assert (made.rank, made.tokens, made.chunks, made.compression_error) == (64, 901, 7, 0.01)
    assert made.bytes == len(b'{"r": 8}') + len(b"weights")
    await store.record_timings(adapter.id, generate=812.5)
    timed = await store.record_timings(adapter.id, store=9.0)
    assert timed.timings_ms == {"generate": 812.5, "store": 9.0}
    weights = await store.weights(adapter.id)
    assert (weights / "adapter_model.safetensors").read_bytes() == b"weights"


async def test_the_checksum_is_the_one_that_sha256sum_gives(store: AdapterStore) -> None:
    adapter = await ready(store, "text")
    folder = await store.weights(adapter.id)
    process = await asyncio.create_subprocess_shell(
        "sha256sum adapter_config.json adapter_model.safetensors | sha256sum",
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    assert out.decode().split()[0] == adapter.sha256


async def test_of_many_claims_one_wins(store: AdapterStore) -> None:
    adapter = await queue(store, "text")
    claims = await asyncio.gather(*(store.claim(adapter.id) for _ in range(10)))
    assert sum(claim is not None for claim in claims) == 1


async def test_a_job_learns_that_it_was_cancelled(store: AdapterStore, root: Path) -> None:
    adapter = await queue(store, "text")
    await store.claim(adapter.id)
    assert (await store.cancel(adapter.id)).status is AdapterStatus.CANCELLED
    with pytest.raises(WrongStatus, match="is cancelled"):
        await store.progress(adapter.id, 1, 2)
    with pytest.raises(WrongStatus):
        await store.advance(adapter.id, AdapterStatus.STORING)
    async with store.staging() as folder:
        write_weights(folder, b"weights")
        with pytest.raises(WrongStatus):
            await store.commit(adapter.id, folder, rank=8, tokens=3, chunks=1)
    assert not list((root / "blobs" / "weights").iterdir())


async def test_a_job_learns_that_its_adapter_was_deleted(store: AdapterStore) -> None:
    adapter = await queue(store, "text")
    await store.claim(adapter.id)
    await store.delete("default", adapter.id)
    with pytest.raises(AdapterNotFound):
        await store.progress(adapter.id, 1, 2)
    with pytest.raises(AdapterNotFound):
        await store.fail(adapter.id, "late", "too late")


async def test_a_finished_adapter_can_be_neither_failed_nor_cancelled(
    store: AdapterStore,
) -> None:
    adapter = await ready(store, "text")
    assert (await store.fail(adapter.id, "late", "too late")).status is AdapterStatus.READY
    assert (await store.cancel(adapter.id)).status is AdapterStatus.READY
    assert (await store.get("default", adapter.id)).error is None


async def test_a_failure_keeps_its_reason(store: AdapterStore) -> None:
    adapter = await queue(store, "text")
    failed = await store.fail(adapter.id, "too_large", "the weights exploded")
    assert failed == await store.get("default", adapter.id)
    assert failed.error == Failure("too_large", "the weights exploded")
    with pytest.raises(WrongStatus, match="is failed"):
        await store.weights(adapter.id)


async def test_a_job_is_tried_twice_and_then_fails_for_the_last_reason(
    store: AdapterStore,
) -> None:
    adapter = await queue(store, "text")
    await store.claim(adapter.id)
    assert (await store.retry(adapter.id, "died", "it died")).status is AdapterStatus.QUEUED
    await store.claim(adapter.id)
    last = await store.retry(adapter.id, "died", "it died again")
    assert (last.status, last.error) == (AdapterStatus.FAILED, Failure("died", "it died again"))


async def test_a_claim_given_back_does_not_count(store: AdapterStore) -> None:
    adapter = await queue(store, "text")
    for _ in range(5):
        assert await store.claim(adapter.id) is not None
        released = await store.release(adapter.id)
        assert (released.status, released.attempts) == (AdapterStatus.QUEUED, 0)


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], "nothing"),
        (["adapter_model.safetensors"], "adapter_model.safetensors"),
        (["adapter_config.json", "adapter_model.safetensors", "x.bin"], "x.bin"),
    ],
)
async def test_a_folder_that_is_not_one_adapter_is_refused(
    store: AdapterStore, names: list[str], found: str
) -> None:
    adapter = await queue(store, "text")
    await store.claim(adapter.id)
    async with store.staging() as folder:
        for name in names:
            (folder / name).write_bytes(b"x")
        with pytest.raises(IncompleteWeights, match=found):
            await store.commit(adapter.id, folder, rank=8, tokens=3, chunks=1)
    assert (await store.get("default", adapter.id)).status is AdapterStatus.GENERATING


async def test_only_a_staging_folder_can_be_committed(store: AdapterStore, tmp_path: Path) -> None:
    adapter = await queue(store, "text")
    await store.claim(adapter.id)
    write_weights(tmp_path, b"weights")
    with pytest.raises(ValueError, match="not a staging folder"):
        await store.commit(adapter.id, tmp_path, rank=8, tokens=3, chunks=1)


async def test_a_staging_folder_is_gone_after_an_error(store: AdapterStore) -> None:
    async def fill_and_fall() -> None:
        async with store.staging() as folder:
            folders.append(folder)
            write_weights(folder, b"weights")
            raise RuntimeError

    folders: list[Path] = []
    with pytest.raises(RuntimeError):
        await fill_and_fall()
    assert not folders[0].exists()


async def test_unfinished_jobs_come_oldest_first_and_in_stretches(store: AdapterStore) -> None:
    jobs = []
    for n in range(5):
        jobs.append((await queue(store, f"text {n}", tenant=f"tenant {n % 2}")).id)
        await asyncio.sleep(0.002)
    await store.claim(jobs[1])
    await store.fail(jobs[3], "broken", "it broke")
    first = await store.unfinished(limit=2)
    rest = await store.unfinished(after=first[-1].id)
    assert [job.id for job in (*first, *rest)] == [jobs[0], jobs[1], jobs[2], jobs[4]]


async def test_counts_name_every_status(store: AdapterStore) -> None:
    await queue(store, "one")
    await ready(store, "two", tenant="other")
    await store.delete("default", (await ready(store, "three")).id)
    counts = await store.counts()
    assert {status.value: count for status, count in counts.items() if count} == {
        "queued": 1,
        "ready": 1,
    }
    assert set(counts) == set(AdapterStatus)


async def test_use_is_noted_for_many_in_one_go(store: AdapterStore) -> None:
    used = [await ready(store, text) for text in ("one", "two")]
    other = await ready(store, "three")
    before = time.time()
    await store.touch([*(adapter.id for adapter in used), "adp_" + "0" * 26])
    await store.touch([])
    for adapter in used:
        assert ((await store.get("default", adapter.id)).last_used_at or 0) >= before
    assert (await store.get("default", other.id)).last_used_at is None


async def test_an_expired_adapter_is_gone_at_once_and_handed_out_for_deletion(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    kept = await ready(store, "old", name="handbook")
    soon = time.time() + 0.01
    brief = await queue(store, "new", name="handbook", expires_at=soon)
    await finish(store, brief.id)
    await asyncio.sleep(0.02)
    assert await store.expired(now=soon - 1) == ()
    with pytest.raises(AdapterNotFound):
        await store.get("default", brief.id)
    assert [adapter.id for adapter in (await store.list("default")).items] == [kept.id]
    assert (await store.resolve("default", "handbook")).id == kept.id
    expired = await store.expired()
    assert [adapter.id for adapter in expired] == [brief.id]
    await store.delete(expired[0].tenant, expired[0].id)
    await store.purge(expired[0].id)
    assert (await store.resolve("default", "handbook")).id == kept.id
    await store.close()
    if url is None:
        assert_files_agree(root)
