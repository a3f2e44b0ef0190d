"""The catalogue's schema through time. `upgrade` brings a database to this release's schema.

A new migration is a file in `versions/`, numbered after the last one.
"""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from adapters_store.errors import UnreadableCatalogue


def upgrade(connection: Connection) -> None:
    """Runs what is missing inside the connection's transaction: all of it or nothing.

    Raises UnreadableCatalogue where a newer release has been at work.
    """
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    present = MigrationContext.configure(connection).get_current_revision()
    known = {script.revision for script in scripts.walk_revisions()}
    if present is not None and present not in known:
        raise UnreadableCatalogue(
            connection.engine.url.render_as_string(hide_password=True),
            f"its schema {present!r} comes from a newer release; this one knows "
            f"{', '.join(sorted(known))}",
        )
    if present != scripts.get_current_head():
        command.upgrade(config, "head")
