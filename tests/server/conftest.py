"""The server that end-to-end tests talk to: the real command, with the real engine, once."""

from collections.abc import Iterator

import httpx
import pytest
from openai import OpenAI

from server.settings import Settings
from tests.server.running import Running


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`doclora serve` with small limits, up and ready. Tests may kill and restart it."""
    for folder in Settings().generators:
        if not (folder / "config.json").exists():
            pytest.skip(f"no generator in {folder}: set DOCLORA_GENERATOR")
    running = Running(tmp_path_factory.mktemp("server"))
    try:
        running.start()
        yield running
        running.stop_while_a_caller_follows_a_job()
    finally:
        running.kill_what_is_left()


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=120) as client:
        yield client


@pytest.fixture
def openai(server: Running) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=120) as client:
        yield client
