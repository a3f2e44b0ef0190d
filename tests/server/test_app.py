"""What keeps the server from starting is said in a sentence, before the engine is loaded; what it
starts with is logged."""

import logging
import os
import socket
import subprocess
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from adapters_store import AdapterKind, AdapterStore
from generator import worker
from generator.config import InvalidGenerator, read_config
from server import app
from server.engine_config import EngineUnusable
from server.listening import CannotServe
from server.residency import EngineStopped
from server.settings import Settings
from tests.generator.models import generator_folder, text_generator_folder
from tests.server.running import COMMAND, free_port


def serve(**flags: str | Path | int) -> subprocess.CompletedProcess[str]:
    given = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
    return subprocess.run(
        [str(COMMAND), "serve", *given], capture_output=True, text=True, timeout=280
    )


def refused(result: subprocess.CompletedProcess[str], *clues: str) -> None:
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    for clue in clues:
        assert clue in result.stderr


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(serve(port=port, data_dir=tmp_path), f"port {port}", "in use", "--port")


def test_a_folder_without_a_generator_is_told(tmp_path: Path) -> None:
    result = serve(port=free_port(), data_dir=tmp_path / "data", generator=tmp_path)
    refused(result, str(tmp_path), "--generator")
    assert not (tmp_path / "data").exists()


def test_a_base_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    generator = generator_folder(tmp_path)
    nowhere = tmp_path / "nowhere"
    result = serve(port=free_port(), data_dir=tmp_path / "data", generator=generator, model=nowhere)
    refused(result, str(nowhere), "--model")


@pytest.mark.anyio
async def test_data_that_another_server_has_open_is_left_alone(tmp_path: Path) -> None:
    generator = generator_folder(tmp_path)
    async with await AdapterStore.open(tmp_path / "data"):
        result = serve(port=free_port(), data_dir=tmp_path / "data", generator=generator)
    refused(result, str(tmp_path / "data"), "in use")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InvalidGenerator("no generator in x"), "no generator in x; --generator names another"),
        (EngineUnusable("no layer 'fc'"), "the engine does not start: no layer 'fc'"),
        (EngineStopped("It died."), "It died. What it said is above."),
    ],
)
def test_what_the_parts_say_becomes_a_sentence(error: Exception, says: str) -> None:
    with pytest.raises(CannotServe) as refused, app._explained():
        raise error
    assert str(refused.value).startswith(says)


def run_until_refused(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """What `run` says about settings that it refuses before it loads vLLM."""
    monkeypatch.setattr(app.prefork, "start", lambda _config: None)
    monkeypatch.setattr(app.logs, "configure", lambda *_: None)
    with (
        mock.patch.dict(os.environ),
        socket.socket() as sock,
        pytest.raises(CannotServe) as refused,
    ):
        app.run(settings, sock)
    return str(refused.value)


@pytest.mark.parametrize("url", ["mysql://host/catalogue", "catalogue.db", "postgresql://h:x/c"])
def test_a_catalogue_that_is_none_is_told(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_folder(tmp_path)
    settings = Settings(generators=[generator], data_dir=tmp_path / "data", database_url=url)
    assert "a catalogue's URL is sqlite:///" in run_until_refused(settings, monkeypatch)


@pytest.mark.parametrize(
    ("files", "content", "says"),
    [
        ("tokenizer*", None, "has no tokenizer"),
        ("tokenizer.json", "{}", "does not work: "),
        ("chat_template.jinja", None, "does not work: ValueError"),
    ],
)
def test_a_base_model_without_a_tokenizer_that_works_is_told(
    files: str, content: str | None, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = generator_folder(tmp_path)
    for file in list((tmp_path / "base").glob(files)):
        file.unlink() if content is None else file.write_text(content)
    settings = Settings(generators=[generator], data_dir=tmp_path / "data")
    assert f"{tmp_path / 'base'} {says}" in run_until_refused(settings, monkeypatch)
    assert not (tmp_path / "data").exists()


def both(root: Path, **changes: Any) -> list[Path]:
    return [generator_folder(root), text_generator_folder(root, **changes)]


def test_the_engine_takes_the_adapters_of_every_generator(tmp_path: Path) -> None:
    doc, text = map(read_config, both(tmp_path, rank=20))
    alone = app._engine_config(Settings(), [doc])
    assert (alone.target_modules, alone.max_rank) == (("down_proj",), 12)
    together = app._engine_config(Settings(), [text, doc])
    assert together.target_modules == ("down_proj", "q_proj", "v_proj")
    assert (together.max_rank, together.slot_rank) == (20, 32)
    assert together.model == alone.model == str(tmp_path / "base")


def test_the_log_tells_what_was_started_and_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "server.app")
    doc, text = configs = [read_config(folder) for folder in both(tmp_path)]
    settings = Settings(data_dir=tmp_path / "data", host="::1", port=9000, max_loras=3)
    app._announce(settings, configs, app._engine_config(settings, configs), 12.4)
    base, documents, descriptions, memory, data, ready = caplog.messages
    assert base == f"base model  base ({tmp_path / 'base'})"
    assert f"tiny@{doc.fingerprint[:12]}: documents, rank 2 a chunk of 24 tokens" in documents
    assert documents.endswith("up to 5 chunks, adapters up to rank 12")
    assert f"tiny-text@{text.fingerprint[:12]}: descriptions of up to 48 tokens" in descriptions
    assert descriptions.endswith("adapters of rank 4")
    assert memory.endswith("KV cache as vLLM chooses; 3 adapters of rank 16 in a batch, 64 loaded")
    assert data.endswith(str(tmp_path / "data"))
    assert ready == "ready       http://[::1]:9000 after 12 s"


def test_a_hub_is_asked_only_where_a_model_lies_there(tmp_path: Path) -> None:
    with mock.patch.dict(os.environ):
        os.environ.pop("HF_HUB_OFFLINE", None)
        app._keep_to_ourselves([tmp_path, "an-organisation/an-encoder"])
        assert "HF_HUB_OFFLINE" not in os.environ
        app._keep_to_ourselves([tmp_path, str(tmp_path)])
        assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_the_generators_run_as_they_are_set(tmp_path: Path) -> None:
    folders = both(tmp_path)
    configs = [read_config(folder) for folder in folders]
    settings = Settings(
        generators=folders, generator_mode="iterative", generator_device="cpu", max_batch_tokens=77
    )
    generators = app._generators(settings, configs, app._engine_config(settings, configs))
    assert list(generators) == [AdapterKind.DOCUMENT, AdapterKind.TEXT]
    for folder, config, generator in zip(folders, configs, generators.values(), strict=True):
        assert generator.name == f"{config.name}@{config.fingerprint[:12]}"
        command = generator.process._command
        options = worker._options(command[command.index("generator.worker") + 1 :])
        assert (options.folder, options.device) == (folder, "cpu")
        assert (options.base_name, options.max_batch_tokens) == ("base", 77)
        assert worker._load(options).config == config
    assert options.mode == "iterative"
