"""What a batch of the text hypernetwork's training holds, and that a run leaves a generator."""

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from generator.chunks import Chunker
from generator.description import DescriptionReader, TextGenerator
from generator.training import text
from generator.training.cli import PRETRAINED
from generator.training.corpus.conversations import UNKNOWN
from generator.training.corpus.inventory import Split
from generator.training.corpus.tasks import TASKS
from generator.training.dialogues import DialogueEncoder
from generator.training.loop import Phase
from generator.training.text import (
    DescriptionBank,
    Practice,
    PracticeBatch,
    PracticeBatches,
    train_text,
)

READ = Practice(3, 2, 144, (1, 3), (0, 1))
STUDIED = Practice(3, 2, 48, (1, 3), (0, 1), chunk=128)
PHASES = (Phase(1.0, {"practices": (READ, STUDIED)}),)


@pytest.fixture(scope="module")
def batches(tiny_tokenizer: PreTrainedTokenizerFast) -> PracticeBatches:
    shout = [task for task in TASKS if task.name == "upper case and exclamation mark"]
    return PracticeBatches(
        DescriptionBank(shout, Split.HELD_OUT),
        DialogueEncoder(tiny_tokenizer, context_weight=0.0),
        Chunker.from_folder(PRETRAINED / "doc"),
        tiny_tokenizer.pad_token_id,
        PHASES,
        10,
        Split.TRAIN,
    )


def answers(batch: PracticeBatch, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [
        tokenizer.decode(ids[weights == 1][:-1])
        for ids, weights in zip(batch.row_ids, batch.row_weights, strict=True)
    ]


@pytest.mark.parametrize("practice", [READ, STUDIED])
def test_answers_are_in_the_form_that_the_task_asks_for(
    batches: PracticeBatches, tiny_tokenizer: PreTrainedTokenizerFast, practice: Practice
) -> None:
    found = [
        answer
        for seed in range(30)
        for answer in answers(batches.batch(practice, Random(seed)), tiny_tokenizer)
    ]
    asked = [answer for answer in found if answer.endswith("!")]
    assert all(answer == answer.upper() for answer in asked)
    assert 0.75 < len(asked) / len(found) < 0.97
    assert UNKNOWN in found


def test_a_document_is_read_or_studied_but_not_both(
    batches: PracticeBatches, tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    read, studied = batches(0), batches(1)
    assert read.chunk_ids is None and studied.chunk_ids is not None
    assert read.row_ids.shape == (6, 144) and studied.row_ids.shape == (6, 48)
    assert studied.chunk_ids.shape == (3, 128)
    end = tiny_tokenizer.convert_tokens_to_ids(["<|end|>", "<|assistant|>"])
    for ids in studied.chunk_ids.tolist():
        assert [token for token in ids if token != tiny_tokenizer.pad_token_id][-2:] == end


def test_the_bank_draws_a_tasks_own_phrasings() -> None:
    bank = DescriptionBank(TASKS[:5], Split.TRAIN)
    rng = Random(0)
    for _ in range(200):
        task, indices = bank.draw(rng)
        assert {bank.texts[index] for index in indices} <= set(task.wordings(Split.TRAIN))


def test_a_run_leaves_a_generator_that_reads_descriptions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Practice(2, 1, 96, (1, 1), (0, 0))
    studied = Practice(2, 1, 48, (1, 1), (0, 0), chunk=64)
    monkeypatch.setattr(text, "PHASES", (Phase(1.0, {"practices": (read, studied)}),))
    monkeypatch.setattr(text, "READ", read)
    monkeypatch.setattr(text, "STUDIED", studied)
    monkeypatch.setattr(text, "TASKS", (TASKS[0], TASKS[4]))  # one known, one unseen
    assert [task.split for task in text.TASKS] == [Split.TRAIN, Split.HELD_OUT]
    with torch.compiler.set_stance("force_eager"):
        train_text(
            PRETRAINED / "base",
            PRETRAINED / "doc",
            tmp_path / "text",
            tmp_path / "run",
            steps=2,
            modules=["down_proj"],
            latent=64,
            head=16,
            rate=1e-3,
            matrix_rate=1e-3,
            encoder="base",
            minutes=None,
            start_from=None,
        )
    generator = TextGenerator.load(tmp_path / "text", device="cpu")
    assert generator.config.description_encoder is None
    [lora] = generator.generate(DescriptionReader.from_folder(tmp_path / "text").split("Shout"))
    assert lora.rank == 8 and list(lora.A) == ["down_proj"] and lora.norm > 0
    logged = (tmp_path / "run" / "log.jsonl").read_text()
    assert "known tasks, read" in logged and "unseen tasks, studied" in logged
