"""The command line, as a person uses it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from generator.chunks import Chunker
from generator.lora import LoraWeights
from tests.generator.models import generator_folder
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


def test_serve_has_a_flag_and_a_variable_for_every_setting() -> None:
    help = doclora("serve", "--help").stdout
    for flag in ("--port", "--data-dir", "--generator", "--max-upload-bytes", "--log-format"):
        assert flag in help
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
