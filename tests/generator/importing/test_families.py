"""The prompts that Doc-to-LoRA was published with."""

import json
from pathlib import Path
from typing import Any

import pytest

from generator.importing.families import FAMILIES, GEMMA_2, MISTRAL, QWEN_3, Family, family_of
from tests.generator import models


def rendered(family: Family, messages: list[dict[str, str]], *, answering: bool = True) -> str:
    tokenizer = models.tokenizer()
    tokenizer.bos_token = "<bos>" if family is GEMMA_2 else "<s>"
    tokenizer.eos_token = "</s>"
    text: str = tokenizer.apply_chat_template(
        messages,
        chat_template=family.prompt.chat_template,
        add_generation_prompt=answering,
        tokenize=False,
    )
    return text


@pytest.mark.parametrize(
    ("family", "text"),
    [
        (GEMMA_2, "<bos><start_of_turn>user\n\n\nA.<end_of_turn>\n<start_of_turn>model\n"),
        (MISTRAL, "<s> [INST] \n\nA. [/INST] "),
        (
            QWEN_3,
            "<|im_start|>system\n<|im_end|>\n<|im_start|>user\nA.<|im_end|>\n"
            "<|im_start|>assistant\n",
        ),
    ],
)
def test_a_document_comes_behind_an_empty_system_message(family: Family, text: str) -> None:
    document = [{"role": "system", "content": ""}, {"role": "user", "content": "A."}]
    assert rendered(family, document) == text


def test_mistral_refuses_turns_out_of_order() -> None:
    with pytest.raises(Exception, match="must take turns"):
        rendered(MISTRAL, [{"role": "user", "content": "A"}, {"role": "user", "content": "B"}])


def test_templates_render_as_the_published_ones(reference_dir: Path) -> None:
    published = json.loads((reference_dir / "chat_templates_rendered.json").read_text())
    cases: list[dict[str, Any]] = [
        case for case in published["rendered"] if case["repo"] == "doc-to-lora"
    ]
    for case in cases:
        family = family_of(case["model"])
        assert family is not None
        text = rendered(family, case["messages"], answering=case["add_generation_prompt"])
        assert text == case["text"]
    assert len(cases) == 8 * len(FAMILIES)


def test_affixes_are_the_published_ones(reference_dir: Path) -> None:
    published = json.loads((reference_dir / "d2l_chunking.json").read_text())["affixes"]
    assert len(published) == len(FAMILIES)
    for name, affixes in published.items():
        family = family_of(name)
        assert family is not None
        assert list(family.prompt.context_prefix_ids) == affixes["prefix"]
        assert list(family.prompt.context_suffix_ids) == affixes["suffix"]


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("google/gemma-2-2b-it", GEMMA_2),
        ("/models/gemma-2-2b-it/", GEMMA_2),
        ("mistralai/Mistral-7B-Instruct-v0.2", MISTRAL),
        ("mistralai/Mistral-7B-Instruct-v0.3", None),
        ("Qwen/Qwen3-4B-Instruct-2507", QWEN_3),
        ("google/gemma-3-4b-it", None),
        ("", None),
    ],
)
def test_a_base_model_is_of_the_family_that_its_name_says(name: str, family: Family | None) -> None:
    assert family_of(name) is family
