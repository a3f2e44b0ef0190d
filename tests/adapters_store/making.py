"""Adapters for tests: added, taken through a job, checked against their files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from adapters_store import Adapter, AdapterStore, NewAdapter


def new(text: str, **fields: Any) -> NewAdapter:
    """A NewAdapter for a text; equal texts have equal fingerprints."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return NewAdapter(
        **{
            "base_model": "tiny",
            "generator": "tiny-doc@0123456789ab",
            "fingerprint": digest,
            "source_sha256": digest,
            "source_bytes": len(text.encode()),
            **fields,
        }
    )


def write_weights(folder: Path, content: bytes) -> None:
    """A PEFT folder as far as the store looks: it never reads the weights."""
    (folder / "adapter_config.json").write_text('{"r": 8}')
    (folder / "adapter_model.safetensors").write_bytes(content)


async def queue(store: AdapterStore, text: str, **fields: Any) -> Adapter:
    adapter, created = await store.add(new(text, **fields), text.encode())
    assert created
    return adapter


async def finish(store: AdapterStore, adapter_id: str, content: bytes = b"weights") -> Adapter:
    """Takes a queued adapter through its job."""
    assert await store.claim(adapter_id) is not None
    async with store.staging() as folder:
        write_weights(folder, content)
        return await store.commit(adapter_id, folder, rank=8, tokens=3, chunks=1)


async def ready(
    store: AdapterStore, text: str, content: bytes | None = None, **fields: Any
) -> Adapter:
    """Adds a text and makes it ready; its weights follow from the text unless given."""
    adapter = await queue(store, text, **fields)
    return await finish(store, adapter.id, content or f"weights of {text}".encode())


def assert_files_agree(root: Path) -> None:
    """A closed store's SQLite catalogue and its files agree to the last file."""
    engine = sa.create_engine(f"sqlite:///{root / 'catalogue.db'}")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert not connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        registered = {
            key: size for key, size in connection.exec_driver_sql("SELECT key, bytes FROM blobs")
        }
        used = connection.exec_driver_sql(
            "SELECT text_key FROM adapters UNION "
            "SELECT weights_key FROM adapters WHERE weights_key IS NOT NULL"
        ).scalars()
        assert set(used) == set(registered)
    engine.dispose()
    on_disk: dict[str, int] = {}
    for file in (root / "blobs").rglob("*"):
        if file.is_file() and file.name != "identity":
            key = file.parent.relative_to(root / "blobs").as_posix()
            on_disk[key] = on_disk.get(key, 0) + file.stat().st_size
    assert on_disk == registered
    assert not list((root / "blobs" / "staging").iterdir())
