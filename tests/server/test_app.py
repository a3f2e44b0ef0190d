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

from adapters_store import AdapterStore
from generator import worker
from generator.config import InvalidGenerator, read_doc_config
from generator.process import GeneratorUnusable
from server import app
from server.engine_config import EngineUnusable
from server.listening import CannotServe
from server.residency import EngineStopped
from server.settings import Settings
from tests.generator.models import generator_folder
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
        (GeneratorUnusable("no memory"), "the generator does not start: no memory"),
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
    settings = Settings(generator=generator, data_dir=tmp_path / "data", database_url=url)
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
    settings = Settings(generator=generator, data_dir=tmp_path / "data")
    assert f"{tmp_path / 'base'} {says}" in run_until_refused(settings, monkeypatch)
    assert not (tmp_path / "data").exists()


def config_of(root: Path, **changes: Any) -> Any:
    return read_doc_config(generator_folder(root)).model_copy(update=changes)


def test_adapters_of_a_higher_rank_than_vllm_takes_are_told(tmp_path: Path) -> None:
    config = config_of(tmp_path, max_chunks=255)  # with the bias 256 of rank 2
    assert app._engine_config(Settings(), config).max_rank == 512
    config = config_of(tmp_path, max_chunks=256)
    with pytest.raises(CannotServe, match=r"tiny makes .* rank 514 \(256 chunks\); .* up to 512"):
        app._engine_config(Settings(), config)


def test_the_log_tells_what_was_started_and_where(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "server.app")
    config = config_of(tmp_path)
    settings = Settings(
        generator=tmp_path / "doc", data_dir=tmp_path / "data", host="::1", port=9000, max_loras=3
    )
    engine = app._engine_config(settings, config)
    app._announce(settings, config, engine, 12.4)
    base, generator, memory, data, ready = caplog.messages
    assert base == f"base model  base ({tmp_path / 'base'})"
    assert f"tiny@{config.fingerprint[:12]}: rank 2 a chunk of 24 tokens, up to 5" in generator
    assert generator.endswith("adapters up to rank 12")
    assert memory.endswith("KV cache as vLLM chooses; 3 adapters of rank 16 in a batch, 64 loaded")
    assert data.endswith(str(tmp_path / "data"))
    assert ready == "ready       http://[::1]:9000 after 12 s"


def test_the_generator_runs_as_it_is_set(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    settings = Settings(
        generator=tmp_path / "doc",
        generator_mode="iterative",
        generator_device="cpu",
        max_batch_tokens=77,
    )
    process = app._generator_process(settings, app._engine_config(settings, config))
    options = worker._options(process._command[process._command.index("generator.worker") + 1 :])
    assert (options.folder, options.device) == (tmp_path / "doc", "cpu")
    assert (options.base_name, options.max_batch_tokens) == ("base", 77)
    assert worker._load(options)._mode == "iterative"
