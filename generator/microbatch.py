"""Which chunks run together: those of all waiting documents, in turn."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from generator.padding import Chunk

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class WaitingDocument(Generic[T]):
    """A document whose first `taken` chunks have been handed out; `label` is the caller's."""

    label: T
    chunks: Sequence[Chunk]
    taken: int = field(default=0, init=False)

    @property
    def exhausted(self) -> bool:
        return self.taken == len(self.chunks)


class MicroBatches(Generic[T]):
    """Hands out micro-batches of at most `max_tokens`, as `size` counts them (padding included).

    Documents take turns by the chunk, so a short one is not kept waiting by a long one. A chunk
    that alone is larger than `max_tokens` is a batch of its own.
    """

    def __init__(self, max_tokens: int, size: Callable[[Sequence[Chunk]], int]) -> None:
        self._max_tokens = max_tokens
        self._size = size
        self._documents: deque[WaitingDocument[T]] = deque()

    def __bool__(self) -> bool:
        return bool(self._documents)

    def add(self, label: T, chunks: Sequence[Chunk]) -> None:
        self._documents.append(WaitingDocument(label, chunks))

    def drop(self, wanted: Callable[[T], bool]) -> None:
        """Forget the documents of these labels."""
        self._documents = deque(d for d in self._documents if not wanted(d.label))

    def next(self) -> list[tuple[T, Chunk]]:
        """Chunks to run now, each with its document's label; those of a document in order."""
        batch: list[tuple[T, Chunk]] = []
        for document in self._turns():
            chunk = document.chunks[document.taken]
            if batch and self._size([*(chunk for _, chunk in batch), chunk]) > self._max_tokens:
                break
            document.taken += 1
            batch.append((document.label, chunk))
        return batch

    def _turns(self) -> Iterator[WaitingDocument[T]]:
        """Documents in turn; one whose chunk is not taken has the first turn next time."""
        while self._documents:
            document = self._documents[0]
            yield document
            self._documents.popleft()
            if not document.exhausted:
                self._documents.append(document)
