"""The command line, as a person uses it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from typer.testing import CliRunner, Result

from generator.chunks import Chunker
from generator.lora import LoraWeights
from server import cli, offline
from server.client import RequestRefused, ServerUnreachable
from server.settings import Settings
from tests.generator.models import generator_folder, text_generator_folder
from tests.server.running import COMMAND, Running, document


def doclora(
    *arguments: str | Path, url: str | None = None, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DOCLORA_URL"}
    if url is not None:
        environment["DOCLORA_URL"] = url
    return subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        input=typed,
        env={**environment, "COLUMNS": "120", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_help_lists_the_commands_without_loading_a_model_library() -> None:
    help = doclora("--help")
    assert help.returncode == 0
    for command in ("serve", "add", "ls", "chat", "rm", "generate", "import", "train", "eval"):
        assert f" {command} " in help.stdout
    heavy = "import sys, server.cli; print({'torch', 'transformers', 'vllm'} & set(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True)
    assert loaded.stdout.strip() == "set()"


def test_serve_has_a_flag_for_every_setting_and_names_its_variable() -> None:
    help = doclora("serve", "--help").stdout
    for field, setting in Settings.model_fields.items():
        name = setting.alias or field
        assert re.search(rf"--{name.replace('_', '-')}\b", help), f"{name} is no flag"
        assert setting.description, f"{name} has no description"
    wrong = doclora("serve", "--port", "70000")
    assert wrong.returncode == 2
    assert "--port (DOCLORA_PORT)" in wrong.stderr


@pytest.mark.parametrize("command", [["ls"], ["rm", "adp_x"], ["chat", "m", "q"]])
def test_without_a_server_every_command_says_how_to_get_one(command: list[str]) -> None:
    result = doclora(*command, url="http://127.0.0.1:9")
    assert result.returncode == 3
    assert "http://127.0.0.1:9" in result.stderr
    assert "doclora serve" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_file_is_wrong_usage() -> None:
    assert doclora("add", "nowhere.md").returncode == 2


def test_generate_writes_peft_adapters_without_a_server(tmp_path: Path) -> None:
    generator = generator_folder(tmp_path)
    for name in ("one", "two"):
        (tmp_path / f"{name}.md").write_text(f"document {name}")
    files = [tmp_path / "one.md", tmp_path / "two.md"]
    out = tmp_path / "out"
    arguments = ("generate", *files, "--generator", generator, "--out", out)
    result = doclora(*arguments, "--max-chunk-tokens", "12")
    assert result.returncode == 0, result.stderr
    for name in ("one", "two"):
        chunks = len(Chunker.from_folder(generator, 12).split(f"document {name}"))
        assert chunks > 1
        assert LoraWeights.load(out / name).rank == 2 * (chunks + 1)
        assert str(out / name) in result.stdout

    again = doclora(*arguments)
    assert again.returncode == 1
    assert "already" in again.stderr


def test_generate_names_the_document_at_fault_and_writes_nothing(tmp_path: Path) -> None:
    generator = generator_folder(tmp_path)
    (tmp_path / "good.md").write_text("fine")
    (tmp_path / "bad.md").write_bytes(b"\xff\xff")
    out = tmp_path / "out"
    result = doclora(
        *("generate", tmp_path / "good.md", tmp_path / "bad.md"),
        *("--generator", generator, "--out", out),
    )
    assert result.returncode == 1
    assert "bad.md" in result.stderr
    assert "UTF-8" in result.stderr
    assert not out.exists()


def test_generate_writes_the_adapter_of_a_description(tmp_path: Path) -> None:
    generator = text_generator_folder(tmp_path)
    out = tmp_path / "out"
    task = ("generate", "--description", "Answer like a Pirate, please!", "--out", out)
    result = doclora(*task, "--generator", generator)
    assert result.returncode == 0, result.stderr
    folder = out / "answer-like-a-pirate-please"
    assert list(out.iterdir()) == [folder]
    assert LoraWeights.load(folder).rank == 4
    assert set(LoraWeights.load(folder).A) == {"q_proj", "v_proj"}
    assert f"{folder}  29 tokens, 1 chunks, rank 4" in result.stdout

    again = doclora(*task, "--generator", generator)
    assert again.returncode == 1
    assert "already" in again.stderr


@pytest.mark.parametrize(
    ("description", "folder"),
    [
        ("Answer every question as a limerick.", "answer-every-question-as-a-limerick"),
        ("One two three four five six seven eight nine", "one-two-three-four-five-six-seven-eight"),
        ("Réponds ../ en français", "réponds-en-français"),
        (
            "supercalifragilistic " * 3,
            "supercalifragilistic-supercalifragilistic-supercalifragilist",
        ),
        ("?!", "description"),
    ],
)
def test_the_adapter_of_a_description_is_named_by_its_first_words(
    description: str, folder: str
) -> None:
    assert offline.slug(description) == folder


@pytest.mark.parametrize(
    ("source", "makes", "needed"),
    [
        (["--description", "Be brief"], generator_folder, "Text-to-LoRA"),
        (["a.md"], text_generator_folder, "Doc-to-LoRA"),
    ],
)
@pytest.mark.parametrize("by", ["flag", "variable"])
def test_generate_needs_a_generator_of_the_right_kind(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    source: list[str],
    makes: Callable[[Path], Path],
    needed: str,
    by: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.md").write_text("a document")
    generator = makes(tmp_path)
    monkeypatch.setenv("DOCLORA_GENERATOR", str(generator))
    flags = ["--generator", str(generator)] if by == "flag" else []
    result = CliRunner().invoke(cli.app, ["generate", *source, *flags, "--out", "out"])
    assert result.exit_code == 1
    assert f"no {needed} generator is in {generator}; " in result.stderr
    assert "--generator" in result.stderr
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("description", "says"),
    [(" ", "empty"), ("a\x01", "control"), ("word " * 100, "500 tokens, the limit is 48 tokens")],
)
def test_generate_refuses_what_is_no_description(
    tmp_path: Path, description: str, says: str
) -> None:
    arguments = ["--description", description, "--out", str(tmp_path / "out")]
    generator = str(text_generator_folder(tmp_path))
    result = CliRunner().invoke(cli.app, ["generate", *arguments, "--generator", generator])
    assert result.exit_code == 1
    assert says in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [["add"], ["generate", "--out", "out"]])
def test_an_adapter_is_made_from_documents_or_a_description(
    tmp_path: Path, command: list[str]
) -> None:
    (tmp_path / "a.md").write_text("a document")
    both = [str(tmp_path / "a.md"), "--description", "Be brief"]
    for sources, found in ((both, "both came"), ([], "neither came")):
        result = CliRunner().invoke(cli.app, [*command, *sources], env={"COLUMNS": "200"})
        assert result.exit_code == 2
        assert found in result.output


class Server:
    """What a client sees of a server that refuses some documents, or goes away."""

    refuses = "bad.md"
    dies_after = 99

    def __init__(self, url: str) -> None:
        self.followed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def add(self, file: Path, name: str | None) -> dict[str, Any]:
        if file.name == self.refuses:
            raise RequestRefused(400, "it holds only white space", "document_rejected")
        return {
            **{"id": f"adp_{file.stem}", "name": None, "source_name": file.name},
            **{"status": "ready", "progress": {"done": 1, "total": 1}, "error": None},
            **{"tokens": 3, "chunks": 1, "rank": 2, "bytes": 9, "timings_ms": {}},
        }

    def describe(self, description: str, name: str | None) -> dict[str, Any]:
        return self.add(Path(f"{description} as {name}"), name)

    def follow(self, adapter_id: str) -> Iterator[dict[str, Any]]:
        self.followed += 1
        if self.followed > self.dies_after:
            raise ServerUnreachable("http://server", "it left")
        yield self.add(Path(f"{adapter_id.removeprefix('adp_')}.md"), None)


def added(folder: Path, *names: str) -> Result:
    files = [folder / name for name in names]
    for file in files:
        file.write_text("text")
    return CliRunner().invoke(cli.app, ["add", *map(str, files)])


def test_of_documents_of_which_one_is_refused_the_others_are_made_and_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "Client", Server)
    result = added(tmp_path, "good.md", "bad.md", "other.md")
    assert result.exit_code == 1
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["adp_good", "adp_other"]
    assert f"{tmp_path / 'bad.md'}: it holds only white space" in result.stderr


def test_what_was_made_before_the_server_went_away_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "Client", Server)
    monkeypatch.setattr(Server, "dies_after", 1)
    result = added(tmp_path, "good.md", "other.md")
    assert result.exit_code == cli.UNREACHABLE
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["adp_good"]


def test_a_description_is_added_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "Client", Server)
    result = CliRunner().invoke(cli.app, ["add", "--description", "rhyme", "--name", "rhymes"])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("adp_rhyme as rhymes  rhyme as rhymes")
    monkeypatch.setattr(Server, "refuses", "rhyme as None")
    refused = CliRunner().invoke(cli.app, ["add", "--description", "rhyme"])
    assert refused.exit_code == 1
    assert "the description: it holds only white space" in refused.stderr


@pytest.mark.engine
def test_a_document_is_added_listed_asked_and_removed(server: Running, tmp_path: Path) -> None:
    file = tmp_path / "manual.md"
    file.write_text(document(4))
    added = doclora("add", file, "--name", "manual", url=server.url)
    assert added.returncode == 0, added.stderr
    adapter = added.stdout.split()[0]
    assert "manual v1" in added.stdout

    listed = doclora("ls", url=server.url)
    assert adapter in listed.stdout
    assert " document " in listed.stdout
    assert "manual v1" in listed.stdout
    page = json.loads(doclora("ls", "--json", "--limit", "1", url=server.url).stdout)
    assert page["data"][0]["id"] == adapter

    asked = doclora("chat", "manual", "What colour is the pump?", url=server.url)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.strip()
    typed = doclora("chat", adapter, url=server.url, typed="What colour?\n\nAnd now?\n")
    assert typed.returncode == 0, typed.stderr

    removed = doclora("rm", adapter, url=server.url)
    assert removed.stdout == f"{adapter} deleted\n"
    again = doclora("rm", adapter, url=server.url)
    assert again.returncode == 1
    assert adapter in again.stderr
    asked = doclora("chat", adapter, "Still there?", url=server.url)
    assert asked.returncode == 1
    assert "does not exist" in asked.stderr


@pytest.mark.engine
def test_several_documents_are_added_at_once_as_json(server: Running, tmp_path: Path) -> None:
    files = [tmp_path / f"{number}.txt" for number in range(3)]
    for file in files:
        file.write_text(document())
    result = doclora("add", *files, "--json", url=server.url)
    adapters = [json.loads(line) for line in result.stdout.splitlines()]
    assert [adapter["source_name"] for adapter in adapters] == ["0.txt", "1.txt", "2.txt"]
    assert {adapter["status"] for adapter in adapters} == {"ready"}


@pytest.mark.engine
def test_a_refused_document_ends_with_the_servers_words(server: Running, tmp_path: Path) -> None:
    file = tmp_path / "empty.md"
    file.write_text(" ")
    result = doclora("add", file, url=server.url)
    assert result.returncode == 1
    assert "empty.md" in result.stderr
    assert "white space" in result.stderr
