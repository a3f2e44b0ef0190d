"""What evaluation asks for is never drawn in training."""

from random import Random

import pytest

from generator.training.corpus import documents, facts
from generator.training.corpus import inventory as inv
from generator.training.corpus.documents import Document
from generator.training.corpus.inventory import Split
from generator.training.corpus.values import Kind


def sampled(split: Split, count: int = 400) -> list[Document]:
    rng = Random(f"test {split}")
    return [
        documents.document(
            rng, split, facts=rng.randint(1, 6), subjects=rng.randint(1, 2), fillers=1
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("split", Split)
def test_every_value_stands_in_its_document_or_is_a_rule(split: Split) -> None:
    for document in sampled(split):
        for fact in document.facts:
            stated = fact.value.lower() in document.text.lower()
            assert stated or fact.kind is Kind.YES_NO


def test_values_and_names_of_the_two_splits_do_not_meet() -> None:
    def drawn(split: Split) -> set[str]:
        values = {
            fact.value.lower()
            for document in sampled(split)
            for fact in document.facts
            if fact.kind not in (Kind.YES_NO, Kind.WORD)
        }
        return values | {inv.draw(inv.syllable_name, Random(i), split).lower() for i in range(200)}

    assert not drawn(Split.TRAIN) & drawn(Split.HELD_OUT)


def test_wordings_of_the_two_splits_do_not_meet() -> None:
    every = facts.QUESTION_FRAMES
    train = {
        facts.phrasing(every, facts.HELD_OUT_FRAMES, Random(i), Split.TRAIN) for i in range(500)
    }
    held_out = {
        facts.phrasing(every, facts.HELD_OUT_FRAMES, Random(i), Split.HELD_OUT) for i in range(500)
    }
    assert train | held_out == set(every)
    assert not train & held_out


def test_filler_sentences_of_the_two_splits_do_not_meet() -> None:
    drawn = {split: {documents.filler(Random(i), split) for i in range(500)} for split in Split}
    assert not drawn[Split.TRAIN] & drawn[Split.HELD_OUT]


def test_a_document_depends_on_the_seed_alone() -> None:
    def text(seed: int) -> str:
        return documents.document(Random(seed), Split.TRAIN, facts=4, fillers=2).text

    assert text(1) == text(1)
    assert text(1) != text(2)


def test_an_unanswerable_question_is_not_one_that_the_document_answers() -> None:
    rng = Random(0)
    for document in sampled(Split.TRAIN, 200):
        asked = documents.unanswerable(document, rng, Split.TRAIN)
        assert asked not in {fact.question for fact in document.facts}
