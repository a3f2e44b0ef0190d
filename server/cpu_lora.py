"""vLLM plug-in: LoRA on CPU as one pair of matrix products per adapter in the batch.

vLLM 0.32's own CPU operations gather the weights of every token's adapter. That is slow, and a row
without an adapter (index -1) reads the last slot, so a request to the base model that is batched
with requests to adapters silently gets one of theirs. Here the rows are grouped by slot once per
batch, and rows without an adapter are in no group. A slot is as wide as the engine's largest rank;
only the rank that its adapter fills is multiplied.

Shapes: T tokens, S slots, R rank of a slot, I inputs and O outputs of a layer.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

RANK_STEP = 8  # narrower matrix products are no faster


class Group(NamedTuple):
    """The rows of a batch that use the adapter in one slot."""

    slot: int
    rows: slice | Tensor  # a slice where they are neighbours: nothing is copied


def group_rows(slots_T: Tensor) -> list[Group]:
    """The groups of a batch, from the slot of each row; -1 is no adapter."""
    groups = []
    for slot in torch.unique(slots_T).tolist():
        if slot >= 0:
            rows = (slots_T == slot).nonzero().flatten()
            first, last = int(rows[0]), int(rows[-1])
            neighbours = last - first + 1 == len(rows)
            groups.append(Group(slot, slice(first, last + 1) if neighbours else rows))
    return groups


class Ranks:
    """The rank that the adapter in a slot really has: vLLM fills the rest of a slot with zeros.

    Remembered until the stack of slots is written to, which moves its version on. The stacks live
    as long as the model, so their addresses name them.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, dict[int, int]]] = {}

    def of(self, a_SRI: Tensor, slot: int) -> int:
        version, ranks = self._known.get(a_SRI.data_ptr(), (-1, {}))
        if version != a_SRI._version:
            ranks = {}
            self._known[a_SRI.data_ptr()] = (a_SRI._version, ranks)
        if slot not in ranks:
            filled = _matrix(a_SRI, slot).any(dim=1).nonzero()
            rank = int(filled[-1]) + 1 if len(filled) else 0
            ranks[slot] = min(-(-rank // RANK_STEP) * RANK_STEP, a_SRI.shape[-2])
        return ranks[slot]


class GroupedLora(PunicaWrapperCPU):
    """vLLM's LoRA operations on CPU, grouped by adapter."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._ranks = Ranks()
        self._token_groups: list[Group] = []
        self._sampler_groups: list[Group] = []

    def update_metadata(self, *args: Any, **options: Any) -> None:
        """Take up a new batch; vLLM calls this before the layers run."""
        super().update_metadata(*args, **options)
        self._token_groups = group_rows(self.token_lora_indices)
        self._sampler_groups = group_rows(self.sampler_indices)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add each row's adapter to a linear layer's output `y` [T, O], in place.

        A merged layer (query, key and value) has one pair of stacks per slice of its output.
        """
        start = 0
        for a_SRI, b_SOR, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            y_slice = y[:, start : start + width]
            self._add(y_slice, x, a_SRI, b_SOR, scale, self._token_groups)
            start += width

    def add_lora_logits(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Tensor,
        lora_b_stacked: Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add the adapters of the language model's head; one row per sampled position."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        self._add(y, x, lora_a_stacked, lora_b_stacked, scale, self._sampler_groups)

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **_: Any
    ) -> None:
        """Add the adapters of the embedding; `x` [T, R] are rows that A's embedding looked up."""
        self._apply_expand(y, x, lora_b_stacked, 0, y.shape[-1])

    def _add(
        self,
        y_TO: Tensor,
        x_TI: Tensor,
        a_SRI: Tensor,
        b_SOR: Tensor,
        scale: float,
        groups: list[Group],
    ) -> None:
        for slot, rows in groups:
            if rank := self._ranks.of(a_SRI, slot):
                inner = linear(x_TI[rows], _matrix(a_SRI, slot)[:rank]).mul_(scale)
                _add_rows(y_TO, rows, linear(inner, _matrix(b_SOR, slot)[:, :rank]))

    # The two halves on their own, for layers sharded over several engine processes.

    def _apply_shrink(self, y: Tensor, x: Tensor, w_t_all: Tensor, scale: float) -> None:
        for slot, rows in self._token_groups:
            inner = linear(x[rows], _matrix(w_t_all, slot))
            y[rows, : inner.shape[1]] = inner.mul_(scale).to(y.dtype)

    def _apply_expand(
        self,
        y: Tensor,
        x: Tensor,
        w_t_all: Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,
    ) -> None:
        y_slice = y[:, y_offset : y_offset + y_slice_size]
        for slot, rows in self._token_groups:
            b_OR = _matrix(w_t_all, slot)
            _add_rows(y_slice, rows, linear(x[rows].to(b_OR.dtype), b_OR))


def _matrix(stack: Tensor, slot: int) -> Tensor:
    """The matrix in a slot; vLLM's stacks are [S, R, I] or [S, 1, R, I]."""
    return stack[slot].flatten(0, -2)


def _add_rows(y_TO: Tensor, rows: slice | Tensor, delta: Tensor) -> None:
    """`y_TO[rows] += delta`; one of the two may be padded on the right (vocabularies are)."""
    width = min(y_TO.shape[1], delta.shape[1])
    y_TO, delta = y_TO[:, :width], delta[:, :width].to(y_TO.dtype)
    if isinstance(rows, slice):
        y_TO[rows] += delta
    else:
        y_TO.index_add_(0, rows, delta)


WRAPPER = f"{GroupedLora.__module__}.{GroupedLora.__qualname__}"


def register() -> None:
    """Put GroupedLora in the place of vLLM's own, in every vLLM process on CPU.

    vLLM calls this through the entry point group `vllm.general_plugins`.
    """
    if current_platform.is_cpu():
        platform = type(current_platform)
        platform.get_punica_wrapper = classmethod(lambda _: WRAPPER)  # type: ignore[assignment, method-assign]
