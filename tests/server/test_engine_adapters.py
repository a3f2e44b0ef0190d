"""What the engine tells vLLM about adapters, in which order; vLLM itself is in test_engine.py."""

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fastapi import FastAPI
from safetensors.torch import save_file
from vllm.v1.engine.exceptions import EngineDeadError

from server.adapter_check import AdapterCheck
from server.engine import Engine
from server.engine_config import EngineConfig
from server.residency import EngineRefused, EngineStopped

pytestmark = pytest.mark.anyio

LAYER = "model.layers.0.mlp.down_proj"


class Client:
    """Takes vLLM's commands down; fails with `error` when there is one."""

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []
        self.error: Exception | None = None
        self.errored = False
        self.model_config = SimpleNamespace(max_model_len=512)
        self.output_processor = SimpleNamespace(request_states={})

    def runs(self, request_id: str, lora_name: str | None) -> None:
        state = SimpleNamespace(request_id=request_id, lora_name=lora_name)
        self.output_processor.request_states[request_id] = state

    async def _take(self, command: str, what: Any) -> None:
        self.said.append((command, what))
        if self.error:
            raise self.error

    async def add_lora(self, request: Any) -> None:
        await self._take("add", (request.lora_name, request.lora_int_id, request.lora_path))

    async def remove_lora(self, number: int) -> None:
        await self._take("remove", number)

    async def abort(self, ids: Iterable[str], internal: bool) -> None:
        assert internal
        await self._take("abort", list(ids))


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client = Client()
        self.names: dict[str, Any] = {}
        app = FastAPI()
        app.state.openai_serving_models = SimpleNamespace(lora_requests=self.names)
        check = AdapterCheck({LAYER: (8, 4)}, max_rank=8, dtype=torch.float32)
        config = EngineConfig("model", "base", max_rank=8, target_modules=("down_proj",))
        self.engine = Engine(app, self.client, config, check)  # type: ignore[arg-type]


@pytest.fixture
def on(tmp_path: Path) -> Bench:
    weights = {"A": torch.ones(2, 8), "B": torch.ones(4, 2)}
    tensors = {f"base_model.model.{LAYER}.lora_{side}.weight": w for side, w in weights.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    config = '{"r": 2, "lora_alpha": 2.0, "target_modules": ["down_proj"]}'
    (tmp_path / "adapter_config.json").write_text(config)
    return Bench(tmp_path)


async def test_an_adapter_is_known_by_name_once_vllm_has_it(on: Bench) -> None:
    await on.engine.load("adp_1", on.folder)
    assert on.client.said == [("add", ("adp_1", 1, str(on.folder)))]
    assert set(on.names) == {"adp_1"}


async def test_an_adapter_that_comes_back_has_a_new_number(on: Bench) -> None:
    for _ in range(2):
        await on.engine.load("adp_1", on.folder)
        await on.engine.unload("adp_1")
    assert [what[1] for command, what in on.client.said if command == "add"] == [1, 2]


async def test_an_adapter_that_does_not_fit_never_reaches_vllm(on: Bench) -> None:
    (on.folder / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(EngineRefused):
        await on.engine.load("adp_1", on.folder)
    assert on.client.said == []
    assert on.names == {}


async def test_an_adapter_that_vllm_refuses_is_not_known_and_its_words_are_for_the_log(
    on: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    on.client.error = ValueError("no such thing in /var/lib")
    with pytest.raises(EngineRefused, match=r"does not load the adapter adp_1\.$"):
        await on.engine.load("adp_1", on.folder)
    assert "no such thing in /var/lib" in caplog.text
    assert on.names == {}


async def test_unloading_takes_the_name_ends_what_still_runs_and_only_then_removes(
    on: Bench,
) -> None:
    await on.engine.load("adp_1", on.folder)
    on.client.runs("left behind", "adp_1")
    on.client.runs("of another", "adp_2")
    on.client.runs("of the base", None)
    await on.engine.unload("adp_1")
    assert on.client.said[1:] == [("abort", ["left behind"]), ("remove", 1)]
    assert on.names == {}


async def test_a_dead_engine_is_no_fault_of_the_adapter(on: Bench) -> None:
    await on.engine.load("adp_1", on.folder)
    on.client.error = EngineDeadError()
    with pytest.raises(EngineStopped):
        await on.engine.load("adp_2", on.folder)
    with pytest.raises(EngineStopped):
        await on.engine.unload("adp_1")


async def test_the_engine_is_ready_until_it_dies(on: Bench) -> None:
    assert on.engine.ready
    on.client.errored = True
    assert not on.engine.ready
