"""Alembic's entry: migrations run on the connection that `migrations.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from adapters_store.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # SQLite can, since the transaction was opened explicitly
)
with context.begin_transaction():
    context.run_migrations()
