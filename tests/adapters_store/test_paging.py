from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapters_store import AdapterKind, AdapterStatus, AdapterStore
from tests.adapters_store.making import finish, new, queue, ready

pytestmark = pytest.mark.anyio

Order = Literal["asc", "desc"]


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    before=st.integers(0, 12),
    between=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    limit=st.integers(1, 5),
    order=st.sampled_from(["asc", "desc"]),
)
def test_walking_the_pages_meets_each_adapter_once_whatever_is_added_meanwhile(
    migrated_folder: Path, tmp_path: Path, before: int, between: list[int], limit: int, order: Order
) -> None:
    async def walk() -> None:
        async with await AdapterStore.open(root) as store:
            there = {(await queue(store, f"before {n}")).id for n in range(before)}
            met: list[str] = []
            after, more, pages = None, True, 0
            while more:
                page = await store.list("default", after=after, limit=limit, order=order)
                met += [adapter.id for adapter in page.items]
                after, more = page.last_id, page.has_more
                if pages < len(between):
                    for n in range(between[pages]):
                        await queue(store, f"after {pages} {n}")
                pages += 1
            assert len(met) == len(set(met))
            assert there <= set(met)
            assert met == sorted(met, reverse=order == "desc")

    root = tmp_path / "walked"
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(migrated_folder, root)
    asyncio.run(walk())


async def test_a_page_says_whether_there_is_more(store: AdapterStore) -> None:
    empty = await store.list("default")
    assert (empty.items, empty.has_more, empty.first_id, empty.last_id) == ((), False, None, None)
    ids = sorted([(await queue(store, f"text {n}")).id for n in range(3)])
    assert not (await store.list("default", limit=3)).has_more
    page = await store.list("default", limit=2)
    assert page.has_more
    assert (page.first_id, page.last_id) == (ids[2], ids[1])
    assert not (await store.list("default", limit=2, after=page.last_id)).has_more


async def test_filters_narrow_a_listing(store: AdapterStore) -> None:
    one = await ready(store, "one", name="handbook")
    two = await queue(store, "two", name="handbook")
    three = await queue(store, "three", kind=AdapterKind.TEXT)
    await queue(store, "four", tenant="other", name="handbook")
    gone = await queue(store, "five", name="handbook")
    await store.delete("default", gone.id)

    async def ids(**filters: object) -> set[str]:
        page = await store.list("default", **filters)  # type: ignore[arg-type]
        return {adapter.id for adapter in page.items}

    assert await ids() == {one.id, two.id, three.id}
    assert await ids(name="handbook") == {one.id, two.id}
    assert await ids(status=AdapterStatus.QUEUED) == {two.id, three.id}
    assert await ids(kind=AdapterKind.TEXT) == {three.id}
    assert await ids(kind=AdapterKind.DOCUMENT, status=AdapterStatus.QUEUED) == {two.id}
    assert await ids(name="handbook", status=AdapterStatus.READY) == {one.id}


async def test_a_page_can_start_after_an_adapter_that_was_deleted(store: AdapterStore) -> None:
    ids = sorted([(await queue(store, f"text {n}")).id for n in range(3)])
    await store.delete("default", ids[1])
    page = await store.list("default", after=ids[1])
    assert [adapter.id for adapter in page.items] == [ids[0]]


@pytest.mark.parametrize("limit", [0, -1, 1001])
async def test_a_page_of_no_sensible_size_is_refused(store: AdapterStore, limit: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 1000"):
        await store.list("default", limit=limit)


async def test_a_walk_is_complete_while_others_add_and_finish(store: AdapterStore) -> None:
    there = {(await queue(store, f"before {n}")).id for n in range(20)}

    async def disturb() -> None:
        for n in range(15):
            adapter, _ = await store.add(new(f"meanwhile {n}"), b"text")
            await finish(store, adapter.id)

    disturbing = asyncio.create_task(disturb())
    met: list[str] = []
    after, more = None, True
    while more:
        page = await store.list("default", after=after, limit=3, order="asc")
        met += [adapter.id for adapter in page.items]
        after, more = page.last_id, page.has_more
    await disturbing
    assert len(met) == len(set(met))
    assert there <= set(met)
