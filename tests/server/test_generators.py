"""Which generators one server can run, and what they ask of the engine together."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from generator import checkpoint
from generator.config import GeneratorConfig, read_config
from generator.process import GeneratorProcess
from server.generators import (
    ServedGenerator,
    chat_template,
    read_configs,
    splitter_of,
)
from server.listening import CannotServe
from tests.generator import models

DOC, TEXT = "doc", "text"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator of each kind, of the same base model."""
    root = tmp_path_factory.mktemp("generators")
    models.generator_folder(root)
    models.text_generator_folder(root)
    return root


def changed(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a generator with another configuration, not of the hypernetwork's own."""
    load = checkpoint.load_doc if folder.name == DOC else checkpoint.load_text
    config, hypernetwork = load(folder)
    checkpoint.save(to, config.model_copy(update=changes), hypernetwork)
    return to


def text_generator(folder: Path, base: Path, **changes: Any) -> Path:
    return models.text_generator_folder(folder, base, **changes)


def refusal(*folders: Path, model: str | None = None) -> str:
    with pytest.raises(CannotServe) as refused:
        read_configs(folders, model)
    return str(refused.value)


def test_one_of_each_kind_goes_together_in_any_order(root: Path) -> None:
    kinds = [config.kind for config in read_configs([root / TEXT, root / DOC], None)]
    assert kinds == ["text-to-lora", "doc-to-lora"]


@pytest.mark.parametrize("kind", [DOC, TEXT])
def test_two_of_a_kind_are_refused(root: Path, tmp_path: Path, kind: str) -> None:
    other = changed(root / kind, tmp_path / "other", base_model=str(root / "base"))
    told = refusal(root / kind, other)
    assert told == (
        f"the generators in {root / kind} and {other} are both {kind}-to-lora: "
        "a server runs one of each kind"
    )
    assert "are both" in refusal(root / kind, root / kind)


def test_generators_of_different_base_models_are_refused_unless_the_model_is_named(
    root: Path, tmp_path: Path
) -> None:
    models.base_model().save_pretrained(tmp_path / "base")
    other = text_generator(tmp_path, tmp_path / "base")
    told = refusal(root / DOC, other)
    for clue in (root / DOC, other, root / "base", tmp_path / "base", "--model"):
        assert str(clue) in told
    assert len(read_configs([root / DOC, other], str(root / "base"))) == 2


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"layers": 4}, "are for base models of 3 and 4 layers"),
        (
            {"modules": {"down_proj": (24, 8)}},
            "are for base models whose down_proj has widths (24, 16) and (24, 8)",
        ),
    ],
)
def test_generators_of_base_models_of_different_shapes_are_refused(
    root: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    other = text_generator(tmp_path, root / "base", **changes)
    told = refusal(root / DOC, other, model=str(root / "base"))
    assert told == f"the generators in {root / DOC} and {other} {says}"


def test_adapters_of_a_higher_rank_than_vllm_takes_are_told(root: Path, tmp_path: Path) -> None:
    fits = changed(root / DOC, tmp_path / "fits", max_chunks=255)  # with the bias 256 of rank 2
    assert read_configs([fits], None)[0].max_rank == 512
    doc = changed(root / DOC, tmp_path / "doc", max_chunks=256)
    assert refusal(doc) == (
        "the generator tiny makes adapters up to rank 514 (256 chunks); "
        "vLLM takes up to 512: lower its max_chunks"
    )
    text = text_generator(tmp_path, root / "base", rank=513)
    assert refusal(root / DOC, text) == (
        "the generator tiny-text makes adapters of rank 513; vLLM takes up to 512"
    )


def with_templates(root: Path, doc: str | None, text: str | None) -> list[GeneratorConfig]:
    first, second = read_config(root / DOC), read_config(root / TEXT)
    prompt = replace(first.prompt, chat_template=doc)
    return [
        first.model_copy(update={"prompt": prompt}),
        second.model_copy(update={"chat_template": text}),
    ]


@pytest.mark.parametrize(
    ("doc", "text", "served", "warns"),
    [
        (None, None, None, None),
        ("A", "A", "A", None),
        ("A", "B", "A", "tiny; adapters of tiny-text, which was made with its own"),
        ("A", None, "A", "tiny; adapters of tiny-text, which was made with the base model's own"),
        (None, "B", "B", "tiny-text; adapters of tiny, which was made with the base model's own"),
    ],
)
def test_chats_have_the_template_of_the_first_generator_that_has_one(
    root: Path,
    caplog: pytest.LogCaptureFixture,
    doc: str | None,
    text: str | None,
    served: str | None,
    warns: str | None,
) -> None:
    caplog.set_level(logging.WARNING, "server.generators")
    assert chat_template(with_templates(root, doc, text)) == served
    assert [warns] * bool(warns) == [warns for told in caplog.messages if warns in told]
    assert len(caplog.messages) == bool(warns)


@pytest.mark.anyio
async def test_a_generator_that_does_not_start_is_named(root: Path, tmp_path: Path) -> None:
    generator = ServedGenerator(
        "tiny@0123", splitter_of(root / TEXT, read_config(root / TEXT)), GeneratorProcess(tmp_path)
    )
    with pytest.raises(
        CannotServe, match=r"the generator tiny@0123 does not start: .*no generator"
    ):
        await generator.start()
