"""Chunks of all waiting documents share micro-batches, in turn and within the budget."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from generator.microbatch import MicroBatches


def padded(chunks: Sequence[Sequence[int]]) -> int:
    return len(chunks) * max(map(len, chunks))


def of(lengths: Sequence[int]) -> list[list[int]]:
    return [list(range(length)) for length in lengths]


def test_documents_take_turns_so_that_a_short_one_does_not_wait_for_a_long_one() -> None:
    batches = MicroBatches[str](max_tokens=20, size=padded)
    batches.add("long", of([10] * 6))
    batches.add("short", of([10]))
    assert [label for label, _ in batches.next()] == ["long", "short"]
    assert [label for label, _ in batches.next()] == ["long", "long"]


def test_a_document_whose_chunk_did_not_fit_has_the_next_turn() -> None:
    batches = MicroBatches[str](max_tokens=20, size=padded)
    batches.add("a", of([5, 5, 5, 5]))
    batches.add("b", of([20]))
    assert [label for label, _ in batches.next()] == ["a"]
    assert [label for label, _ in batches.next()] == ["b"]
    assert [label for label, _ in batches.next()] == ["a", "a", "a"]
    assert not batches


def test_a_dropped_document_is_not_handed_out_any_more() -> None:
    batches = MicroBatches[str](max_tokens=10, size=padded)
    batches.add("gone", of([10, 10]))
    batches.add("kept", of([10]))
    batches.drop(lambda label: label == "gone")
    assert [label for label, _ in batches.next()] == ["kept"]
    assert not batches


@given(
    documents=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), max_size=6),
    budget=st.integers(1, 100),
)
def test_every_chunk_is_handed_out_once_in_order_and_within_the_budget(
    documents: list[list[int]], budget: int
) -> None:
    batches = MicroBatches[int](max_tokens=budget, size=padded)
    for label, lengths in enumerate(documents):
        batches.add(label, of(lengths))
    handed: dict[int, list[int]] = {label: [] for label in range(len(documents))}
    while batches:
        batch = batches.next()
        assert batch
        assert len(batch) == 1 or padded([chunk for _, chunk in batch]) <= budget
        for label, chunk in batch:
            handed[label].append(len(chunk))
    assert handed == dict(enumerate(documents))
