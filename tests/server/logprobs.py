"""How likely a model finds the tokens of a prompt: the server's word, and that of transformers."""

from pathlib import Path

import httpx
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer


async def reading(client: httpx.AsyncClient, model: str, prompt: str) -> list[float]:
    """The log probability that `model` gives each token of the prompt."""
    body = {"model": model, "prompt": prompt, "echo": True, "logprobs": 0}
    written = {"max_tokens": 8, "ignore_eos": True}
    answer = await client.post("/v1/completions", json={**body, **written})
    assert answer.status_code == 200, answer.text
    logprobs = answer.json()["choices"][0]["logprobs"]["token_logprobs"]
    return [float(logprob) for logprob in logprobs[1:-8]]


def read_by_peft(base: str, folder: Path, prompt: str) -> tuple[list[float], list[float]]:
    """What `reading` asks vLLM for, from transformers: with the PEFT adapter, and without."""
    ids = AutoTokenizer.from_pretrained(base)(prompt, return_tensors="pt").input_ids
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(base, dtype="float32"), folder
    )

    def read() -> list[float]:
        with torch.inference_mode():
            logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
        found: list[float] = logprobs.gather(1, ids[0, 1:, None])[:, 0].tolist()
        return found

    adapted = read()
    with model.disable_adapter():
        return adapted, read()


def apart(one: list[float], other: list[float]) -> float:
    """The largest difference between two readings of a prompt."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))
