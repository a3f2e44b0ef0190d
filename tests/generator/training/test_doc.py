"""What a batch of the hypernetwork's training holds, and that training goes on from weights."""

from pathlib import Path
from random import Random

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from generator.checkpoint import load_doc
from generator.training import base, doc
from generator.training.cli import PRETRAINED
from generator.training.corpus.inventory import Split
from generator.training.dialogues import DialogueEncoder
from generator.training.doc import Study, StudyBatch, StudyBatches
from generator.training.loop import Phase

STUDY = Study(4, 2, 128, 3, 32, (1, 3), (0, 2), idle=3, company=4)
PHASES = (Phase(1.0, {"study": STUDY}),)


@pytest.fixture(scope="module")
def batches(tiny_tokenizer: PreTrainedTokenizerFast) -> list[StudyBatch]:
    encoder = DialogueEncoder(tiny_tokenizer, context_weight=0.0)
    make = StudyBatches(tiny_tokenizer, encoder, PHASES, 10, Split.TRAIN)
    return [make.batch(STUDY, Random(seed)) for seed in range(10)]


def test_a_lora_is_combined_from_a_documents_own_chunks_and_others(
    batches: list[StudyBatch],
) -> None:
    alone = 0
    for batch in batches:
        used = (batch.chunk_ids != batch.chunk_ids[0, -1]).any(dim=1)
        for g in range(STUDY.documents):
            count = int(batch.member_scale[g].sum())
            assert batch.member_scale[g].tolist() == [1.0] * count + [0.0] * (
                STUDY.chunks + STUDY.company - count
            )
            members = batch.members[g, :count].tolist()
            own = range(g * STUDY.chunks, (g + 1) * STUDY.chunks)
            present = [index for index in own if used[index]]
            assert members[: len(present)] == present
            assert not set(members[len(present) :]) & set(own)
            assert all(used[index] for index in members)
            alone += count == len(present)
    assert 0 < alone < len(batches) * STUDY.documents


def test_student_and_teacher_are_compared_at_the_same_tokens(batches: list[StudyBatch]) -> None:
    for batch in batches:
        student = batch.row_ids.flatten()[batch.student_at[batch.taught] + 1]
        teacher = batch.teacher_ids.flatten()[batch.teacher_at[batch.taught] + 1]
        assert batch.taught.any(dim=1).all()
        assert torch.equal(student, teacher)


def test_a_document_is_studied_in_its_chunks_as_the_server_cuts_it(
    batches: list[StudyBatch], tiny_tokenizer: PreTrainedTokenizerFast
) -> None:
    end = tiny_tokenizer.convert_tokens_to_ids(["<|end|>", "<|assistant|>"])
    for ids in torch.cat([batch.chunk_ids for batch in batches]).tolist():
        chunk = [token for token in ids if token != tiny_tokenizer.pad_token_id]
        assert not chunk or chunk[-2:] == end


def test_training_goes_on_from_trained_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = base.Reading(64, 2, (1, 1), (1, 1), (0, 0))
    monkeypatch.setattr(base, "PHASES", (Phase(1.0, {"reading": reading}),) * 2)
    monkeypatch.setattr(doc, "PHASES", PHASES * 3)
    with torch.compiler.set_stance("force_eager"):
        base.train_base(
            tmp_path / "base",
            tmp_path / "runs" / "base",
            steps=1,
            layers=1,
            hidden=64,
            rate=1e-4,
            matrix_rate=1e-4,
            minutes=None,
            start_from=PRETRAINED / "base",
        )
        doc.train_doc(
            tmp_path / "base",
            tmp_path / "doc",
            tmp_path / "runs" / "doc",
            steps=1,
            latent=64,
            latents=1,
            blocks=1,
            rate=1e-4,
            matrix_rate=1e-4,
            kl_weight=0.5,
            minutes=None,
            start_from=PRETRAINED / "doc",
        )
    config, trained = load_doc(tmp_path / "doc")
    before_config, before = load_doc(PRETRAINED / "doc")
    assert config.hypernetwork == before_config.hypernetwork
    assert config.base_path == str(tmp_path / "base")
    changes = [
        (new - old).abs().max().item()
        for new, old in zip(trained.parameters(), before.parameters(), strict=True)
    ]
    assert 0 < max(changes) < 0.1
    assert (tmp_path / "runs" / "doc" / "curve.png").exists()
