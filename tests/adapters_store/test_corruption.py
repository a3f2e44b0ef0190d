from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from adapters_store import (
    AdapterStatus,
    AdapterStore,
    CorruptSource,
    CorruptWeights,
    UnreadableCatalogue,
)
from tests.adapters_store.making import assert_files_agree, finish, new, ready

pytestmark = pytest.mark.anyio

Damage = Callable[[Path], object]


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def cut_short(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
async def test_damaged_weights_are_never_handed_out(root: Path, damage: Damage, name: str) -> None:
    store = await AdapterStore.open(root)
    adapter = await ready(store, "text", name="handbook")
    folder = await store.weights(adapter.id)
    await store.close()
    async with await AdapterStore.open(root) as store:  # a new process has verified nothing yet
        damage(folder / name)
        with pytest.raises(CorruptWeights) as caught:
            await store.weights(adapter.id)
        assert (caught.value.adapter_id, caught.value.expected) == (adapter.id, adapter.sha256)
        assert adapter.id in str(caught.value)
        assert caught.value.expected in str(caught.value)
        assert caught.value.found in str(caught.value)
        assert caught.value.found != adapter.sha256
        # the adapter says so, its name does not quietly serve something else,
        failed = await store.resolve("default", "handbook")
        assert (failed.id, failed.status) == (adapter.id, AdapterStatus.FAILED)
        assert failed.error is not None
        assert failed.error.code == "corrupt_weights"
        # and an upload of the same document makes it anew
        again, created = await store.add(new("text", name="handbook"), b"text")
        assert created
        await finish(store, again.id, b"weights of text")
        assert (await store.weights(again.id) / name).is_file()
        assert (await store.resolve("default", "handbook")).id == again.id
    assert_files_agree(root)


@pytest.mark.parametrize("damage", [flip_a_bit, cut_short, Path.unlink])
async def test_a_damaged_source_is_never_handed_out(
    store: AdapterStore, root: Path, damage: Damage
) -> None:
    adapter = await ready(store, "text")
    (source,) = (root / "blobs" / "texts").rglob("source")
    damage(source)
    with pytest.raises(CorruptSource, match=adapter.id):
        await store.source(adapter.id)


async def test_weights_are_verified_once_per_process(store: AdapterStore) -> None:
    adapter = await ready(store, "text")
    folder = await store.weights(adapter.id)
    flip_a_bit(folder / "adapter_model.safetensors")
    assert await store.weights(adapter.id) == folder  # known, and the price of not hashing again


@pytest.mark.parametrize("kept", [0, 4096])
async def test_a_damaged_catalogue_is_named_at_start(root: Path, kept: int) -> None:
    file = root / "catalogue.db"
    content = file.read_bytes()
    file.write_bytes(content[:kept] + b"no database" * (len(content) // 11))
    with pytest.raises(UnreadableCatalogue, match=r"catalogue\.db"):
        await AdapterStore.open(root)
