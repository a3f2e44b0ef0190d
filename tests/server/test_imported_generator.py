"""Published checkpoints, imported and served by the real engine: the published code's answers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from torch import Tensor

from tests.generator.reference import CASES, Case
from tests.server.running import Running

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

TOKENS = 12  # of each recorded answer, fewer where it ends


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, reference_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return Case(reference_dir / request.param, tmp_path_factory.mktemp("imported") / "doc")


@pytest.fixture(scope="module")
def client(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("served")
    flags = ("--generator", case.native, "--dtype", "float32", "--served-name", "base")
    running = Running(folder, *flags)
    try:
        running.start()
        with httpx.Client(base_url=running.url, timeout=120) as client:
            yield client
    finally:
        running.kill_what_is_left()


def answered(client: httpx.Client, case: Case, model: str) -> Any:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": case.info["texts"]["question"]}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "return_token_ids": True,
    }
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def adapter(client: httpx.Client, text: str, chunks: int) -> str:
    answer = client.post("/v1/adapters", json={"text": text, "wait": 120})
    assert answer.status_code == 201, answer.text
    assert answer.json()["chunks"] == chunks
    made: str = answer.json()["id"]
    return made


def assert_published(case: Case, answer: Any, run: str) -> None:
    prompt: Tensor = case.io["prompt.input_ids"][0]
    assert answer["prompt_token_ids"] == prompt.tolist()
    assert (
        answer["choices"][0]["token_ids"] == case.io[f"generated.{run}"][0][len(prompt) :].tolist()
    )


def test_the_base_and_documents_of_one_and_three_chunks_answer_as_published(
    client: httpx.Client, case: Case
) -> None:
    assert_published(case, answered(client, case, "base"), "base")
    for run, text, chunks in (("c1", "doc1", 1), ("c3", "doc3", 3)):
        model = adapter(client, case.info["texts"][text], chunks)
        assert_published(case, answered(client, case, model), run)
