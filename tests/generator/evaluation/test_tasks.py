"""The examination of tasks, on the embedded generators."""

import pytest
import torch

from generator.evaluation.loading import load_task_examiner
from generator.evaluation.tasks import (
    TaskCondition,
    TaskExam,
    TaskExaminer,
    examine_tasks,
    task_exams,
    tasks_table,
)
from generator.training.cli import PRETRAINED
from generator.training.corpus.inventory import Split


@pytest.fixture(scope="module")
def examiner() -> TaskExaminer:
    return load_task_examiner(PRETRAINED / "text", PRETRAINED / "doc")


@pytest.fixture(scope="module")
def exams(examiner: TaskExaminer) -> list[TaskExam]:
    return task_exams(Split.TRAIN, 1, examiner.chunker, seed=3)


def test_an_exam_is_of_a_held_out_phrasing_and_asks_for_its_form(exams: list[TaskExam]) -> None:
    assert len({exam.task.name for exam in exams}) == len(exams) > 70
    for exam in exams:
        assert exam.description in exam.task.wordings(Split.HELD_OUT)
        assert exam.description not in exam.task.wordings(Split.TRAIN)
        assert 1 <= len(exam.questions) <= 2


def test_what_counts_as_right_is_what_greedy_decoding_writes(
    examiner: TaskExaminer, exams: list[TaskExam]
) -> None:
    some = [exam for exam in exams if exam.task.family in ("opening", "wrapper")][:4]
    written = []
    for exam in some:
        written.append([])
        for question in exam.questions:
            prompt = examiner.matcher.prompt(f"{exam.document}\n\n{question.text}")
            made = examiner.matcher.base.generate(torch.tensor([prompt]), max_new_tokens=16)
            text = examiner.matcher.tokenizer.decode(made[0, len(prompt) :]).split("<|end|>")[0]
            written[-1].append(text == question.plain)
    assert examiner.right(some, TaskCondition.READ) == written
    assert any(any(row) for row in written)


def test_task_adapters_change_the_form_and_compose_with_documents(
    examiner: TaskExaminer, exams: list[TaskExam]
) -> None:
    plain_families = ("opening", "closing", "wrapper", "ending")
    some = [
        exam
        for family in plain_families
        for exam in [exam for exam in exams if exam.task.family == family][:6]
    ]
    result = examine_tasks(examiner, "known tasks", some)
    share = {condition: tally.share for condition, tally in result.overall.items()}
    assert share[TaskCondition.ADAPTER] > 0.7
    assert share[TaskCondition.COMPOSED] > 0.6
    assert share[TaskCondition.UNTOLD] < 0.1
    assert result.as_json()["descriptions"] == len(some)
    assert tasks_table([result]).row_count == 1 + len(plain_families)
