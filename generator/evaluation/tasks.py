"""Examination of a Text-to-LoRA generator: are questions answered in the form that it was told?

The phrasings of the descriptions are held out, and of some tasks every phrasing is; so are the
documents and the wordings of questions, but for one suite that tells both difficulties apart.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

from rich.table import Table

from generator.chunks import Chunker
from generator.description import DescriptionReader, TextGenerator
from generator.document import DocumentGenerator
from generator.evaluation.greedy import GreedyMatcher
from generator.evaluation.report import Tally, figure
from generator.lora import LoraWeights, compose
from generator.training.corpus import documents
from generator.training.corpus.inventory import Split
from generator.training.corpus.tasks import TASKS, Task

QUESTIONS = 2  # about one document, at the most
EXAMS_AT_ONCE = 24
FACTS = (2, 4)  # of a document


class TaskCondition(StrEnum):
    """What the base model has to go by, and what is asked of it."""

    ADAPTER = "task adapter, document in context"
    COMPOSED = "task and document adapters, composed"
    TOLD = "description and document in context"
    UNTOLD = "document in context"
    # the plain answer, without any task: what the others cannot surpass
    READ = "plain answer, document in context"
    RECALLED = "plain answer, document adapter"


C = TaskCondition
WITHOUT_DOCUMENT = frozenset({C.COMPOSED, C.RECALLED})  # in the prompt
WITH_TASK_ADAPTER = frozenset({C.ADAPTER, C.COMPOSED})
PLAIN = frozenset({C.READ, C.RECALLED})


@dataclass(frozen=True, slots=True)
class TaskQuestion:
    """A question about a document with its plain answer and the one in the asked form."""

    text: str
    plain: str
    asked_form: str


@dataclass(frozen=True, slots=True)
class TaskExam:
    """A task in one of its phrasings, a document and questions about it."""

    task: Task
    description: str
    document: str
    questions: tuple[TaskQuestion, ...]


@dataclass(frozen=True, slots=True)
class TaskExaminer:
    """A base model with a generator for tasks and one for documents, ready to be asked."""

    matcher: GreedyMatcher
    generator: TextGenerator
    reader: DescriptionReader
    document_generator: DocumentGenerator
    chunker: Chunker

    def right(self, exams: Sequence[TaskExam], condition: TaskCondition) -> list[list[bool]]:
        """Which questions of each exam are answered right and in the asked form."""
        # an exam of fewer questions repeats them: each adapter gets as many rows
        rows = [
            (exam, exam.questions[k % len(exam.questions)])
            for exam in exams
            for k in range(QUESTIONS)
        ]
        matches = self.matcher.matches(
            [self._prompt(exam, question, condition) for exam, question in rows],
            [q.plain if condition in PLAIN else q.asked_form for _, q in rows],
            self._adapters(exams, condition),
        )
        return [
            matches[QUESTIONS * index :][: len(exam.questions)] for index, exam in enumerate(exams)
        ]

    def _prompt(
        self, exam: TaskExam, question: TaskQuestion, condition: TaskCondition
    ) -> list[int]:
        if condition in WITHOUT_DOCUMENT:
            return self.matcher.prompt(question.text)
        told = exam.description if condition is C.TOLD else ""
        return self.matcher.prompt(f"{exam.document}\n\n{question.text}", system=told)

    def _adapters(
        self, exams: Sequence[TaskExam], condition: TaskCondition
    ) -> Sequence[LoraWeights]:
        adapters: list[list[LoraWeights]] = []
        if condition in WITH_TASK_ADAPTER:
            described = [self.reader.split(exam.description)[0] for exam in exams]
            adapters.append(self.generator.generate(described))
        if condition in WITHOUT_DOCUMENT:
            chunks = [self.chunker.split(exam.document)[0] for exam in exams]
            made = self.document_generator.generate(chunks)
            adapters.append([self.document_generator.combine([chunk]) for chunk in made])
        return [
            compose([(lora, 1.0) for lora in together]) for together in zip(*adapters, strict=True)
        ]


def task_exams(
    split: Split, phrasings: int, chunker: Chunker, seed: int, about: Split = Split.HELD_OUT
) -> list[TaskExam]:
    """``phrasings`` exams of each task of the split, about documents of one chunk, whose words and
    wordings are of the split ``about``."""
    rng = Random(f"tasks {split} {seed}")
    return [
        _exam(task, description, about, chunker, rng)
        for task in TASKS
        if task.split is split
        for description in rng.sample(task.wordings(Split.HELD_OUT), phrasings)
    ]


def _exam(task: Task, description: str, about: Split, chunker: Chunker, rng: Random) -> TaskExam:
    while True:
        document = documents.document(
            rng, about, facts=rng.randint(*FACTS), fillers=rng.randint(0, 2)
        )
        questions = [
            TaskQuestion(fact.question, fact.value, answer)
            for fact in document.facts
            if (answer := task.answer(fact)) is not None
        ]
        if questions and len(chunker.split(document.text)) == 1:
            rng.shuffle(questions)
            chosen = questions[:QUESTIONS]
            return TaskExam(task, description, document.text, tuple(chosen))


@dataclass(slots=True)
class TaskResult:
    """Tallies of the exams of known or of unseen tasks."""

    name: str
    tasks: int
    exams: int
    overall: dict[TaskCondition, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_family: dict[str, dict[TaskCondition, Tally]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Tally))
    )

    def as_json(self) -> dict[str, Any]:
        """Shares, with the number of questions they rest on."""

        def shares(tallies: dict[TaskCondition, Tally]) -> dict[str, Any]:
            return {condition: tally.as_json() for condition, tally in tallies.items()}

        return {
            "suite": self.name,
            "tasks": self.tasks,
            "descriptions": self.exams,
            "overall": shares(self.overall),
            "by_family": {name: shares(tallies) for name, tallies in self.by_family.items()},
        }


def examine_tasks(examiner: TaskExaminer, name: str, exams: Sequence[TaskExam]) -> TaskResult:
    """Asks every question of the exams under every condition."""
    result = TaskResult(name, len({exam.task.name for exam in exams}), len(exams))
    for start in range(0, len(exams), EXAMS_AT_ONCE):
        some = exams[start : start + EXAMS_AT_ONCE]
        for condition in TaskCondition:
            for exam, matches in zip(some, examiner.right(some, condition), strict=True):
                result.overall[condition].count(matches)
                result.by_family[exam.task.family][condition].count(matches)
    return result


def tasks_table(results: Iterable[TaskResult]) -> Table:
    """One row for all tasks of a result, and one for each of its families."""
    table = Table(
        box=None,
        pad_edge=False,
        title="Right answer in the asked form",
        title_justify="left",
        caption="; ".join(f"{condition.name.lower()}: {condition}" for condition in TaskCondition)
        + "; rel.: adapter to read, composed to recalled",
        caption_justify="left",
    )
    table.add_column("tasks", no_wrap=True)
    conditions = [condition.name.lower() for condition in TaskCondition]
    for name in ("asked", *conditions, "rel.", "rel."):
        table.add_column(name, justify="right")
    for result in results:
        _add_row(table, f"{result.name} ({result.tasks})", result.overall)
        for family, tallies in sorted(result.by_family.items()):
            _add_row(table, f"  {family}", tallies)
    return table


def _add_row(table: Table, name: str, tallies: dict[TaskCondition, Tally]) -> None:
    table.add_row(
        name,
        str(tallies[C.ADAPTER].asked),
        *(figure(tallies[condition].share) for condition in TaskCondition),
        figure(tallies[C.ADAPTER].relative_to(tallies[C.READ])),
        figure(tallies[C.COMPOSED].relative_to(tallies[C.RECALLED])),
    )
