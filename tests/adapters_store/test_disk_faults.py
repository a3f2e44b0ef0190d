"""A disk that takes no more: the error is one and clear, and nothing half-made is visible."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from adapters_store import AdapterStatus, AdapterStore, StoreUnwritable
from tests.adapters_store.making import (
    assert_files_agree,
    finish,
    new,
    queue,
    ready,
    write_weights,
)

pytestmark = pytest.mark.anyio


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of eight megabytes."""
    folder = tmp_path / "small"
    folder.mkdir()
    if _mount("-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)) != 0:
        pytest.skip("mounting a tmpfs takes root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def _mount(*arguments: str) -> int:
    try:
        return subprocess.run(["mount", *arguments], capture_output=True).returncode
    except FileNotFoundError:
        return -1


@contextmanager
def nearly_full(disk: Path, left: int) -> Iterator[None]:
    """Fills a filesystem up to `left` bytes for a while."""
    room = os.statvfs(disk)
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, room.f_bavail * room.f_frsize - left))
    yield
    ballast.unlink()


async def test_a_full_disk_refuses_a_text_or_takes_it_whole(small_disk: Path) -> None:
    root = small_disk / "data"
    text = b"x" * 20_000
    added, refused = set(), 0
    async with await AdapterStore.open(root) as store:
        kept = await ready(store, "kept")
        for left in range(0, 100_000, 4096):
            with nearly_full(small_disk, left):
                try:
                    added.add((await store.add(new(f"text {left}"), text))[0].id)
                except StoreUnwritable as error:
                    assert "nothing was stored" in str(error)
                    refused += 1
                assert await store.source(kept.id) == b"kept"  # reading goes on
        there = {adapter.id for adapter in await store.unfinished()}
        assert added
        assert refused
        assert there == added
        for adapter_id in there:
            assert await store.source(adapter_id) == text
    async with await AdapterStore.open(root):
        pass
    assert_files_agree(root)


async def test_a_full_disk_refuses_weights_or_takes_them_whole(small_disk: Path) -> None:
    root = small_disk / "data"
    refused = 0
    async with await AdapterStore.open(root) as store:
        current = await ready(store, "old", name="handbook")
        adapter = await queue(store, "new", name="handbook")
        await store.claim(adapter.id)
        for left in range(0, 60_000, 4096):
            async with store.staging() as folder:
                write_weights(folder, b"w" * 20_000 + bytes([left // 4096]))
                with nearly_full(small_disk, left):
                    try:
                        await store.commit(adapter.id, folder, rank=8, tokens=3, chunks=1)
                    except StoreUnwritable:
                        refused += 1
                    else:
                        break
            assert (await store.get("default", adapter.id)).status is AdapterStatus.GENERATING
            assert await store.resolve("default", "handbook") == current
        assert refused
        assert (await store.resolve("default", "handbook")).id == adapter.id
        assert (await store.weights(adapter.id)).is_dir()
    async with await AdapterStore.open(root):
        pass
    assert_files_agree(root)


async def test_a_folder_that_cannot_be_written_is_refused_at_start(small_disk: Path) -> None:
    async with await AdapterStore.open(small_disk / "data") as store:
        await ready(store, "text")
    assert _mount("-o", "remount,ro", str(small_disk)) == 0
    with pytest.raises(StoreUnwritable, match=r"[Rr]ead-only"):
        await AdapterStore.open(small_disk / "data")
    with pytest.raises(StoreUnwritable, match=r"[Rr]ead-only"):
        await AdapterStore.open(small_disk / "fresh")


async def test_a_limit_on_file_sizes_is_a_full_disk(root: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    async with await AdapterStore.open(root) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
        try:
            with pytest.raises(StoreUnwritable, match="File too large"):
                await store.add(new("large"), b"x" * (5 << 20))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert await store.unfinished() == ()
        await finish(store, (await queue(store, "small")).id)
    assert_files_agree(root)
