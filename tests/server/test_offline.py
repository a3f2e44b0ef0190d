"""Documents to PEFT folders: what is left behind when one of them fails."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from generator.process import Generated, GenerationRefused, GeneratorDied, GeneratorError, Progress
from server import offline
from tests.generator.models import generator_folder

GENERATED = Generated(rank=2, chunks=1, tokens=3, seconds=0.1, norm=1.0)


class Process:
    """A generator process that fails on some documents, a piece of their weights written."""

    fails: dict[str, GeneratorError]
    stopped: bool

    def __init__(self, folder: Path) -> None: ...

    async def start(self) -> None: ...

    async def stop(self) -> None:
        type(self).stopped = True

    async def generate(
        self, chunks: Sequence[Sequence[int]], out: Path, progress: Progress
    ) -> Generated:
        (out / "adapter_model.safetensors").write_bytes(b"weights")
        if error := self.fails.get(out.name):
            raise error
        if self.fails and out.name == "slow":
            await asyncio.Event().wait()
        return GENERATED


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> type[Process]:
    Process.fails, Process.stopped = {}, False
    monkeypatch.setattr(offline, "GeneratorProcess", Process)
    return Process


def generate(root: Path, *names: str) -> list[offline.Written]:
    generator = root / "doc"
    if not generator.exists():
        generator_folder(root)
    files = [root / f"{name}.md" for name in names]
    for file in files:
        file.write_text(f"document {file.stem}")
    nothing = lambda *_: None  # noqa: E731
    return offline.generate_from_documents(files, root / "out", [generator], None, nothing)


def left_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "out").iterdir())


def test_each_document_has_its_folder_and_nothing_else_is_left(
    process: type[Process], tmp_path: Path
) -> None:
    written = generate(tmp_path, "a", "b")
    assert [adapter.folder for adapter in written] == [tmp_path / "out" / n for n in ("a", "b")]
    assert left_in(tmp_path) == ["a", "b"]
    assert (tmp_path / "out" / "a" / "adapter_model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize(
    "error", [GenerationRefused("weights_too_large", "too large"), GeneratorDied("it died")]
)
def test_of_documents_of_which_one_fails_none_leaves_anything_and_the_rerun_works(
    process: type[Process], tmp_path: Path, error: GeneratorError
) -> None:
    process.fails = {"a": error}
    with pytest.raises(offline.CannotGenerate, match=rf"a\.md: {error}"):
        generate(tmp_path, "a", "quick", "slow")
    assert left_in(tmp_path) == []
    assert process.stopped

    process.fails = {}
    generate(tmp_path, "a", "quick", "slow")
    assert left_in(tmp_path) == ["a", "quick", "slow"]


def test_a_place_that_cannot_be_written_to_is_told(process: type[Process], tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(offline.CannotGenerate, match="out"):
        generate(tmp_path, "a")
