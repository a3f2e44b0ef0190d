"""Published checkpoints, imported and served by the real engine: the published code's answers.

In float32, so that tokens can be compared. Log-probabilities differ from the published ones by less
than 1e-5 without an adapter and by up to 1.1e-4 with one: that is the generator's rounding times
alpha, and no less in PEFT on transformers. The two likeliest tokens of a step are never nearer than
0.0088, so every token counts.

vLLM 0.32 has no attention on a CPU for the heads of 16 of the Gemma 2 and Mistral fixtures; they
are served by server/cpu_attention.py, those of Qwen 3 by vLLM alone.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.generator.reference import CASES, Case
from tests.server.running import Running

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

TOLERANCE = 1e-3  # of a log-probability
TOKENS = 12  # of each published answer, fewer where it ends


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, reference_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return Case(reference_dir / request.param, tmp_path_factory.mktemp("imported") / "doc")


@pytest.fixture(scope="module")
def client(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("served")
    running = Running(
        folder,
        *("--generator", case.native, "--model", without_template(case, folder / "model")),
        *("--dtype", "float32", "--served-name", "base"),
    )
    try:
        running.start()
        with httpx.Client(base_url=running.url, timeout=120) as client:
            yield client
    finally:
        running.kill_what_is_left()


def without_template(case: Case, folder: Path) -> Path:
    """The base model, its own chat template as useless as Gemma's is for a system message."""
    folder.mkdir()
    for file in (case.folder / "base_model").iterdir():
        (folder / file.name).symlink_to(file)
    tokenizer = folder / "tokenizer_config.json"
    config = json.loads(tokenizer.read_text())
    tokenizer.unlink()
    refusal = "{{ raise_exception('this is not the template of the generator') }}"
    tokenizer.write_text(json.dumps(config | {"chat_template": refusal}))
    return folder


def answered(client: httpx.Client, case: Case, model: str, *before: dict[str, str]) -> Any:
    body = {
        "model": model,
        "messages": [*before, {"role": "user", "content": case.info["texts"]["question"]}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "return_token_ids": True,
        "prompt_logprobs": 0,
        "logprobs": True,
        "top_logprobs": 2,
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


def smallest_margin(answer: Any) -> float:
    """Between the two likeliest tokens, over all steps."""
    steps = answer["choices"][0]["logprobs"]["content"]
    pairs = torch.tensor([[token["logprob"] for token in s["top_logprobs"]] for s in steps])
    return (pairs[:, 0] - pairs[:, 1]).min().item()


def assert_published(case: Case, answer: Any, run: str) -> None:
    prompt = case.io["prompt.input_ids"][0]
    assert answer["prompt_token_ids"] == prompt.tolist()

    entries = zip(answer["prompt_logprobs"][1:], prompt[1:].tolist(), strict=True)
    got = torch.tensor([entry[str(token)]["logprob"] for entry, token in entries])
    every = case.io[f"logits.{run}"][0, :-1].log_softmax(-1)
    want = every.gather(1, prompt[1:, None])[:, 0]
    torch.testing.assert_close(got, want, rtol=0, atol=TOLERANCE)

    assert smallest_margin(answer) > 2 * TOLERANCE
    tokens = case.io[f"generated.{run}"][0, len(prompt) :]
    assert answer["choices"][0]["token_ids"] == tokens.tolist()


def test_the_base_and_documents_of_one_and_three_chunks_answer_as_published(
    client: httpx.Client, case: Case
) -> None:
    assert_published(case, answered(client, case, "base"), "base")
    for run, text, chunks in (("c1", "doc1", 1), ("c3", "doc3", 3)):
        model = adapter(client, case.info["texts"][text], chunks)
        answer = answered(client, case, model)
        assert_published(case, answer, run)
        published_margin = case.info["info"][f"min_margin_{run}"]
        assert smallest_margin(answer) == pytest.approx(published_margin, abs=2 * TOLERANCE)


def test_a_system_message_is_rendered_as_the_generator_was_trained(
    client: httpx.Client, case: Case
) -> None:
    answer = answered(client, case, "base", {"role": "system", "content": ""})
    assert answer["prompt_token_ids"] == case.io["prompt_with_empty_system.input_ids"][0].tolist()
