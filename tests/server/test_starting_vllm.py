"""What keeps vLLM from starting is said, without starting it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from fastapi import FastAPI

from server import cpu_lora, engine
from server.engine_config import EngineConfig, EngineUnusable
from tests.generator.models import base_model

CONFIG = EngineConfig("model", "base", max_rank=8, target_modules=("down_proj",))


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    with mock.patch.dict(os.environ):
        yield


def prepare_with(wrapper: str, cpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = SimpleNamespace(is_cpu=lambda: cpu, get_punica_wrapper=lambda: wrapper)
    monkeypatch.setattr(engine, "current_platform", platform)
    monkeypatch.setattr(engine, "load_general_plugins", lambda: None)
    engine._prepare(CONFIG)


def test_without_our_operations_no_engine_starts_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"
    with pytest.raises(EngineUnusable, match=r"doclora_cpu_lora, .* VLLM_PLUGINS"):
        prepare_with(theirs, True, monkeypatch)
    prepare_with(cpu_lora.WRAPPER, True, monkeypatch)
    prepare_with(theirs, False, monkeypatch)


def test_what_would_open_the_engine_to_callers_is_ignored(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("VLLM_SERVER_DEV_MODE", "1")
    prepare_with(cpu_lora.WRAPPER, True, monkeypatch)
    assert "VLLM_SERVER_DEV_MODE" not in os.environ
    assert "VLLM_SERVER_DEV_MODE is ignored" in caplog.text


@pytest.mark.anyio
async def test_a_base_model_without_the_generators_layers_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base_model().save_pretrained(tmp_path)
    client = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.float32, max_model_len=64))

    @contextmanager
    def started(_args: object) -> Iterator[object]:
        yield client

    async def build(_client: object, _args: object) -> FastAPI:
        return FastAPI()

    monkeypatch.setattr(engine, "_prepare", lambda _config: None)
    monkeypatch.setattr(engine, "_client", started)
    monkeypatch.setattr(engine, "_build_app", build)
    config = EngineConfig(tmp_path, "base", max_rank=8, target_modules=("fc",))
    with pytest.raises(EngineUnusable, match="no linear layer 'fc'; it has down_proj"):
        async with engine.Engine.running(config):
            pass


def test_a_base_model_that_vllm_cannot_read_is_told(tmp_path: Path) -> None:
    args = SimpleNamespace()
    with (
        mock.patch.object(
            engine.AsyncEngineArgs, "from_cli_args", side_effect=OSError("no config")
        ),
        pytest.raises(EngineUnusable, match="no config"),
        engine._client(args),  # type: ignore[arg-type]
    ):
        pass
