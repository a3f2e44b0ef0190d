"""What the adapter store costs with many adapters in it.

    python tests/benchmarks/bench_catalogue.py [--rows 100000] [--url postgresql://...]

Fills an empty store with adapters of one tenant, files included, and prints: the start-up that
checks all of them, a page of 100 anywhere in the listing with and without filters, single look-ups,
and the way of small adapters from upload to purge. Exits with 1 if the median of a page is not
under 20 ms. The database behind the URL is emptied first.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from adapters_store import AdapterKind, AdapterStatus, AdapterStore, NewAdapter, new_adapter_id
from adapters_store.blobs import FILES_OF, TEXTS, WEIGHTS
from adapters_store.database import Database
from adapters_store.schema import adapters, blobs, names

PAGE = 100
PAGE_BAR_MS = 20.0
ROUNDS = 100
NAMES = 1000
DICE = random.Random(1)
T = TypeVar("T")

LISTINGS: dict[str, dict[str, Any]] = {
    "all, newest first": {},
    "all, oldest first": {"order": "asc"},
    "status=ready (90 %)": {"status": AdapterStatus.READY},
    "status=failed (5 %)": {"status": AdapterStatus.FAILED},
    "status=cancelled (none)": {"status": AdapterStatus.CANCELLED},
    "kind=text (20 %)": {"kind": AdapterKind.TEXT},
    "kind=composite (none)": {"kind": AdapterKind.COMPOSITE},
    "kind=text, status=failed (1 %)": {"kind": AdapterKind.TEXT, "status": AdapterStatus.FAILED},
    f"name (1 of {NAMES})": {"name": "name 7"},
    "name, status=failed": {"name": "name 7", "status": AdapterStatus.FAILED},
}


def made_up(rows: int) -> Iterator[dict[str, Any]]:
    """Rows of adapters, 90 % of them ready, each with a text and weights of its own."""
    start = time.time() - rows
    for n in range(rows):
        digest = hashlib.sha256(str(n).encode()).hexdigest()
        status = DICE.choices(("ready", "failed", "queued"), (90, 5, 5))[0]
        yield {
            "id": new_adapter_id(),
            "tenant": "default",
            "kind": DICE.choices(("document", "text"), (80, 20))[0],
            "status": status,
            "attempts": 1,
            "name": f"name {n % NAMES}",
            "version": n // NAMES + 1,
            "base_model": "doclora-tiny",
            "generator": "doclora-tiny-doc@0123456789ab",
            "fingerprint": digest,
            "options": {},
            "source_name": f"document {n}.md",
            "source_sha256": digest,
            "source_bytes": 1,
            "text_key": f"{TEXTS}/{digest}",
            "weights_key": f"{WEIGHTS}/{digest}" if status == "ready" else None,
            "tokens": 900,
            "chunks": 7,
            "rank": 64,
            "bytes": 2,
            "timings_ms": {"extract": 1.0, "generate": 800.0, "store": 9.0},
            "progress_done": 7,
            "progress_total": 7,
            "metadata": {"team": "people"},
            "created_at": start + n,
            "updated_at": start + n,
        }


async def fill(root: Path, url: str | None, rows: int) -> None:
    async with await AdapterStore.open(root, url):
        pass  # makes the tables
    database = Database(url or f"sqlite:///{root / 'catalogue.db'}")
    newest: dict[str, dict[str, Any]] = {}
    async with database.write() as connection:
        for table in (names, adapters, blobs):
            await connection.execute(sa.delete(table))
        for batch in batched(made_up(rows), 1000):
            await insert(connection, batch)
            await asyncio.to_thread(write_files, root, batch)
            newest |= {row["name"]: row for row in batch if row["status"] == "ready"}
        await connection.execute(
            sa.insert(names),
            [
                {
                    "tenant": "default",
                    "name": name,
                    "adapter_id": row["id"],
                    "last_version": row["version"],
                }
                for name, row in newest.items()
            ],
        )
    await database.close()


def batched(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while batch := list(islice(rows, size)):
        yield batch


async def insert(connection: AsyncConnection, batch: list[dict[str, Any]]) -> None:
    sizes = {row["text_key"]: 1 for row in batch}
    sizes |= {row["weights_key"]: 2 for row in batch if row["weights_key"]}
    await connection.execute(
        sa.insert(blobs), [{"key": key, "bytes": size} for key, size in sizes.items()]
    )
    await connection.execute(sa.insert(adapters), batch)


def write_files(root: Path, batch: list[dict[str, Any]]) -> None:
    for row in batch:
        for key in (row["text_key"], row["weights_key"]):
            if key:
                folder = root / "blobs" / key
                folder.mkdir()
                for name in FILES_OF[key.partition("/")[0]]:
                    (folder / name).write_bytes(b"x")


async def timed(step: Awaitable[T]) -> tuple[float, T]:
    """Milliseconds, and what came of it."""
    start = time.perf_counter()
    result = await step
    return (time.perf_counter() - start) * 1e3, result


def line(what: str, milliseconds: list[float]) -> None:
    ordered = sorted(milliseconds)
    p95 = ordered[int(len(ordered) * 0.95)]
    print(f"{what:<44} {statistics.median(ordered):9.2f} {p95:9.2f} {ordered[-1]:9.2f}")


async def pages(store: AdapterStore, ids: list[str]) -> bool:
    """Prints every listing from random places on; True if all medians are under the bar."""
    under = True
    for what, filters in LISTINGS.items():
        taken = []
        for _ in range(ROUNDS):
            page = store.list("default", limit=PAGE, after=DICE.choice(ids), **filters)
            taken.append((await timed(page))[0])
        line(f"page of {PAGE}: {what}", taken)
        under &= statistics.median(taken) < PAGE_BAR_MS
    return under


async def look_ups(store: AdapterStore, ids: list[str]) -> None:
    steps: dict[str, Callable[[], Awaitable[object]]] = {
        "get by ID": lambda: store.get("default", DICE.choice(ids)),
        "resolve a name": lambda: store.resolve("default", f"name {DICE.randrange(NAMES)}"),
        "touch 16": lambda: store.touch(DICE.sample(ids, 16)),
        "counts": store.counts,
    }
    for what, step in steps.items():
        line(what, [(await timed(step()))[0] for _ in range(ROUNDS)])


async def ways(store: AdapterStore) -> None:
    """Small adapters from upload to purge, one after the other."""
    taken: dict[str, list[float]] = {}
    for n in range(ROUNDS):
        for step, milliseconds in (await way(store, f"new {n}".encode())).items():
            taken.setdefault(step, []).append(milliseconds)
    for step, all_milliseconds in taken.items():
        line(f"one small adapter: {step}", all_milliseconds)


async def way(store: AdapterStore, text: bytes) -> dict[str, float]:
    digest = hashlib.sha256(text).hexdigest()
    new = NewAdapter("doclora-tiny", "doclora-tiny-doc@0123456789ab", digest, digest, len(text))
    taken = {}
    taken["add"], (adapter, _) = await timed(store.add(new, text))
    taken["claim"], _ = await timed(store.claim(adapter.id))
    async with store.staging() as folder:
        (folder / "adapter_config.json").write_text("{}")
        (folder / "adapter_model.safetensors").write_bytes(text)
        taken["commit"], _ = await timed(
            store.commit(adapter.id, folder, rank=8, tokens=1, chunks=1)
        )
    taken["delete"], _ = await timed(store.delete("default", adapter.id))
    taken["purge"], _ = await timed(store.purge(adapter.id))
    return taken


async def some_ids(store: AdapterStore) -> list[str]:
    """IDs from everywhere in the listing."""
    ids: list[str] = []
    more = True
    while more:
        page = await store.list("default", after=ids[-1] if ids else None, limit=1000)
        ids += [adapter.id for adapter in (*page.items[:-1:50], *page.items[-1:])]
        more = page.has_more
    return ids


async def bench(root: Path, url: str | None, rows: int) -> bool:
    print(f"filling {rows:,} adapters ...", file=sys.stderr)
    await fill(root, url, rows)
    print(f"{rows:,} adapters, {'PostgreSQL' if url else 'SQLite'}; milliseconds")
    print(f"{'':<44} {'median':>9} {'p95':>9} {'max':>9}")
    opening, store = await timed(AdapterStore.open(root, url))
    line("open, checking every blob", [opening])
    async with store:
        ids = await some_ids(store)
        under = await pages(store, ids)
        await look_ups(store, ids)
        await ways(store)
    print(f"every page's median under {PAGE_BAR_MS:.0f} ms: {'yes' if under else 'NO'}")
    return under


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--url", help="a PostgreSQL database to empty and use; default SQLite")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if asyncio.run(bench(Path(folder), given.url, given.rows)) else 1


if __name__ == "__main__":
    sys.exit(main())
