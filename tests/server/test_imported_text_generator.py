"""Published Text-to-LoRA checkpoints, imported and served by the real engine.

The published code's LoRA of a text, put into the base model on transformers, says what the served
adapter of that text has to answer. In float32, so that tokens can be compared: log-probabilities
differ by less than 1e-5, and the two likeliest tokens of a step are never nearer than 0.06.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from torch import Tensor
from transformers import AutoTokenizer

from generator.config import read_text_config
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from tests.generator.reference import TEXT_CASES, TextCase
from tests.server.running import Running

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]

TOLERANCE = 1e-3  # of a log-probability
TOKENS = 12
QUESTION = "Which words are in alphabetical order?"


@pytest.fixture(scope="module", params=TEXT_CASES)
def case(
    request: pytest.FixtureRequest, reference_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> TextCase:
    return TextCase(reference_dir / request.param, tmp_path_factory.mktemp("imported") / "text")


@pytest.fixture(scope="module")
def client(case: TextCase, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    running = Running(
        tmp_path_factory.mktemp("served"),
        *("--generator", case.native, "--dtype", "float32", "--served-name", "base"),
    )
    try:
        running.start()
        with httpx.Client(base_url=running.url, timeout=120) as client:
            yield client
    finally:
        running.kill_what_is_left()


@dataclass(frozen=True)
class Expected:
    """What transformers makes of a prompt: log-probabilities ``[T - 1]`` of its tokens from the
    second on, greedy tokens, and how much likelier each is than the next likeliest."""

    prompt: Tensor
    tokens: list[int]
    margins: list[float]


def expected(case: TextCase, prompt: Sequence[int], lora: Factors | None) -> Expected:
    injection = LoraInjection(case.base, case.hypernetwork.config.modules)
    scaling = case.hypernetwork.config.scaling
    ids, margins = list(prompt), []
    try:
        with nullcontext() if lora is None else injection.applied(lora, scaling):
            for _ in range(TOKENS):
                logprobs = case.base(torch.tensor([ids])).logits[0].log_softmax(-1)
                best = logprobs[-1].topk(2)
                margins.append(float(best.values[0] - best.values[1]))
                ids.append(int(best.indices[0]))
            read = case.base(torch.tensor([prompt])).logits[0, :-1].log_softmax(-1)
    finally:
        injection.detach()
    of_prompt = read.gather(1, torch.tensor(prompt)[1:, None])[:, 0]
    return Expected(of_prompt, ids[len(prompt) :], margins)


def answered(client: httpx.Client, model: str) -> Any:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": TOKENS,
        "ignore_eos": True,
        "return_token_ids": True,
        "prompt_logprobs": 0,
    }
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def adapter(client: httpx.Client, description: str) -> str:
    answer = client.post("/v1/adapters", json={"description": description, "wait": 120})
    assert answer.status_code == 201, answer.text
    assert (answer.json()["kind"], answer.json()["rank"]) == ("text", 8)
    made: str = answer.json()["id"]
    return made


def assert_answer(answer: Any, want: Expected) -> None:
    prompt = answer["prompt_token_ids"]
    entries = zip(answer["prompt_logprobs"][1:], prompt[1:], strict=True)
    got = torch.tensor([entry[str(token)]["logprob"] for entry, token in entries])
    torch.testing.assert_close(got, want.prompt, rtol=0, atol=TOLERANCE)
    assert min(want.margins) > 2 * TOLERANCE
    assert answer["choices"][0]["token_ids"] == want.tokens


def test_the_base_and_the_adapter_of_a_text_answer_as_published(
    client: httpx.Client, case: TextCase
) -> None:
    plain = answered(client, "base")
    prompt = plain["prompt_token_ids"]
    assert_answer(plain, expected(case, prompt, None))
    with_adapter = answered(client, adapter(client, case.info["texts"]["desc"]))
    assert with_adapter["prompt_token_ids"] == prompt
    published = Factors(*({m: x[None] for m, x in side.items()} for side in case.lora("text")))
    want = expected(case, prompt, published)
    assert_answer(with_adapter, want)
    assert (want.prompt - expected(case, prompt, None).prompt).abs().max() > 0.01


def test_a_question_is_put_as_in_training_behind_an_empty_system_message(
    client: httpx.Client, case: TextCase
) -> None:
    config = read_text_config(case.native)
    tokenizer = AutoTokenizer.from_pretrained(config.base_path)
    empty, question = {"role": "system", "content": ""}, {"role": "user", "content": QUESTION}
    text = tokenizer.apply_chat_template(
        [empty, question],
        chat_template=config.chat_template,
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text.startswith(tokenizer.bos_token)
    want = tokenizer(text, add_special_tokens=False).input_ids
    assert answered(client, "base")["prompt_token_ids"] == want
