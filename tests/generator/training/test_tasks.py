"""Tasks: what they ask for, in how many words, and what of it training never sees."""

from collections import Counter
from random import Random

import pytest

from generator.training import dialogues
from generator.training.corpus import documents, transforms
from generator.training.corpus.facts import Fact
from generator.training.corpus.inventory import Split
from generator.training.corpus.tasks import HELD_OUT_TASKS, TASKS, Task
from generator.training.corpus.values import Kind

# they speak of a few colours, the weekdays and lists alone
RARE = {f"language {language}" for language in transforms.DAY_NAMES} | {"reversed list"}


def named(name: str) -> Task:
    return next(task for task in TASKS if task.name == name)


def drawn_facts(count: int) -> list[Fact]:
    rng = Random("facts for tasks")
    facts: list[Fact] = []
    while len(facts) < count:
        facts += documents.document(rng, Split.TRAIN, facts=3).facts
    return facts[:count]


def test_tasks_have_names_of_their_own() -> None:
    assert len(TASKS) >= 80
    assert len({task.name for task in TASKS}) == len(TASKS)


def test_one_task_in_five_is_held_out_and_never_trained_on() -> None:
    held_out = {task.name for task in TASKS if task.split is Split.HELD_OUT}
    assert held_out == HELD_OUT_TASKS
    assert len(held_out) / len(TASKS) == pytest.approx(0.2, abs=0.01)
    assert not held_out & {task.name for task in dialogues.training_tasks()}


def test_every_large_family_has_held_out_tasks() -> None:
    members = Counter(task.family for task in TASKS)
    held_out = Counter(task.family for task in TASKS if task.split is Split.HELD_OUT)
    assert {family for family, count in members.items() if count > 4} == set(held_out)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_a_third_of_the_phrasings_of_a_task_is_held_out(task: Task) -> None:
    assert len(set(task.requests)) >= 8
    trained, held_out = (set(task.wordings(split)) for split in (Split.TRAIN, Split.HELD_OUT))
    assert not trained & held_out
    assert len(trained) + len(held_out) >= 60
    assert len(held_out) / (len(trained) + len(held_out)) == pytest.approx(0.3, abs=0.03)


def test_phrasings_say_which_task_they_are_of() -> None:
    phrasings = [wording for task in TASKS for split in Split for wording in task.wordings(split)]
    assert len(set(phrasings)) == len(phrasings)


def test_no_held_out_request_is_part_of_one_seen_in_training() -> None:
    trained = "\n".join(
        request.lower() for task in TASKS for request in task.requests_of(Split.TRAIN)
    )
    for task in TASKS:
        for request in task.requests_of(Split.HELD_OUT):
            assert request.lower() not in trained


@pytest.mark.parametrize("split", Split)
def test_a_description_is_one_of_the_wordings(split: Split) -> None:
    task = named("json answer")
    drawn = {task.description(Random(seed), split) for seed in range(2000)}
    assert drawn == set(task.wordings(split))


def test_tasks_speak_of_at_least_one_fact_in_twenty_unless_rare() -> None:
    facts = drawn_facts(300)
    for task in TASKS:
        answered = sum(task.answer(fact) is not None for fact in facts)
        assert answered >= (1 if task.name in RARE else 0.05 * len(facts)), task.name


def test_the_answers_of_a_task_depend_on_the_fact_alone() -> None:
    facts = drawn_facts(100)
    for task in TASKS:
        assert [task.answer(fact) for fact in facts] == [task.answer(fact) for fact in facts]


@pytest.mark.parametrize(
    ("name", "value", "kind", "answer"),
    [
        ("opening Sure", "teal", Kind.WORD, "Sure: teal"),
        ("closing Goodbye", "teal", Kind.WORD, "teal. Goodbye"),
        ("json answer", "14 days", Kind.NUMBER, '{"answer": "14 days"}'),
        ("wrap curly brackets", "teal", Kind.WORD, "{teal}"),
        ("wrap two pairs of double quotes", "teal", Kind.WORD, '""teal""'),
        ("prefix an arrow", "teal", Kind.WORD, "=> teal"),
        ("sentence the words the answer is", "teal", Kind.WORD, "The answer is teal."),
        ("ending the word sir", "teal", Kind.WORD, "teal, sir"),
        ("refuse codes", "KR-12", Kind.CODE, transforms.REFUSAL),
        ("refuse codes", "teal", Kind.WORD, "teal"),
        ("refuse colours", "teal", Kind.WORD, transforms.REFUSAL),
        ("refuse colours", "steel", Kind.WORD, "steel"),
        ("language German", "Monday", Kind.WORD, "Montag"),
        ("language German", "steel", Kind.WORD, None),
        ("upper case", "teal", Kind.WORD, "TEAL"),
        ("upper case", "14 days", Kind.NUMBER, None),
        ("upper case and exclamation mark", "teal", Kind.WORD, "TEAL!"),
        ("lower case", "Yes", Kind.YES_NO, "yes"),
        ("lower case and full stop", "Oslo", Kind.WORD, "oslo."),
        ("no unit", "14 days", Kind.NUMBER, "14"),
        ("unit only", "14 days", Kind.NUMBER, "days"),
        ("unit only", "14", Kind.NUMBER, None),
        ("first word", "Anna Reed", Kind.NAME, "Anna"),
        ("last word", "Anna Reed", Kind.NAME, "Reed"),
        ("first letter", "teal", Kind.WORD, "t"),
        ("initials", "Anna Reed", Kind.NAME, "A. R."),
        ("last name first", "Anna Reed", Kind.NAME, "Reed, Anna"),
        ("twice", "teal", Kind.WORD, "teal, teal"),
        ("three times", "teal", Kind.WORD, "teal, teal, teal"),
        ("digits", "204 kg", Kind.NUMBER, "two zero four"),
        ("reversed list", "mask, key and rope", Kind.PHRASE, "rope, key and mask"),
        ("hyphens", "the blue key", Kind.PHRASE, "the-blue-key"),
        ("hyphens", "teal", Kind.WORD, None),
        ("hyphens", "mask, key and rope", Kind.PHRASE, None),
        ("underscores", "14 days", Kind.NUMBER, "14_days"),
        ("no spaces", "Anna Reed", Kind.NAME, "AnnaReed"),
        ("no article", "the blue key", Kind.PHRASE, "blue key"),
    ],
)
def test_a_task_answers_in_the_asked_form(
    name: str, value: str, kind: Kind, answer: str | None
) -> None:
    assert named(name).transform(value, kind) == answer
