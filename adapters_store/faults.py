"""What the disk and the databases say, in the store's own words: one place that translates."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from obstore.exceptions import BaseError as BlobError
from sqlalchemy.exc import DBAPIError

from adapters_store.errors import (
    StoreError,
    StoreUnavailable,
    StoreUnwritable,
    UnreadableCatalogue,
)

# EFBIG: a file-size limit (ulimit -f) is a full disk to whoever meets it
_UNWRITABLE = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
)
_SQLITE: tuple[tuple[str, type[StoreUnwritable | StoreUnavailable | UnreadableCatalogue]], ...] = (
    ("SQLITE_FULL", StoreUnwritable),
    ("SQLITE_READONLY", StoreUnwritable),
    ("SQLITE_IOERR", StoreUnwritable),
    ("SQLITE_CANTOPEN", StoreUnwritable),
    ("SQLITE_BUSY", StoreUnavailable),
    ("SQLITE_LOCKED", StoreUnavailable),
    ("SQLITE_CORRUPT", UnreadableCatalogue),
    ("SQLITE_NOTADB", UnreadableCatalogue),
)
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_POSTGRES: tuple[
    tuple[str, type[StoreUnwritable | StoreUnavailable | UnreadableCatalogue]], ...
] = (
    ("53100", StoreUnwritable),  # disk_full
    ("25006", StoreUnwritable),  # read_only_sql_transaction
    ("58030", StoreUnwritable),  # io_error
    ("53", StoreUnavailable),  # insufficient resources
    ("55P03", StoreUnavailable),  # lock_not_available
    ("57", StoreUnavailable),  # operator intervention: shutting down, starting up
    ("08", StoreUnavailable),  # connection
    ("40", StoreUnavailable),  # deadlock, serialization
    ("XX", UnreadableCatalogue),  # data or index corrupted
)


@contextmanager
def translated(place: Path | str) -> Iterator[None]:
    """Turns what a step at `place` raises into a StoreError where an operator must act.

    A missing file or a broken rule of the catalogue is a defect and passes as it is.
    """
    try:
        yield
    except StoreError:
        raise
    except DBAPIError as error:
        raise _of_database(place, error) or error from error
    except BlobError as error:
        raise StoreUnwritable(place, str(error).partition("\n")[0]) from error
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise StoreUnwritable(place, error.strerror or str(error)) from error
        raise


def _of_database(place: Path | str, error: DBAPIError) -> StoreError | None:
    original = error.orig
    reason = str(original).partition("\n")[0]
    for attribute, table in (("sqlite_errorname", _SQLITE), ("sqlstate", _POSTGRES)):
        code = getattr(original, attribute, None) or ""
        for prefix, kind in table:
            if code.startswith(prefix):
                return kind(place, reason)
    if error.connection_invalidated:
        return StoreUnavailable(place, reason)
    return None
