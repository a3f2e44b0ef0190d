"""The catalogue's tables. Changing them takes a migration (a test compares the two)."""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# literals, not bound values: a database uses a partial index only for a condition it can prove
PRESENT = sa.text("deleted_at IS NULL")
ANSWERS = sa.text("deleted_at IS NULL AND status NOT IN ('failed', 'cancelled')")

blobs = sa.Table(
    "blobs",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),  # "weights/<sha256>" or "texts/<sha256>"
    sa.Column("bytes", sa.BigInteger, nullable=False),
)
"""Every blob that some adapter refers to. Its row is also the lock under which the files are
put in place and removed, so that a purge and an add of the same content cannot cross."""

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),  # "" for none: NULLs are all distinct in an index
    sa.Column("version", sa.Integer),
    sa.Column("base_model", sa.Text, nullable=False),
    sa.Column("generator", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("options", sa.JSON, nullable=False),
    sa.Column("source_name", sa.Text),
    sa.Column("source_sha256", sa.Text, nullable=False),
    sa.Column("source_bytes", sa.BigInteger, nullable=False),
    sa.Column("text_key", sa.Text, sa.ForeignKey(blobs.c.key), nullable=False),
    sa.Column("weights_key", sa.Text, sa.ForeignKey(blobs.c.key)),
    sa.Column("tokens", sa.Integer),
    sa.Column("chunks", sa.Integer),
    sa.Column("rank", sa.Integer),
    sa.Column("bytes", sa.BigInteger),
    sa.Column("compression_error", sa.Double),
    sa.Column("timings_ms", sa.JSON, nullable=False),
    sa.Column("error_code", sa.Text),
    sa.Column("error_message", sa.Text),
    sa.Column("progress_done", sa.Integer, nullable=False),
    sa.Column("progress_total", sa.Integer, nullable=False),
    sa.Column("metadata", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("last_used_at", sa.Double),
    sa.Column("expires_at", sa.Double),
    sa.Column("deleted_at", sa.Double),
)

names = sa.Table(
    "names",
    metadata,
    sa.Column("tenant", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("adapter_id", sa.Text, sa.ForeignKey(adapters.c.id)),  # null until one is ready
    sa.Column("last_version", sa.Integer, nullable=False),
)


identity = sa.Table("identity", metadata, sa.Column("id", sa.Text, primary_key=True))
"""One row: which folder of blobs this catalogue is about (identity.py)."""


def _present(name: str, *columns: str) -> sa.Index:
    return sa.Index(
        name,
        *(adapters.c[column] for column in columns),
        sqlite_where=PRESENT,
        postgresql_where=PRESENT,
    )


# one index for each way of listing, each ending in the key that pages walk along
_present("ix_adapters_all", "tenant", "id")
_present("ix_adapters_by_status", "tenant", "status", "id")
_present("ix_adapters_by_name", "tenant", "name", "id")
_present("ix_adapters_by_kind", "tenant", "kind", "id")
_present("ix_adapters_by_kind_status", "tenant", "kind", "status", "id")
_present("ix_adapters_work", "status", "id")
_present("ix_adapters_expiry", "expires_at")

one_answer = sa.Index(
    "uq_adapters_answer",
    adapters.c.tenant,
    adapters.c.fingerprint,
    adapters.c.name,
    unique=True,
    sqlite_where=ANSWERS,
    postgresql_where=ANSWERS,
)
"""A tenant has one adapter for one fingerprint under one name; two uploads cannot both win."""

_gone = sa.text("deleted_at IS NOT NULL")
sa.Index("ix_adapters_gone", adapters.c.id, sqlite_where=_gone, postgresql_where=_gone)
sa.Index("ix_adapters_text", adapters.c.text_key)
sa.Index("ix_adapters_weights", adapters.c.weights_key)
sa.Index("ix_names_adapter", names.c.adapter_id)
