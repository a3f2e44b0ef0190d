"""Sequences of token IDs to padded tensors of few distinct shapes.

Shape suffixes: B sequences of a micro-batch, T tokens.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

Chunk = Sequence[int]


class InvalidChunk(ValueError):
    """A chunk that the encoder cannot read."""


def size_class(count: int) -> int:
    """The smallest of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not below ``count``.

    Padding to these sizes wastes less than a third and keeps the number of distinct shapes, for
    each of which the backends build and keep kernels, logarithmic.
    """
    power = 1 << (count - 1).bit_length()
    return power * 3 // 4 if power >= 4 and count <= power * 3 // 4 else power


def padded_shape(chunks: Sequence[Chunk], longest_expected: int) -> tuple[int, int]:
    """Rows and length that these chunks are padded to; to no more than ``longest_expected`` unless
    one of them is longer."""
    longest = max(map(len, chunks))
    length = size_class(longest)
    if longest <= longest_expected:
        length = min(length, longest_expected)
    return size_class(len(chunks)), length


def padded(
    chunks: Sequence[Chunk], shape: tuple[int, int], vocabulary: int
) -> tuple[Tensor, Tensor]:
    """IDs and mask ``[B, T]``, padded at the right with ID 0 and with empty rows at the end.

    Raises InvalidChunk: an index out of range on a GPU would end the process.
    """
    ids = torch.zeros(shape, dtype=torch.long)
    mask = torch.zeros(shape, dtype=torch.bool)
    for row, chunk in enumerate(chunks):
        if not chunk:
            raise InvalidChunk(f"chunk {row} is empty")
        if min(chunk) < 0 or max(chunk) >= vocabulary:
            raise InvalidChunk(
                f"chunk {row} holds token IDs from {min(chunk)} to {max(chunk)}, "
                f"the encoder has 0 to {vocabulary - 1}"
            )
        ids[row, : len(chunk)] = torch.tensor(chunk)
        mask[row, : len(chunk)] = True
    return ids, mask
