"""Real stores on real files, on SQLite and, where one answers, on PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa

from adapters_store import AdapterStore

POSTGRES = os.environ.get("DOCLORA_TEST_POSTGRES", "postgresql://127.0.0.1:5432/test")


def _execute(url: str, *statements: str) -> None:
    async def run() -> None:
        connection = await asyncpg.connect(url, timeout=2)
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.fixture(scope="session")
def postgres_database() -> Iterator[str]:
    """The URL of an empty database of this run's own, dropped at its end."""
    name = f"doclora_test_{os.getpid()}"
    try:
        _execute(POSTGRES, f"CREATE DATABASE {name}")
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        pytest.skip(f"no PostgreSQL at {POSTGRES} (set DOCLORA_TEST_POSTGRES): {error}")
    yield sa.make_url(POSTGRES).set(database=name).render_as_string(hide_password=False)
    _execute(POSTGRES, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def migrated_postgres(postgres_database: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    _open_once(tmp_path_factory.mktemp("migrated") / "postgresql", postgres_database)
    return postgres_database


@pytest.fixture
def postgres_url(migrated_postgres: str) -> str:
    """The URL of an empty catalogue on PostgreSQL."""
    _execute(migrated_postgres, "TRUNCATE adapters, blobs, names, identity")
    return migrated_postgres


@pytest.fixture(scope="session")
def migrated_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a store that was opened once and is empty."""
    root = tmp_path_factory.mktemp("migrated") / "sqlite"
    _open_once(root, None)
    return root


def _open_once(root: Path, url: str | None) -> None:
    async def run() -> None:
        async with await AdapterStore.open(root, url):
            pass

    asyncio.run(run())


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str | None:
    """The URL of an empty catalogue: each test that asks for it runs on both databases."""
    if request.param == "sqlite":
        return None
    postgres: str = request.getfixturevalue("postgres_url")
    return postgres


@pytest.fixture
def root(tmp_path: Path, migrated_folder: Path) -> Path:
    """A data folder whose store is empty."""
    return shutil.copytree(migrated_folder, tmp_path / "data")


@pytest.fixture
async def store(root: Path, url: str | None) -> AsyncIterator[AdapterStore]:
    async with await AdapterStore.open(root, url) as opened:
        yield opened
