"""vLLM under the server: what its defects would do to callers (`doclora serve`, over HTTP)."""

import asyncio
import io
import os
import signal
import time
import zipfile
from pathlib import Path

import httpx
import pytest

from generator.config import read_doc_config
from server.settings import Settings
from tests.server.logprobs import apart, read_by_peft, reading
from tests.server.running import MAX_LORAS, Running, document, eventually

pytestmark = pytest.mark.engine

PROMPTS = [f"Which colour has pump number {number} in the long hall?" for number in range(4)]
ROUNDING = 0.2  # in log probability, between batches of other shapes in bfloat16


def adapter_of(http: httpx.Client) -> str:
    answer = http.post("/v1/adapters", json={"text": document(), "wait": 120})
    assert answer.status_code == 201, answer.text
    adapter: str = answer.json()["id"]
    return adapter


def base_of(http: httpx.Client) -> str:
    base: str = http.get("/v1/models").json()["data"][0]["id"]
    return base


def test_the_base_and_adapters_in_one_batch_read_as_they_do_alone(
    http: httpx.Client, server: Running
) -> None:
    models = [base_of(http), *(adapter_of(http) for _ in range(MAX_LORAS))]
    mixture = [(model, prompt) for prompt in PROMPTS for model in models]

    async def read_all() -> tuple[list[list[float]], list[list[float]]]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            alone = [await reading(client, *request) for request in mixture]
            together = await asyncio.gather(*(reading(client, *request) for request in mixture))
        return alone, together

    alone, together = asyncio.run(read_all())
    first = alone[: len(models)]
    assert min(apart(first[0], other) for other in first[1:]) > 3 * ROUNDING, "adapters do nothing"
    for (model, prompt), one, other in zip(mixture, alone, together, strict=True):
        assert apart(one, other) < ROUNDING, f"{model} reads {prompt!r} differently in a batch"


def test_vllm_reads_with_a_downloaded_adapter_as_peft_does(
    http: httpx.Client, server: Running, tmp_path: Path
) -> None:
    adapter = adapter_of(http)
    weights = http.get(f"/v1/adapters/{adapter}/weights").raise_for_status().content
    zipfile.ZipFile(io.BytesIO(weights)).extractall(tmp_path)
    [config] = tmp_path.rglob("adapter_config.json")

    async def read() -> list[float]:
        async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:
            return await reading(client, adapter, PROMPTS[0])

    served = asyncio.run(read())
    base = read_doc_config(Settings().generators[0]).base_path
    adapted, plain = read_by_peft(base, config.parent, PROMPTS[0])
    assert apart(adapted, plain) > 3 * ROUNDING, "the adapter does nothing"
    assert apart(served, adapted) < ROUNDING


def test_adapters_deleted_under_clients_that_have_just_left_do_not_stop_the_engine(
    http: httpx.Client, server: Running
) -> None:
    before = server.files()
    body = {
        "messages": [{"role": "user", "content": PROMPTS[0]}],
        "stream": True,
        "max_tokens": 300,
        "ignore_eos": True,
    }
    for _ in range(2 * MAX_LORAS):
        adapter = adapter_of(http)
        with httpx.Client(base_url=server.url, timeout=120) as client:
            chat = {**body, "model": adapter}
            with client.stream("POST", "/v1/chat/completions", json=chat) as stream:
                next(stream.iter_lines())
        assert http.delete(f"/v1/adapters/{adapter}").status_code == 200
    eventually(lambda: not server.files() - before)
    chat = {**body, "model": base_of(http), "stream": False, "max_tokens": 4}
    assert http.post("/v1/chat/completions", json=chat).status_code == 200


def test_no_answer_waits_for_the_acknowledgement_of_its_headers(http: httpx.Client) -> None:
    def seconds() -> float:
        began = time.perf_counter()
        http.post("/v1/completions", json={"model": "nobody", "prompt": ""})
        return time.perf_counter() - began

    taken = [seconds() for _ in range(40)]
    assert min(taken[30:]) < 0.03, "a new connection is acknowledged at once, one in use is not"


def test_a_server_whose_engine_dies_ends_with_all_that_is_its_own(server: Running) -> None:
    os.kill(process_of(server, "VLLM::EngineCore"), signal.SIGKILL)
    eventually(lambda: not server.left(), 60)
    server.start()
    assert httpx.get(f"{server.url}/ready").status_code == 200


def process_of(server: Running, title: str) -> int:
    for pid in server.family():
        if Path(f"/proc/{pid}/cmdline").read_text().startswith(title):
            return pid
    raise AssertionError(f"no {title} among the server's processes")
