from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from adapters_store import AdapterStore, InvalidCatalogueUrl, StoreUnavailable, database
from tests.adapters_store.making import new, queue

pytestmark = pytest.mark.anyio


async def test_a_catalogue_locked_by_a_stranger_says_so_and_works_again_afterwards(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0.1)
    async with await AdapterStore.open(root) as store:
        stranger = sqlite3.connect(root / "catalogue.db", isolation_level=None)
        stranger.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="database is locked"):
            await store.add(new("text"), b"text")
        assert await store.unfinished() == ()
        stranger.close()
        await queue(store, "text")


async def test_a_database_that_is_down_says_so(root: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not answer"):
        await AdapterStore.open(root, "postgresql://127.0.0.1:1/nothing")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://localhost/catalogue", "begins with mysql://; .* postgresql://"),
        ("catalogue.db", "cannot be read; .* sqlite:///"),
        ("postgresql://me@host:hunter/catalogue", "cannot be read"),
    ],
)
async def test_a_url_of_no_catalogue_is_refused_without_its_password(
    root: Path, url: str, says: str
) -> None:
    with pytest.raises(InvalidCatalogueUrl, match=says) as refused:
        await AdapterStore.open(root, url)
    assert "hunter" not in str(refused.value)
