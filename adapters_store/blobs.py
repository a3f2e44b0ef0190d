"""Texts and weights at rest, named by their content, in an object store.

    texts/<sha256>/source                          the source text
    weights/<sha256>/adapter_config.json           one PEFT adapter
                    /adapter_model.safetensors
    staging/<random>/                              being written; nothing here outlives its writer
    identity                                       which catalogue these belong to (identity.py)

The SHA-256 of a text is that of its bytes. The SHA-256 of weights covers both files; it is what
`sha256sum adapter_config.json adapter_model.safetensors | sha256sum` prints in their folder.

A blob is put in place file by file, each already complete and synced, so a reader sees a file
whole or not at all. Whether a blob *is there* is for the catalogue to say; files without a row
are leftovers, which `recovery.py` removes.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import obstore
from obstore.store import LocalStore

from adapters_store import durable
from adapters_store.errors import IncompleteWeights
from adapters_store.faults import translated

WEIGHT_FILES = ("adapter_config.json", "adapter_model.safetensors")
TEXT_FILE = "source"
TEXTS, WEIGHTS, STAGING = "texts", "weights", "staging"
IDENTITY = "identity"
FILES_OF = {TEXTS: (TEXT_FILE,), WEIGHTS: WEIGHT_FILES}

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Staged:
    """A blob that is complete and synced in the staging area, and where it belongs."""

    key: str
    bytes: int
    folder: Path


class DamagedBlob(Exception):
    """The files of a blob do not have the checksum that is their name."""

    def __init__(self, key: str, found: str) -> None:
        super().__init__(f"{key} has SHA-256 {found}")
        self.found = found


def sha256_of(key: str) -> str:
    return key.partition("/")[2]


class Blobs:
    """The object store under one local folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for child in (folder, *(folder / kind for kind in (TEXTS, WEIGHTS, STAGING))):
            durable.make_folder(child)
        self._store = LocalStore(folder)
        self._verified: set[str] = set()
        self._verifying = asyncio.Lock()
        # of its own, so that hashing never waits behind whatever else the server runs on threads
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="blobs")

    def identity(self) -> str | None:
        """The ID of the catalogue that these blobs belong to. Blocking."""
        with translated(self.folder), suppress(FileNotFoundError):
            return (self.folder / IDENTITY).read_text()
        return None

    def identify(self, identity: str) -> None:
        """Writes the ID for `identity` to find, for good. Blocking."""
        with translated(self.folder):
            (self.folder / IDENTITY).unlink(missing_ok=True)
            durable.write(identity.encode(), self.folder / IDENTITY)
            durable.sync_folder(self.folder)

    def empty(self) -> bool:
        """True if no blob, nor part of one, is here. Blocking."""
        return not any(any((self.folder / kind).iterdir()) for kind in FILES_OF)

    def close(self) -> None:
        self._threads.shutdown()

    @asynccontextmanager
    async def staging(self) -> AsyncIterator[Path]:
        """A fresh folder on the blobs' own filesystem, removed afterwards whatever happens."""
        folder = self.folder / STAGING / secrets.token_hex(8)
        await self._thread(folder.mkdir, 0o700)
        try:
            yield folder
        finally:
            # shielded: a cancelled caller must not leave the removal undone
            await asyncio.shield(self._thread(shutil.rmtree, folder, ignore_errors=True))

    async def stage_text(self, text: Path | bytes, folder: Path) -> Staged:
        digest, size = await self._thread(durable.write, text, folder / TEXT_FILE)
        return Staged(f"{TEXTS}/{digest}", size, folder)

    async def stage_weights(self, folder: Path) -> Staged:
        """Hashes and syncs one PEFT adapter that lies in a staging folder.

        Raises IncompleteWeights when the folder does not hold exactly its two files, ValueError
        when it is not under `staging()`.
        """
        if folder.resolve().parent != (self.folder / STAGING).resolve():
            raise ValueError(f"{folder} is not a staging folder of this store")
        found = {file.name for file in folder.iterdir()}
        if found != set(WEIGHT_FILES):
            raise IncompleteWeights(found, WEIGHT_FILES)
        parts = await self._thread(_map, durable.sync, [folder / name for name in WEIGHT_FILES])
        digest = _digest_of(zip(WEIGHT_FILES, (part[0] for part in parts), strict=True))
        return Staged(f"{WEIGHTS}/{digest}", sum(part[1] for part in parts), folder)

    async def place(self, staged: Staged) -> None:
        """Moves a staged blob to its place and makes that last; replaces what was there.

        Replacing is what repairs a damaged blob. Whoever has the old file open keeps it.
        """
        kind = staged.key.partition("/")[0]
        source = staged.folder.resolve().relative_to(self.folder.resolve())
        for name in FILES_OF[kind]:
            with translated(self.folder):
                await obstore.rename_async(self._store, f"{source}/{name}", f"{staged.key}/{name}")
        target = self.folder / staged.key
        await self._thread(_map, durable.sync_folder, [target, target.parent])
        if kind == WEIGHTS:
            self._verified.add(staged.key)

    async def remove(self, keys: Iterable[str]) -> None:
        """Removes blobs, whole or partial; one that is not there is no error."""
        for key in keys:
            self._verified.discard(key)
            for name in FILES_OF[key.partition("/")[0]]:
                with suppress(FileNotFoundError), translated(self.folder):
                    await obstore.delete_async(self._store, f"{key}/{name}")
            await self._thread(shutil.rmtree, self.folder / key, ignore_errors=True)

    async def text(self, key: str) -> bytes:
        """The bytes of a text; raises DamagedBlob."""
        try:
            text, found = await self._thread(durable.read, self.folder / key / TEXT_FILE)
        except FileNotFoundError as error:
            raise DamagedBlob(key, "missing") from error
        if found != sha256_of(key):
            raise DamagedBlob(key, found)
        return text

    async def weights(self, key: str) -> Path:
        """The local folder of weights, their checksum verified once per process.

        Raises DamagedBlob.
        """
        folder = self.folder / key
        async with self._verifying:
            if key not in self._verified:
                try:
                    files = [folder / name for name in WEIGHT_FILES]
                    digests = await self._thread(_map, durable.digest, files)
                except FileNotFoundError as error:
                    raise DamagedBlob(key, "missing") from error
                found = _digest_of(zip(WEIGHT_FILES, digests, strict=True))
                if found != sha256_of(key):
                    raise DamagedBlob(key, found)
                self._verified.add(key)
        return folder

    async def listing(self) -> dict[str, int]:
        """Every blob that has files, and the size of these; partial ones too."""
        return await self._thread(self._list)

    async def clear_leftovers(self, known: Iterable[str]) -> int:
        """Empties the staging area and removes folders that `known` does not name."""
        return await self._thread(self._clear, set(known))

    def _list(self) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for kind in FILES_OF:
            for metas in obstore.list(self._store, kind, chunk_size=1000):
                for meta in metas:
                    key = meta["path"].rpartition("/")[0]
                    sizes[key] = sizes.get(key, 0) + meta["size"]
        return sizes

    def _clear(self, known: set[str]) -> int:
        removed = 0
        for child in (self.folder / STAGING).iterdir():
            _remove_tree(child)
            removed += 1
        for kind in FILES_OF:
            for child in (self.folder / kind).iterdir():
                if f"{kind}/{child.name}" not in known:
                    _remove_tree(child)
                    removed += 1
        return removed

    async def _thread(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        with translated(self.folder):
            return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))


def _digest_of(files: Iterable[tuple[str, str]]) -> str:
    manifest = "".join(f"{digest}  {name}\n" for name, digest in files)
    return hashlib.sha256(manifest.encode()).hexdigest()


def _map(function: Callable[[Path], R], files: Sequence[Path]) -> list[R]:
    return [function(file) for file in files]


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
