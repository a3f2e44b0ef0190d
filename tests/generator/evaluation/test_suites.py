"""Exams have the length and the number of facts that their names promise."""

from pathlib import Path

import pytest

from generator.chunks import Chunker
from generator.evaluation import suites
from generator.training.cli import PRETRAINED
from generator.training.corpus import conversations


@pytest.fixture(scope="module")
def chunker() -> Chunker:
    return Chunker.from_folder(Path(PRETRAINED / "doc"))


@pytest.fixture(scope="module")
def chunks(chunker: Chunker) -> suites.Count:
    return lambda text: len(chunker.split(text))


@pytest.fixture(scope="module")
def tokens(chunker: Chunker) -> suites.Count:
    return lambda text: sum(map(len, chunker.split(text)))


@pytest.mark.parametrize("facts", [1, 4])
def test_a_document_of_one_chunk_states_its_facts_and_leaves_one_question_open(
    facts: int, chunks: suites.Count
) -> None:
    suite = suites.by_facts(facts, 10, chunks, seed=0)
    for exam in suite.exams:
        assert chunks(exam.text) == 1
        assert sum(question.kind is not None for question in exam.questions) == facts
        [open_question] = [question for question in exam.questions if question.kind is None]
        assert open_question.answer == conversations.UNKNOWN


@pytest.mark.parametrize("limit", [None, 400])
@pytest.mark.parametrize("number", [2, 4])
def test_a_longer_document_needs_exactly_its_chunks(
    number: int, limit: int | None, chunks: suites.Count, tokens: suites.Count
) -> None:
    suite = suites.by_chunks(number, 5, chunks, tokens, limit, seed=0)
    assert {chunks(exam.text) for exam in suite.exams} == {number}
    assert limit is None or max(tokens(exam.text) for exam in suite.exams) <= limit


def test_a_needle_stands_in_its_haystack_somewhere(tokens: suites.Count) -> None:
    suite = suites.needles(400, 5, tokens, "needle", seed=0)
    for exam in suite.exams:
        assert 300 <= tokens(exam.text) <= 420
        [question] = exam.questions
        assert question.kind is not None


def test_the_same_seed_gives_the_same_exams(chunks: suites.Count) -> None:
    first = suites.by_facts(2, 5, chunks, seed=3)
    assert first == suites.by_facts(2, 5, chunks, seed=3)
    assert first != suites.by_facts(2, 5, chunks, seed=4)
