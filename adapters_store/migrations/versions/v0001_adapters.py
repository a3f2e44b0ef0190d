"""Adapters, the blobs they refer to, and the names that point to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

PRESENT = sa.text("deleted_at IS NULL")
GONE = sa.text("deleted_at IS NOT NULL")
ANSWERS = sa.text("deleted_at IS NULL AND status NOT IN ('failed', 'cancelled')")

LISTINGS = {
    "ix_adapters_all": ["tenant", "id"],
    "ix_adapters_by_status": ["tenant", "status", "id"],
    "ix_adapters_by_name": ["tenant", "name", "id"],
    "ix_adapters_by_kind": ["tenant", "kind", "id"],
    "ix_adapters_by_kind_status": ["tenant", "kind", "status", "id"],
    "ix_adapters_work": ["status", "id"],
    "ix_adapters_expiry": ["expires_at"],
}


def upgrade() -> None:
    op.create_table(
        "blobs",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_blobs"),
    )
    op.create_table(
        "adapters",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("version", sa.Integer),
        sa.Column("base_model", sa.Text, nullable=False),
        sa.Column("generator", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.Text, nullable=False),
        sa.Column("options", sa.JSON, nullable=False),
        sa.Column("source_name", sa.Text),
        sa.Column("source_sha256", sa.Text, nullable=False),
        sa.Column("source_bytes", sa.BigInteger, nullable=False),
        sa.Column("text_key", sa.Text, nullable=False),
        sa.Column("weights_key", sa.Text),
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
        sa.PrimaryKeyConstraint("id", name="pk_adapters"),
        sa.ForeignKeyConstraint(["text_key"], ["blobs.key"], name="fk_adapters_text_key"),
        sa.ForeignKeyConstraint(["weights_key"], ["blobs.key"], name="fk_adapters_weights_key"),
    )
    op.create_table(
        "names",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("adapter_id", sa.Text),
        sa.Column("last_version", sa.Integer, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "name", name="pk_names"),
        sa.ForeignKeyConstraint(["adapter_id"], ["adapters.id"], name="fk_names_adapter_id"),
    )
    op.create_table(
        "identity",
        sa.Column("id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_identity"),
    )
    for name, columns in LISTINGS.items():
        _index(name, columns, PRESENT)
    _index("uq_adapters_answer", ["tenant", "fingerprint", "name"], ANSWERS, unique=True)
    _index("ix_adapters_gone", ["id"], GONE)
    op.create_index("ix_adapters_text", "adapters", ["text_key"])
    op.create_index("ix_adapters_weights", "adapters", ["weights_key"])
    op.create_index("ix_names_adapter", "names", ["adapter_id"])


def _index(name: str, columns: list[str], where: sa.TextClause, *, unique: bool = False) -> None:
    op.create_index(
        name, "adapters", columns, unique=unique, sqlite_where=where, postgresql_where=where
    )
