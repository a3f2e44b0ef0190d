from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from adapters_store import AdapterStatus, AdapterStore, FolderMismatch
from tests.adapters_store.making import ready

pytestmark = pytest.mark.anyio


async def test_a_folder_that_is_not_mounted_fails_no_adapter(
    store: AdapterStore, root: Path, url: str | None
) -> None:
    adapter = await ready(store, "text")
    await store.close()
    away = (root / "blobs").rename(root / "unmounted")
    with pytest.raises(FolderMismatch, match="is the right volume mounted"):
        await AdapterStore.open(root, url)
    shutil.rmtree(root / "blobs")
    away.rename(root / "blobs")
    async with await AdapterStore.open(root, url) as again:
        assert (await again.get("default", adapter.id)).status is AdapterStatus.READY
        assert (await again.weights(adapter.id)).is_dir()


async def test_a_catalogue_that_was_lost_clears_no_files_away(root: Path) -> None:
    async with await AdapterStore.open(root) as store:
        weights = await store.weights((await ready(store, "text")).id)
    kept = (root / "catalogue.db").rename(root / "kept.db")
    with pytest.raises(FolderMismatch):
        await AdapterStore.open(root)
    assert (weights / "adapter_model.safetensors").is_file()
    kept.rename(root / "catalogue.db")
    async with await AdapterStore.open(root):
        pass


@pytest.mark.parametrize("lost", ["identity", "catalogue.db"])
async def test_a_first_start_that_was_cut_short_is_simply_begun_again(
    root: Path, lost: str
) -> None:
    for file in root.rglob(lost):
        file.unlink()
    async with await AdapterStore.open(root) as store:
        await ready(store, "text")
    async with await AdapterStore.open(root) as store:
        assert (await store.list("default")).items[0].status is AdapterStatus.READY
