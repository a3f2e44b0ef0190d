"""`doclora generate`: documents to PEFT folders without a server, through the same process."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from generator.chunks import Chunker, DocumentTooLong
from generator.config import InvalidGenerator
from generator.process import Generated, GeneratorError, GeneratorProcess
from server.errors import ApiError
from server.reading.text import read_text, require_text_type

Report = Callable[[Path, int, int], None]


class CannotGenerate(Exception):
    """A document or a generator that does not work; the message names which."""


@dataclass(frozen=True, slots=True)
class Written:
    """An adapter that was written."""

    source: Path
    folder: Path
    generated: Generated


def generate_adapters(
    files: Sequence[Path],
    out: Path,
    generator: Path,
    max_chunk_tokens: int | None,
    report: Report,
) -> list[Written]:
    """Make an adapter of each file, in a folder of `out` named like the file: of all or of none.

    All documents are read and checked before the first is generated, and the folders appear when
    the last is done. `report` is called with a file and its chunks, done and all. Raises
    CannotGenerate.
    """
    folders = _folders(files, out)
    try:
        chunker = Chunker.from_folder(generator, max_chunk_tokens)
        documents = {file: _split(file, chunker) for file in files}
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".unfinished-", dir=out) as unfinished:
            staged = {file: Path(unfinished) / folder.name for file, folder in folders.items()}
            for folder in staged.values():
                folder.mkdir()
            generated = asyncio.run(_generate(documents, staged, generator, report))
            for file, folder in folders.items():
                staged[file].rename(folder)
    except (InvalidGenerator, GeneratorError, OSError) as error:
        raise CannotGenerate(str(error)) from error
    return [Written(file, folders[file], generated[file]) for file in files]


def _folders(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    folders = {file: out / file.stem for file in files}
    for file, folder in folders.items():
        if list(folders.values()).count(folder) > 1:
            raise CannotGenerate(f"{file}: another document's adapter would go to {folder} too")
        if folder.exists():
            raise CannotGenerate(f"{folder} is there already; remove it or choose another --out")
    return folders


def _split(file: Path, chunker: Chunker) -> Sequence[Sequence[int]]:
    try:
        require_text_type(file.name, None)
        return chunker.split(read_text(file.read_bytes(), param="file"))
    except (ApiError, DocumentTooLong) as error:
        raise CannotGenerate(f"{file}: {error}") from error


async def _generate(
    documents: dict[Path, Sequence[Sequence[int]]],
    folders: dict[Path, Path],
    generator: Path,
    report: Report,
) -> dict[Path, Generated]:
    process = GeneratorProcess(generator)
    await process.start()

    async def make(file: Path) -> Generated:
        try:
            return await process.generate(
                documents[file], folders[file], lambda done, total: report(file, done, total)
            )
        except GeneratorError as error:
            raise CannotGenerate(f"{file}: {error}") from error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = {file: group.create_task(make(file)) for file in documents}
    except* CannotGenerate as failures:
        raise CannotGenerate("; ".join(map(str, failures.exceptions))) from failures
    finally:
        await process.stop()
    return {file: task.result() for file, task in tasks.items()}
