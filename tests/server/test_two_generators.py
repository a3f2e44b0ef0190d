"""One server with a generator of each kind, whose adapters change different layers.

The adapters of documents change down_proj; those of descriptions q_proj and v_proj, which vLLM
keeps in one layer with k_proj. In float32, so that readings can be compared closely.
"""

import asyncio
import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from generator.config import read_config
from server.settings import EMBEDDED
from tests.generator.models import text_generator_folder
from tests.server.logprobs import apart, read_by_peft, reading
from tests.server.running import MAX_LORAS, Running, document
from tests.server.test_cli import doclora

pytestmark = pytest.mark.engine

BASE = EMBEDDED / "base"
PROMPT = "Which colour has pump number three in the long hall?"
TOLERANCE = 1e-3  # of a log probability
OF_TEXT = {"q_proj": (256, 256), "v_proj": (256, 256)}


@pytest.fixture(scope="module")
def text_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained one for the embedded base model, of a larger rank than documents have."""
    return text_generator_folder(
        tmp_path_factory.mktemp("generator"),
        BASE,
        **{"modules": OF_TEXT, "layers": 4, "embedding_size": 256, "rank": 328, "scaling": 2e-4},
    )


@pytest.fixture(scope="module")
def both(text_generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    flags = ("--generator", EMBEDDED / "doc", "--generator", text_generator, "--dtype", "float32")
    running = Running(tmp_path_factory.mktemp("both"), *flags)
    try:
        running.start()
        yield running
    finally:
        running.kill_what_is_left()


@pytest.fixture
def client(both: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=both.url, timeout=120) as client:
        yield client


def adapter_of(client: httpx.Client, **source: str) -> str:
    answer = client.post("/v1/adapters", json={**source, "wait": 120})
    assert answer.status_code == 201, answer.text
    adapter: str = answer.json()["id"]
    return adapter


def download(client: httpx.Client, adapter: str, folder: Path) -> Path:
    weights = client.get(f"/v1/adapters/{adapter}/weights").raise_for_status().content
    zipfile.ZipFile(io.BytesIO(weights)).extractall(folder)
    return folder / adapter


def test_both_kinds_and_the_base_read_in_one_batch_as_peft_does(
    client: httpx.Client, both: Running, tmp_path: Path
) -> None:
    adapters = [adapter_of(client, text=document()) for _ in range(MAX_LORAS)]
    adapters += [adapter_of(client, description=f"Answer {n} times.") for n in ("two", "six")]
    folders = {adapter: download(client, adapter, tmp_path) for adapter in adapters}
    targets = [
        json.loads((folder / "adapter_config.json").read_text())["target_modules"]
        for folder in folders.values()
    ]
    assert targets == [["down_proj"]] * 2 + [["q_proj", "v_proj"]] * 2
    by_peft = {a: read_by_peft(str(BASE), folder, PROMPT) for a, folder in folders.items()}
    expected = {adapter: adapted for adapter, (adapted, _) in by_peft.items()}
    expected["doclora-tiny"] = plain = by_peft[adapters[0]][1]
    for adapter in adapters:
        assert 10 > apart(expected[adapter], plain) > 100 * TOLERANCE, "it does nothing, or harm"

    async def read_all() -> dict[str, list[list[float]]]:
        """Every slot has adapters of both kinds in turn: there are more than slots."""
        async with httpx.AsyncClient(base_url=both.url, timeout=120) as client:
            requests = [(model, reading(client, model, PROMPT)) for model in [*expected] * 3]
            read = await asyncio.gather(*(request for _, request in requests))
        found: dict[str, list[list[float]]] = {}
        for (model, _), one in zip(requests, read, strict=True):
            found.setdefault(model, []).append(one)
        return found

    for model, read in asyncio.run(read_all()).items():
        for one in read:
            assert apart(one, expected[model]) < TOLERANCE, f"{model} of {adapters}"


def test_the_log_and_readiness_tell_both(
    client: httpx.Client, both: Running, text_generator: Path
) -> None:
    assert client.get("/ready").json()["generators"] == {"document": True, "text": True}
    log = both.log.read_text()
    for folder in (EMBEDDED / "doc", text_generator):
        config = read_config(folder)
        assert f"generator   {config.name}@{config.fingerprint[:12]}: " in log
    assert f"{MAX_LORAS} adapters of rank 512 in a batch" in log


def test_a_description_is_added_and_listed_on_the_command_line(both: Running) -> None:
    added = doclora("add", "--description", "Answer in rhymes.", "--name", "rhymes", url=both.url)
    assert added.returncode == 0, added.stderr
    adapter = added.stdout.split()[0]
    listed = doclora("ls", url=both.url)
    [line] = [line for line in listed.stdout.splitlines() if line.startswith(adapter)]
    assert line.split()[1:5] == ["text", "rhymes", "v1", "ready"]
