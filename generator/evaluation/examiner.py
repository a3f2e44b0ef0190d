"""Answers about documents under three conditions, scored whole."""

from dataclasses import dataclass
from enum import StrEnum

from generator.chunks import Chunker
from generator.document import DocumentGenerator
from generator.evaluation.greedy import GreedyMatcher
from generator.evaluation.suites import Exam


class Condition(StrEnum):
    """What the base model has to go by."""

    IN_CONTEXT = "document in context"
    ADAPTER = "adapter only"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Examiner:
    """A base model with its generator, ready to be asked."""

    matcher: GreedyMatcher
    generator: DocumentGenerator
    chunker: Chunker
    window: int

    def right(self, exam: Exam, condition: Condition) -> list[bool] | None:
        """Which questions are answered right; None where the document outgrows the window."""
        answers = [question.answer for question in exam.questions]
        alone = [self.matcher.prompt(question.text) for question in exam.questions]
        match condition:
            case Condition.IN_CONTEXT:
                prompts = [self.matcher.prompt(f"{exam.text}\n\n{q.text}") for q in exam.questions]
                longest = max(
                    len(prompt) + len(self.matcher.answer(answer))
                    for prompt, answer in zip(prompts, answers, strict=True)
                )
                return self.matcher.matches(prompts, answers) if longest <= self.window else None
            case Condition.ADAPTER:
                [lora] = self.generator.internalise([self.chunker.split(exam.text)])
                return self.matcher.matches(alone, answers, [lora])
            case Condition.NEITHER:
                return self.matcher.matches(alone, answers)
