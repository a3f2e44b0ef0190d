from __future__ import annotations

import asyncio

import pytest

from adapters_store import AdapterNotFound, AdapterStatus, AdapterStore
from tests.adapters_store.making import finish, new, queue, ready

pytestmark = pytest.mark.anyio


async def current(store: AdapterStore, name: str = "handbook") -> str:
    return (await store.resolve("default", name)).id


async def test_a_name_points_to_its_adapter_and_an_id_to_itself(store: AdapterStore) -> None:
    adapter = await ready(store, "one", name="handbook")
    assert (adapter.name, adapter.version) == ("handbook", 1)
    assert await current(store) == adapter.id == await current(store, adapter.id)


async def test_a_name_of_which_nothing_is_ready_tells_how_its_newest_is_doing(
    store: AdapterStore,
) -> None:
    adapter = await queue(store, "one", name="handbook")
    assert (await store.resolve("default", "handbook")).status is AdapterStatus.QUEUED
    await store.fail(adapter.id, "broken", "it broke")
    assert (await store.resolve("default", "handbook")).status is AdapterStatus.FAILED


async def test_an_unknown_name_is_not_found(store: AdapterStore) -> None:
    await ready(store, "one")
    for name in ("handbook", ""):
        with pytest.raises(AdapterNotFound):
            await store.resolve("default", name)


async def test_a_name_moves_only_when_the_new_version_is_ready(store: AdapterStore) -> None:
    one = await ready(store, "one", name="handbook")
    two = await queue(store, "two", name="handbook")
    assert two.version == 2
    assert await current(store) == one.id
    await finish(store, two.id)
    assert await current(store) == two.id


@pytest.mark.parametrize("end", ["failed", "cancelled", "deleted"])
async def test_a_version_that_comes_to_nothing_leaves_the_old_in_place(
    store: AdapterStore, end: str
) -> None:
    one = await ready(store, "one", name="handbook")
    two = await queue(store, "two", name="handbook")
    match end:
        case "failed":
            await store.fail(two.id, "broken", "it broke")
        case "cancelled":
            await store.cancel(two.id)
        case "deleted":
            await store.delete("default", two.id)
    assert await current(store) == one.id
    assert (await ready(store, "three", name="handbook")).version == 3


async def test_a_slow_old_version_does_not_take_the_name_back(store: AdapterStore) -> None:
    one = await queue(store, "one", name="handbook")
    two = await queue(store, "two", name="handbook")
    await finish(store, two.id)
    await finish(store, one.id)
    assert await current(store) == two.id


async def test_deleting_the_current_version_falls_back_to_the_newest_that_remains(
    store: AdapterStore,
) -> None:
    one = await ready(store, "one", name="handbook")
    two = await ready(store, "two", name="handbook")
    three = await queue(store, "three", name="handbook")
    four = await ready(store, "four", name="handbook")
    for gone, left in ((four, two), (two, one), (one, three)):
        await store.delete("default", gone.id)
        await store.purge(gone.id)
        assert await current(store) == left.id
    await store.delete("default", three.id)
    with pytest.raises(AdapterNotFound):
        await current(store)


async def test_deleting_an_old_version_leaves_the_name_alone(store: AdapterStore) -> None:
    one = await ready(store, "one", name="handbook")
    two = await ready(store, "two", name="handbook")
    await store.delete("default", one.id)
    assert await current(store) == two.id


async def test_a_forgotten_name_starts_again_at_version_one(store: AdapterStore) -> None:
    one = await ready(store, "one", name="handbook")
    await store.delete("default", one.id)
    assert (await ready(store, "two", name="handbook")).version == 1


async def test_content_that_returns_to_a_name_becomes_its_newest_version(
    store: AdapterStore,
) -> None:
    one = await ready(store, "one", name="handbook")
    two = await ready(store, "two", name="handbook")
    back, created = await store.add(new("one", name="handbook"), b"one")
    assert (back.id, back.version, created) == (one.id, 3, False)
    assert await current(store) == one.id
    await store.delete("default", one.id)
    assert await current(store) == two.id


async def test_content_that_returns_while_queued_wins_over_what_came_between(
    store: AdapterStore,
) -> None:
    one = await queue(store, "one", name="handbook")
    two = await queue(store, "two", name="handbook")
    await store.add(new("one", name="handbook"), b"one")
    await finish(store, one.id)
    await finish(store, two.id)
    assert await current(store) == one.id


async def test_adding_the_current_content_again_changes_no_version(store: AdapterStore) -> None:
    one = await ready(store, "one", name="handbook")
    again, _ = await store.add(new("one", name="handbook"), b"one")
    assert again == one


async def test_two_tenants_have_a_name_each(store: AdapterStore) -> None:
    ours = await ready(store, "one", name="handbook", tenant="ours")
    theirs = await ready(store, "two", name="handbook", tenant="theirs")
    assert ours.version == theirs.version == 1
    await store.delete("theirs", theirs.id)
    assert (await store.resolve("ours", "handbook")).id == ours.id


async def test_versions_added_at_once_are_all_different(store: AdapterStore) -> None:
    added = await asyncio.gather(
        *(store.add(new(f"text {n}", name="handbook"), b"text") for n in range(20))
    )
    assert sorted(adapter.version or 0 for adapter, _ in added) == list(range(1, 21))
    await asyncio.gather(*(finish(store, adapter.id) for adapter, _ in added))
    assert (await store.resolve("default", "handbook")).version == 20
