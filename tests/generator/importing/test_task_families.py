"""The chats that Text-to-LoRA was trained on."""

import json
from pathlib import Path
from typing import Any

import pytest

from generator.importing.task_families import (
    GEMMA_2,
    LLAMA_3_1,
    MISTRAL,
    TASK_FAMILIES,
    TaskFamily,
    chat_template_of,
    task_family_of,
)
from tests.generator import models

BOS = {GEMMA_2: "<bos>", MISTRAL: "<s>", LLAMA_3_1: "<|begin_of_text|>"}
NAMES = {
    GEMMA_2: "google/gemma-2-2b-it",
    MISTRAL: "mistralai/Mistral-7B-Instruct-v0.2",
    LLAMA_3_1: "meta-llama/Llama-3.1-8B-Instruct",
}
FAMILY = pytest.mark.parametrize("family", TASK_FAMILIES)


def rendered(
    family: TaskFamily, template: str | None, messages: list[dict[str, str]], answering: bool
) -> str:
    tokenizer = models.tokenizer()
    tokenizer.bos_token, tokenizer.eos_token = BOS[family], "</s>"
    text: str = tokenizer.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=answering, tokenize=False
    )
    return text


def test_templates_render_as_the_published_ones(reference_dir: Path) -> None:
    published = json.loads((reference_dir / "chat_templates_rendered.json").read_text())
    cases: list[dict[str, Any]] = [
        case for case in published["rendered"] if case["repo"] == "text-to-lora"
    ]
    for case in cases:
        family = task_family_of(case["model"])
        assert family is not None
        messages, answering = case["messages"], case["add_generation_prompt"]
        assert rendered(family, family.template, messages, answering) == case["text"]
    assert len(cases) == 8 * len(TASK_FAMILIES)


@FAMILY
def test_without_a_system_message_a_chat_begins_as_with_an_empty_one(family: TaskFamily) -> None:
    system = {"role": "system", "content": ""}
    chat = [
        {"role": "user", "content": "A"},
        {"role": "assistant", "content": "B"},
        {"role": "user", "content": "C"},
    ]
    template = chat_template_of(NAMES[family])
    want = rendered(family, family.template, [system, *chat], True)
    assert rendered(family, template, chat, True) == want
    assert rendered(family, template, [system, *chat], True) == want
    assert want.startswith(BOS[family])
    assert want.count(BOS[family]) == 1


@FAMILY
def test_a_system_message_stays_as_it_is(family: TaskFamily) -> None:
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "A"}]
    want = rendered(family, family.template, chat, True)
    assert rendered(family, chat_template_of(NAMES[family]), chat, True) == want


def test_mistral_refuses_a_system_message_among_the_turns() -> None:
    chat = [{"role": "user", "content": "A"}, {"role": "system", "content": "B"}]
    with pytest.raises(Exception, match="a system message comes first"):
        rendered(MISTRAL, chat_template_of(NAMES[MISTRAL]), chat, True)


@pytest.mark.parametrize(
    ("name", "family"),
    [
        *((name, family) for family, name in NAMES.items()),
        ("/models/Mistral-7B-Instruct-v0.2/", MISTRAL),
        ("mistralai/Mistral-7B-Instruct-v0.3", None),
        ("Qwen/Qwen3-4B-Instruct-2507", None),
    ],
)
def test_a_base_model_is_of_the_family_that_its_name_says(
    name: str, family: TaskFamily | None
) -> None:
    assert task_family_of(name) is family
    assert (chat_template_of(name) is None) == (family is None)
