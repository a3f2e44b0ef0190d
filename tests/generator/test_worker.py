"""What the child process answers, without the process around it."""

import errno
import io
import json
import os
import queue
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from generator.document import DocumentGenerator
from generator.lora import LoraWeights
from generator.worker import Message, Worker
from tests.generator.models import VOCABULARY, generator_folder

GOOD = [[1, 2, 3], [4, 5]]


class Child:
    """A worker, its inbox and what it has answered."""

    def __init__(self, generator: DocumentGenerator, max_norm: float) -> None:
        self.inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.written = io.BytesIO()
        self.worker = Worker(
            generator,
            self.inbox,
            self.written,
            base_name="tiny-base",
            max_batch_tokens=64,
            max_norm=max_norm,
        )

    def ask(self, job: int, chunks: list[list[int]], out: Path) -> None:
        self.inbox.put({"op": "generate", "job": job, "chunks": chunks, "out": str(out)})

    def outcomes(self) -> dict[int, dict[str, Any]]:
        """The final answer to each job."""
        answers = [json.loads(line) for line in self.written.getvalue().splitlines()]
        return {answer["job"]: answer for answer in answers if answer["event"] != "progress"}


@pytest.fixture
def generator(tmp_path: Path) -> DocumentGenerator:
    return DocumentGenerator.load(generator_folder(tmp_path), device="cpu")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_weights_above_the_norm_are_refused_and_not_written(
    generator: DocumentGenerator, out: Path
) -> None:
    child = Child(generator, max_norm=1e-6)
    child.ask(1, GOOD, out)
    child.worker.step()
    assert child.outcomes()[1]["code"] == "weights_too_large"
    assert "down_proj in layer" in child.outcomes()[1]["message"]
    assert list(out.iterdir()) == []


def test_weights_that_are_not_finite_are_refused_and_not_written(
    generator: DocumentGenerator, out: Path
) -> None:
    for name, parameter in generator._hypernetwork.named_parameters():
        if name.startswith("scaler_A"):
            parameter.fill_(torch.inf)
    child = Child(generator, max_norm=1000)
    child.ask(1, GOOD, out)
    child.worker.step()
    assert child.outcomes()[1]["code"] == "weights_not_finite"
    assert list(out.iterdir()) == []


def test_of_documents_in_one_batch_only_the_one_at_fault_fails(
    generator: DocumentGenerator, out: Path, tmp_path: Path
) -> None:
    child = Child(generator, max_norm=1000)
    child.ask(1, GOOD, out)
    child.ask(2, [[1], [VOCABULARY + 5]], tmp_path)
    child.worker.step()
    outcomes = child.outcomes()
    assert outcomes[1]["event"] == "done"
    assert outcomes[2]["event"] == "refused"
    assert outcomes[2]["code"] == "generation_failed"
    assert f"token IDs from {VOCABULARY + 5}" in outcomes[2]["message"]


def test_weights_that_the_disk_does_not_take_are_a_fault_of_the_storage(
    generator: DocumentGenerator, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(generator, max_norm=1000)
    child.ask(1, GOOD, out / "nowhere")
    child.worker.step()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "adapter_config.json"))
    monkeypatch.setattr(LoraWeights, "save", mock.Mock(side_effect=full))
    child.ask(2, GOOD, out)
    child.worker.step()
    for job, says in ((1, "No such file"), (2, "No space left")):
        outcome = child.outcomes()[job]
        assert outcome["code"] == "storage_failed"
        assert outcome["message"] == "its weights could not be stored"
        assert says in outcome["details"]
        assert str(out) in outcome["details"]


def test_of_a_defect_the_caller_hears_a_sentence_and_the_log_all(
    generator: DocumentGenerator, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = Child(generator, max_norm=1000)
    for job, step in enumerate(("generate", "combine")):
        with monkeypatch.context() as broken:
            broken.setattr(generator, step, mock.Mock(side_effect=RuntimeError("at /srv/secret")))
            child.ask(job, GOOD, out)
            child.worker.step()
        outcome = child.outcomes()[job]
        assert outcome["code"] == "generation_failed"
        assert outcome["message"] == "the generator failed on it; the log says why"
        assert outcome["details"].startswith("Traceback")
        assert "RuntimeError: at /srv/secret" in outcome["details"]


def test_a_cancelled_document_is_dropped_and_its_neighbours_are_made(
    generator: DocumentGenerator, out: Path, tmp_path: Path
) -> None:
    child = Child(generator, max_norm=1000)
    child.ask(1, GOOD * 100, tmp_path / "never")
    child.inbox.put({"op": "cancel", "job": 1})
    child.ask(2, GOOD, out)
    child.worker.step()
    assert {job: answer["event"] for job, answer in child.outcomes().items()} == {
        1: "cancelled",
        2: "done",
    }
    assert not (tmp_path / "never").exists()
