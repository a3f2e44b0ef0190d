"""Held-out documents to examine a generator with: names, values and wordings training never saw."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from generator.training.corpus import conversations, documents
from generator.training.corpus.documents import Document
from generator.training.corpus.inventory import Split
from generator.training.corpus.values import Kind


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the one right answer; ``kind`` is None where the document leaves it open."""

    text: str
    answer: str
    kind: Kind | None


@dataclass(frozen=True, slots=True)
class Exam:
    """A document and the questions about it."""

    text: str
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Suite:
    """Exams of one sort, a row of the report."""

    name: str
    exams: tuple[Exam, ...]


Count = Callable[[str], int]  # chunks or tokens of a text


def by_facts(facts: int, count: int, chunks: Count, seed: int) -> Suite:
    """Documents of one chunk with so many facts, and one question for each that stays open."""
    rng = Random(f"facts {facts} {seed}")
    exams: list[Exam] = []
    while len(exams) < count:
        subjects = rng.randint(1, max(1, facts // 2))
        document = documents.document(
            rng, Split.HELD_OUT, facts=facts, subjects=subjects, fillers=rng.randint(0, 2)
        )
        if chunks(document.text) == 1:
            exams.append(_exam(document, rng))
    return Suite(f"{facts} {'fact' if facts == 1 else 'facts'}, 1 chunk", tuple(exams))


def by_chunks(
    number: int, count: int, chunks: Count, tokens: Count, limit: int | None, seed: int
) -> Suite:
    """Documents of exactly ``number`` chunks, about four facts in each.

    ``limit`` caps the tokens of the whole document, so that the base can read it.
    """
    rng = Random(f"chunks {number} {seed}")
    exams: list[Exam] = []
    while len(exams) < count:
        document = documents.document(
            rng,
            Split.HELD_OUT,
            facts=rng.randint(3 * number, 5 * number),
            subjects=rng.randint(number, 2 * number),
            fillers=rng.randint(number, 3 * number),
        )
        readable = limit is None or tokens(document.text) <= limit
        if readable and chunks(document.text) == number:
            exams.append(_exam(document, rng))
    return Suite(f"{number} chunks, about {4 * number} facts", tuple(exams))


def needles(length: int, count: int, tokens: Count, name: str, seed: int) -> Suite:
    """One fact at a random place in ``length`` tokens of text that says nothing else."""
    rng = Random(f"needle {length} {seed}")
    return Suite(name, tuple(_needle(length, tokens, rng) for _ in range(count)))


def _exam(document: Document, rng: Random) -> Exam:
    stated = [Question(fact.question, fact.value, fact.kind) for fact in document.facts]
    left_open = Question(
        documents.unanswerable(document, rng, Split.HELD_OUT), conversations.UNKNOWN, None
    )
    return Exam(document.text, (*stated, left_open))


def _needle(length: int, tokens: Count, rng: Random) -> Exam:
    needle = documents.document(rng, Split.HELD_OUT, facts=1)
    paragraphs: list[str] = []
    left = length - tokens(needle.text)
    while True:
        paragraph = documents.filler_paragraph(rng, Split.HELD_OUT, rng.randint(3, 6))
        left -= tokens(paragraph) + 1
        if left < 0:
            break
        paragraphs.append(paragraph)
    paragraphs.insert(rng.randint(0, len(paragraphs)), needle.text)
    fact = needle.facts[0]
    return Exam("\n\n".join(paragraphs), (Question(fact.question, fact.value, fact.kind),))


def asked(suites: Sequence[Suite]) -> int:
    """Questions in all."""
    return sum(len(exam.questions) for suite in suites for exam in suite.exams)
