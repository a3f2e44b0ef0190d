"""`doclora generate`: documents or a description to PEFT folders without a server, through the same
process."""

import asyncio
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from adapters_store import AdapterKind
from generator.chunks import Chunker, DocumentTooLong
from generator.config import InvalidGenerator, read_config
from generator.description import DescriptionReader, DescriptionTooLong, EmptyDescription
from generator.process import Generated, GeneratorError, GeneratorProcess
from server.errors import ApiError
from server.generators import SYSTEMS, kind_of
from server.reading.text import read_text, require_text_type

SLUG_WORDS, SLUG_CHARACTERS = 8, 60
DESCRIPTION = "the description"

Report = Callable[[str, int, int], None]


class CannotGenerate(Exception):
    """A document, a description or a generator that does not work; the message names which."""


@dataclass(frozen=True, slots=True)
class _Source:
    """What an adapter is made from, and where it goes."""

    label: str  # for messages and reports
    folder: Path
    chunks: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True)
class Written:
    """An adapter that was written."""

    folder: Path
    generated: Generated


def generate_from_documents(
    files: Sequence[Path],
    out: Path,
    generators: Sequence[Path],
    max_chunk_tokens: int | None,
    report: Report,
) -> list[Written]:
    """Make an adapter of each file, in a folder of `out` named like the file: of all or of none.

    The one of the generators that reads documents is used. All documents are read and checked
    before the first is generated, and the folders appear when the last is done. `report` is called
    with a file and its chunks, done and all. Raises CannotGenerate.
    """
    folders = _folders(files, out)
    with _explained():
        generator = _of_kind(AdapterKind.DOCUMENT, generators)
        chunker = Chunker.from_folder(generator, max_chunk_tokens)
        sources = [_Source(str(file), folders[file], _split(file, chunker)) for file in files]
        return _write(sources, out, generator, report)


def generate_from_description(
    description: str, out: Path, generators: Sequence[Path], report: Report
) -> list[Written]:
    """Make an adapter of the description, in a folder of `out` named by its first words.

    Otherwise like `generate_from_documents`; `report` is called with DESCRIPTION.
    """
    folder = out / slug(description)
    _require_free(folder)
    with _explained():
        generator = _of_kind(AdapterKind.TEXT, generators)
        reader = DescriptionReader.from_folder(generator)
        try:
            data = description.encode("utf-8", "surrogateescape")
            text = read_text(data, param="description", source="description")
            chunks = reader.split(text)
        except (ApiError, EmptyDescription, DescriptionTooLong) as error:
            raise CannotGenerate(str(error)) from error
        return _write([_Source(DESCRIPTION, folder, chunks)], out, generator, report)


def slug(description: str) -> str:
    """Its first words as a folder's name: "answer-as-a-limerick"."""
    words = re.findall(r"\w+", description.lower())[:SLUG_WORDS]
    return "-".join(words)[:SLUG_CHARACTERS].rstrip("-") or "description"


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (InvalidGenerator, GeneratorError, OSError) as error:
        raise CannotGenerate(str(error)) from error


def _of_kind(kind: AdapterKind, generators: Sequence[Path]) -> Path:
    for folder in generators:
        if kind_of(read_config(folder)) is kind:
            return folder
    raise CannotGenerate(
        f"no {SYSTEMS[kind]} generator is in {' or '.join(map(str, generators))}; name the folder "
        "of one with --generator"
    )


def _folders(files: Sequence[Path], out: Path) -> dict[Path, Path]:
    folders = {file: out / file.stem for file in files}
    for file, folder in folders.items():
        if list(folders.values()).count(folder) > 1:
            raise CannotGenerate(f"{file}: another document's adapter would go to {folder} too")
        _require_free(folder)
    return folders


def _require_free(folder: Path) -> None:
    if folder.exists():
        raise CannotGenerate(f"{folder} is there already; remove it or choose another --out")


def _split(file: Path, chunker: Chunker) -> Sequence[Sequence[int]]:
    try:
        require_text_type(file.name, None)
        return chunker.split(read_text(file.read_bytes(), param="file"))
    except (ApiError, DocumentTooLong) as error:
        raise CannotGenerate(f"{file}: {error}") from error


def _write(sources: Sequence[_Source], out: Path, generator: Path, report: Report) -> list[Written]:
    out.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".unfinished-", dir=out) as unfinished:
        staged = [Path(unfinished) / source.folder.name for source in sources]
        for folder in staged:
            folder.mkdir()
        generated = asyncio.run(_generate(sources, staged, generator, report))
        for source, folder in zip(sources, staged, strict=True):
            folder.rename(source.folder)
    return [Written(source.folder, made) for source, made in zip(sources, generated, strict=True)]


async def _generate(
    sources: Sequence[_Source], folders: Sequence[Path], generator: Path, report: Report
) -> list[Generated]:
    process = GeneratorProcess(generator)
    await process.start()

    async def make(source: _Source, folder: Path) -> Generated:
        try:
            return await process.generate(
                source.chunks, folder, lambda done, total: report(source.label, done, total)
            )
        except GeneratorError as error:
            raise CannotGenerate(f"{source.label}: {error}") from error

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(make(*one)) for one in zip(sources, folders, strict=True)]
    except* CannotGenerate as failures:
        raise CannotGenerate("; ".join(map(str, failures.exceptions))) from failures
    finally:
        await process.stop()
    return [task.result() for task in tasks]
