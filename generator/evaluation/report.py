"""The tables of ``doclora eval``: exact match by sort of document and by kind of value."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from generator.evaluation.examiner import Condition, Examiner
from generator.evaluation.suites import Suite
from generator.training.corpus.values import Kind

LEFT_OPEN = "declined when not in the document"


@dataclass(slots=True)
class Tally:
    """Right answers and answers asked for."""

    right: int = 0
    asked: int = 0

    def count(self, matches: Iterable[bool]) -> None:
        for match in matches:
            self.right += match
            self.asked += 1

    @property
    def share(self) -> float | None:
        return self.right / self.asked if self.asked else None

    def relative_to(self, most: "Tally") -> float | None:
        """The share as a share of another; None where one of them is not there, or nothing."""
        return None if self.share is None or not most.share else self.share / most.share

    def as_json(self) -> dict[str, Any]:
        """The share, with the number of questions that it rests on."""
        return {"exact_match": self.share and round(self.share, 4), "questions": self.asked}


@dataclass(slots=True)
class Result:
    """One suite's tallies; ``by_kind`` splits the stated facts by kind of value."""

    name: str
    documents: int
    stated: dict[Condition, Tally] = field(default_factory=lambda: defaultdict(Tally))
    left_open: dict[Condition, Tally] = field(default_factory=lambda: defaultdict(Tally))
    by_kind: dict[Kind, dict[Condition, Tally]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(Tally))
    )

    def as_json(self) -> dict[str, Any]:
        """Shares, with the number of questions they rest on."""

        def shares(tallies: dict[Condition, Tally]) -> dict[str, Any]:
            return {
                condition: tally.as_json() for condition, tally in tallies.items() if tally.asked
            }

        return {
            "suite": self.name,
            "documents": self.documents,
            "stated": shares(self.stated),
            LEFT_OPEN: shares(self.left_open),
            "by_kind": {kind: shares(tallies) for kind, tallies in sorted(self.by_kind.items())},
        }


def examine(examiner: Examiner, suite: Suite) -> Result:
    """Asks every question of the suite under every condition."""
    result = Result(suite.name, len(suite.exams))
    for exam in suite.exams:
        for condition in Condition:
            matches = examiner.right(exam, condition)
            if matches is None:
                continue
            for question, match in zip(exam.questions, matches, strict=True):
                if question.kind is None:
                    result.left_open[condition].count([match])
                else:
                    result.stated[condition].count([match])
                    result.by_kind[question.kind][condition].count([match])
    return result


def relative(tallies: dict[Condition, Tally]) -> float | None:
    """The adapter's exact match as a share of what reading the document gives."""
    return tallies[Condition.ADAPTER].relative_to(tallies[Condition.IN_CONTEXT])


def suites_table(results: Iterable[Result]) -> Table:
    """One row a suite."""
    table = Table(title="Exact match on held-out documents", title_justify="left")
    table.add_column("documents")
    table.add_column("in context", justify="right")
    table.add_column("adapter only", justify="right")
    table.add_column("relative", justify="right")
    table.add_column("neither", justify="right")
    table.add_column("declines, adapter", justify="right")
    for result in results:
        table.add_row(
            f"{result.name} (n={result.documents})",
            figure(result.stated[Condition.IN_CONTEXT].share),
            figure(result.stated[Condition.ADAPTER].share),
            figure(relative(result.stated)),
            figure(result.stated[Condition.NEITHER].share),
            figure(result.left_open[Condition.ADAPTER].share),
        )
    return table


def kinds_table(result: Result) -> Table:
    """One row a kind of value, for one suite."""
    table = Table(title=f"By kind of value: {result.name}", title_justify="left")
    table.add_column("kind")
    table.add_column("questions", justify="right")
    table.add_column("in context", justify="right")
    table.add_column("adapter only", justify="right")
    table.add_column("relative", justify="right")
    for kind in Kind:
        tallies = result.by_kind[kind]
        table.add_row(
            kind,
            str(tallies[Condition.ADAPTER].asked),
            figure(tallies[Condition.IN_CONTEXT].share),
            figure(tallies[Condition.ADAPTER].share),
            figure(relative(tallies)),
        )
    return table


def figure(share: float | None) -> str:
    """A share in a table."""
    return "-" if share is None else f"{share:.2f}"
