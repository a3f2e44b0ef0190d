"""Token rows for training: chats in the base model's format, with the answers marked.

A row is ``(ids, weights)``: weight 1 on the tokens of answers, a small one elsewhere.
"""

from collections.abc import Callable, Iterable, Sequence
from random import Random

from transformers import PreTrainedTokenizerFast

from generator.training.corpus import conversations, documents
from generator.training.corpus.documents import Document
from generator.training.corpus.facts import Fact
from generator.training.corpus.inventory import Split
from generator.training.corpus.tasks import TASKS, Task
from generator.training.tokenizer import ASSISTANT, END, SYSTEM, USER

Row = tuple[list[int], list[float]]
Turn = tuple[str, str]


class DialogueEncoder:
    """Encodes chats as the tokenizer's chat template renders them."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, context_weight: float) -> None:
        self._encode: Callable[[str], list[int]] = lambda text: tokenizer.encode(
            text, add_special_tokens=False
        )
        self._context_weight = context_weight
        self._system, self._user, self._assistant, self._end = tokenizer.convert_tokens_to_ids(
            [SYSTEM, USER, ASSISTANT, END]
        )

    def chat(self, turns: Iterable[Turn], system: str = "") -> Row:
        """The whole chat; turns are (what the user says, what the assistant answers)."""
        ids: list[int] = []
        weights: list[float] = []
        if system:
            ids += [self._system, *self._encode(system), self._end]
        weights += [self._context_weight] * len(ids)
        for question, answer in turns:
            asked = self.question(question)
            answered = [*self._encode(answer), self._end]
            ids += asked + answered
            weights += [self._context_weight] * len(asked) + [1.0] * len(answered)
        return ids, weights

    def question(self, text: str) -> list[int]:
        """A user turn and the start of the assistant's."""
        return [self._user, *self._encode(text), self._end, self._assistant]

    def context(self, text: str) -> list[int]:
        """A document as the context encoder reads it: a user turn of its own."""
        return self.question(text)


def turns_about(document: Document, rng: Random, split: Split, unanswerable: float) -> list[Turn]:
    """A question for every fact in random order, some the document does not answer among them."""
    facts = list(document.facts)
    rng.shuffle(facts)
    turns = []
    for fact in facts:
        if rng.random() < unanswerable:
            question = documents.unanswerable(document, rng, split)
            turns.append((question, conversations.UNKNOWN))
        turns.append((fact.question, fact.value))
    return turns


def with_document(document: Document, turns: Sequence[Turn]) -> list[Turn]:
    """The turns with the document before the first question, in the same message."""
    (question, answer), *others = turns
    return [(f"{document.text}\n\n{question}", answer), *others]


def reading(rng: Random, split: Split, document: Document) -> tuple[list[Turn], str]:
    """A document in the first message or the system message, and questions about it."""
    turns = turns_about(document, rng, split, unanswerable=0.2)
    if rng.random() < 0.2:
        return turns, document.text
    return with_document(document, turns), ""


def without_document(rng: Random, split: Split, turns: int) -> list[Turn]:
    """Questions that nothing answers, small talk and echoes."""
    made: list[Turn] = []
    while len(made) < turns:
        chance = rng.random()
        if chance < 0.6:
            source = documents.document(rng, split, facts=1)
            made.append((source.facts[0].question, conversations.UNKNOWN))
        elif chance < 0.75:
            made.append(conversations.small_talk(rng))
        else:
            made.append(conversations.echo(rng))
    return made


def following_a_task(
    rng: Random, split: Split, document: Document, task: Task
) -> tuple[list[Turn], str] | None:
    """Questions about a document, answered in the form that the system message asks for."""
    facts = [fact for fact in document.facts if task.answer(fact) is not None]
    if not facts:
        return None
    turns = [(fact.question, _asked_form(task, fact)) for fact in facts]
    rng.shuffle(turns)
    return with_document(document, turns), task.description(rng, split)


def _asked_form(task: Task, fact: Fact) -> str:
    answer = task.answer(fact)
    assert answer is not None
    return answer


def training_tasks() -> tuple[Task, ...]:
    return tuple(task for task in TASKS if task.split is Split.TRAIN)
