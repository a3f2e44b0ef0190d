from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from adapters_store import AdapterStore, UnreadableCatalogue
from adapters_store.database import Database
from adapters_store.migrations import upgrade
from adapters_store.schema import metadata

pytestmark = pytest.mark.anyio


async def test_the_migrations_make_exactly_the_tables_that_the_code_uses(
    root: Path, url: str | None
) -> None:
    database = Database(url or f"sqlite:///{root / 'catalogue.db'}")
    async with database.write() as connection:
        differences = await connection.run_sync(
            lambda c: compare_metadata(MigrationContext.configure(c), metadata)
        )
    await database.close()
    assert differences == []


async def test_partial_indexes_are_partial_in_the_database_too(root: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{root / 'catalogue.db'}")
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master").all()
    engine.dispose()
    stored = {name: sql for name, sql in found}
    for index in metadata.tables["adapters"].indexes:
        assert index.name is not None
        ddl = str(sa.schema.CreateIndex(index).compile(engine))
        assert stored[index.name].split() == ddl.split()


async def test_a_migration_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'catalogue.db'}")
    with pytest.raises(RuntimeError):
        async with database.write() as connection:
            await connection.run_sync(upgrade)
            raise RuntimeError
    async with database.read() as connection:
        assert not (await connection.exec_driver_sql("SELECT * FROM sqlite_master")).all()
    await database.close()


async def test_a_catalogue_of_a_newer_release_is_refused_and_left_alone(root: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{root / 'catalogue.db'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(UnreadableCatalogue, match="'9999' comes from a newer release"):
        await AdapterStore.open(root)
    with engine.connect() as connection:
        version = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    assert version == "9999"
    engine.dispose()
