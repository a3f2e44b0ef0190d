"""Several writers on one catalogue: each sees what the others did, and nothing is lost."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from adapters_store import AdapterNotFound, AdapterStore, StoreUnwritable
from adapters_store.blobs import Staged
from adapters_store.catalogue import Catalogue
from adapters_store.database import Database
from tests.adapters_store.making import new, queue

pytestmark = pytest.mark.anyio

RECORD = """
import asyncio, sys
from adapters_store.catalogue import Catalogue
from adapters_store.database import Database

async def record(url, adapter_id, process, times):
    database = Database(url)
    for n in range(times):
        # reads the row, merges, writes it back: what a deferred transaction loses
        await Catalogue(database).record_timings(adapter_id, {f"{process} {n}": 1.0})
    await database.close()

url, adapter_id, process, times = sys.argv[1:]
asyncio.run(record(url, adapter_id, process, int(times)))
"""


def url_of(root: Path, url: str | None) -> str:
    return url or f"sqlite:///{root / 'catalogue.db'}"


@pytest.fixture
async def catalogues(root: Path, url: str | None) -> AsyncIterator[list[Catalogue]]:
    """Three catalogues with connections of their own, as three processes would have."""
    databases = [Database(url_of(root, url)) for _ in range(3)]
    yield [Catalogue(database) for database in databases]
    for database in databases:
        await database.close()


async def nothing() -> None:
    """Places a blob, where a test has none."""


async def test_four_processes_that_read_and_write_back_lose_no_update(root: Path) -> None:
    async with await AdapterStore.open(root) as store:
        adapter = await queue(store, "text")
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", RECORD, url_of(root, None), adapter.id, str(n), "20"]
            )
            for n in range(4)
        ]
        for writer in writers:
            assert await asyncio.to_thread(writer.wait) == 0
        assert len((await store.get("default", adapter.id)).timings_ms) == 4 * 20


async def test_engines_that_read_and_write_back_lose_no_update(
    catalogues: list[Catalogue],
) -> None:
    text = Staged("texts/" + "0" * 64, 4, Path())
    adapter, _ = await catalogues[0].add(new("text"), text, nothing)
    await asyncio.gather(
        *(catalogues[n % 3].record_timings(adapter.id, {str(n): 1.0}) for n in range(15))
    )
    assert len((await catalogues[0].get("default", adapter.id)).timings_ms) == 15


async def test_a_writing_transaction_has_the_write_lock_before_it_reads(root: Path) -> None:
    first, second = (Database(url_of(root, None)) for _ in range(2))
    async with first.write() as connection:
        assert (await connection.scalar(sa.text("SELECT count(*) FROM adapters"))) == 0

        async def write() -> None:
            async with second.write():
                entered.append(True)

        entered: list[bool] = []
        waiting = asyncio.create_task(write())
        await asyncio.sleep(0.2)
        assert entered == []
    await waiting
    await first.close()
    await second.close()


async def test_reading_waits_for_no_writer(root: Path) -> None:
    async with await AdapterStore.open(root) as store:
        adapter = await queue(store, "text")
        other = Database(url_of(root, None))
        async with other.write() as connection:
            await connection.execute(sa.text("UPDATE adapters SET tenant = 'nobody'"))
            async with asyncio.timeout(2):
                assert await store.get("default", adapter.id) == adapter
        await other.close()


async def test_connections_for_reading_cannot_write(root: Path) -> None:
    database = Database(url_of(root, None))
    with pytest.raises(StoreUnwritable, match="readonly"):
        async with database.read() as connection:
            await connection.execute(sa.text("DELETE FROM adapters"))
    await database.close()


async def test_adds_of_one_content_through_several_engines_make_one_row(
    catalogues: list[Catalogue],
) -> None:
    text = Staged("texts/" + "0" * 64, 4, Path())
    answers = await asyncio.gather(
        *(
            catalogue.add(new("text", name=name), text, nothing)
            for catalogue in catalogues
            for name in (None, "handbook", "handbook", "handbook")
        )
    )
    named = [answer for answer in answers if answer[0].name]
    assert len({adapter.id for adapter, _ in named}) == 1
    assert sum(created for _, created in named) <= 1
    assert {adapter.version for adapter, _ in named} == {1}


async def test_versions_taken_through_several_engines_are_all_different(
    catalogues: list[Catalogue],
) -> None:
    text = Staged("texts/" + "0" * 64, 4, Path())
    added = await asyncio.gather(
        *(
            catalogues[n % 3].add(new(f"text {n}", name="handbook"), text, nothing)
            for n in range(12)
        )
    )
    assert sorted(adapter.version or 0 for adapter, _ in added) == list(range(1, 13))


async def test_a_purge_and_an_add_through_two_engines_never_cross(
    catalogues: list[Catalogue],
) -> None:
    """The blob's files are modelled by a flag: whoever holds the row's lock may change it."""
    blob = Staged("texts/" + "0" * 64, 4, Path())
    there = False

    async def place() -> None:
        nonlocal there
        await asyncio.sleep(0.001)
        there = True

    async def remove(keys: list[str]) -> None:
        nonlocal there
        if keys:
            await asyncio.sleep(0.001)
            there = False

    async def come_and_go(catalogue: Catalogue, tenant: str) -> None:
        for _ in range(8):
            adapter, _ = await catalogue.add(new("text", tenant=tenant), blob, place)
            assert there
            await asyncio.sleep(0.002)
            assert there
            await catalogue.delete(tenant, adapter.id)
            await catalogue.purge(adapter.id, remove)

    await asyncio.gather(
        *(come_and_go(catalogue, str(n)) for n, catalogue in enumerate(catalogues))
    )
    assert not there
    with pytest.raises(AdapterNotFound):
        await catalogues[0].text_key("adp_" + "0" * 26)
