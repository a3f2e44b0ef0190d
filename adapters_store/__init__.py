"""Adapters at rest: a catalogue in SQL and their weights as files, behind one promise.

Knows nothing of HTTP, of torch or of the engine.
"""

from adapters_store.errors import (
    AdapterNotFound,
    CorruptSource,
    CorruptWeights,
    FolderMismatch,
    IncompleteWeights,
    InvalidCatalogueUrl,
    StoreError,
    StoreLocked,
    StoreUnavailable,
    StoreUnwritable,
    UnreadableCatalogue,
    WrongStatus,
)
from adapters_store.records import (
    Adapter,
    AdapterKind,
    AdapterStatus,
    Failure,
    NewAdapter,
    Page,
    Progress,
    is_adapter_id,
    new_adapter_id,
)
from adapters_store.recovery import Recovery
from adapters_store.store import AdapterStore

__all__ = [
    "Adapter",
    "AdapterKind",
    "AdapterNotFound",
    "AdapterStatus",
    "AdapterStore",
    "CorruptSource",
    "CorruptWeights",
    "Failure",
    "FolderMismatch",
    "IncompleteWeights",
    "InvalidCatalogueUrl",
    "NewAdapter",
    "Page",
    "Progress",
    "Recovery",
    "StoreError",
    "StoreLocked",
    "StoreUnavailable",
    "StoreUnwritable",
    "UnreadableCatalogue",
    "WrongStatus",
    "is_adapter_id",
    "new_adapter_id",
]
