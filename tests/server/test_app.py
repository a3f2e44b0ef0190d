"""What keeps the server from starting is said in a sentence, before the engine is loaded."""

import socket
import subprocess
from pathlib import Path

import pytest

from adapters_store import AdapterStore
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
