"""The grouped operations against one matrix product per row."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.lora.punica_wrapper.punica_selector import get_punica_wrapper

from server import cpu_lora
from server.cpu_lora import WRAPPER, GroupedLora, Ranks, group_rows

SLOTS, RANK, INPUTS = 3, 16, 24
IDS = [11, 12, 13]  # the adapters in slots 0, 1, 2

# rows of a batch, as slots: mixtures with and without the base model, apart and interleaved
BATCHES = {
    "base only": [-1, -1, -1],
    "one adapter": [1, 1, 1, 1],
    "base first": [-1, -1, 2, 2, 0],
    "base last": [0, 2, 2, -1],
    "interleaved": [2, -1, 0, 2, -1, 1, 0, 2],
    "one row": [2],
    "one base row": [-1],
}


@pytest.fixture(params=BATCHES.values(), ids=BATCHES.keys())
def rows(request: pytest.FixtureRequest) -> list[int]:
    slots: list[int] = request.param
    return slots


def stacks(outputs: int, ranks: tuple[int, ...] = (16, 8, 3)) -> tuple[Tensor, Tensor]:
    """A [S, 1, R, I] and B [S, 1, O, R], filled up to each slot's rank."""
    a, b = torch.zeros(SLOTS, 1, RANK, INPUTS), torch.zeros(SLOTS, 1, outputs, RANK)
    for slot, rank in enumerate(ranks):
        a[slot, 0, :rank] = torch.randn(rank, INPUTS)
        b[slot, 0, :, :rank] = torch.randn(outputs, rank)
    return a, b


def of_batch(wrapper: Any, rows: list[int], sampled: list[int] | None = None) -> Any:
    """Tell `wrapper` of a batch as vLLM does: adapters by ID, 0 for the base model."""
    ids = [IDS[slot] if slot >= 0 else 0 for slot in rows]
    prompts = ids if sampled is None else [IDS[slot] if slot >= 0 else 0 for slot in sampled]
    mapping = SimpleNamespace(index_mapping=ids, prompt_mapping=prompts, is_prefill=True)
    wrapper.update_metadata(mapping, IDS, SLOTS + 1, 100)
    return wrapper


def grouped(rows: list[int], sampled: list[int] | None = None) -> GroupedLora:
    wrapper: GroupedLora = of_batch(GroupedLora(64, 8, "cpu"), rows, sampled)
    return wrapper


def deltas(x: Tensor, a: Tensor, b: Tensor, rows: list[int]) -> Tensor:
    """What each row gets: `B A x` of its own adapter, nothing without one."""
    out = torch.zeros(len(rows), b.shape[-2])
    for row, slot in enumerate(rows):
        if slot >= 0:
            out[row] = b[slot, 0] @ (a[slot, 0] @ x[row])
    return out


def test_each_row_gets_its_own_adapter_and_base_rows_get_none(rows: list[int]) -> None:
    a, b = stacks(outputs=10)
    x, y = torch.randn(len(rows), INPUTS), torch.randn(len(rows), 10)
    expected = y + deltas(x, a, b, rows) * 0.5
    grouped(rows).add_lora_linear(y, x, (a,), (b,), 0.5, (10,))
    torch.testing.assert_close(y, expected)


def test_base_rows_are_untouched_to_the_bit(rows: list[int]) -> None:
    a, b = stacks(outputs=10)
    a[-1], b[-1] = float("nan"), float("nan")  # the slot that vLLM's own operations read for -1
    y = torch.randn(len(rows), 10)
    before = y.clone()
    grouped(rows).add_lora_linear(y, torch.randn(len(rows), INPUTS), (a,), (b,), 1.0, (10,))
    base = [row for row, slot in enumerate(rows) if slot < 0]
    assert torch.equal(y[base], before[base])


def test_a_merged_layer_gets_each_slice_in_its_place(rows: list[int]) -> None:
    widths = (8, 4, 6)
    pairs = [stacks(width) for width in widths]
    x, y = torch.randn(len(rows), INPUTS), torch.randn(len(rows), sum(widths))
    expected = y + torch.cat([deltas(x, a, b, rows) for a, b in pairs], dim=1)
    all_a, all_b = zip(*pairs, strict=True)
    grouped(rows).add_lora_linear(y, x, all_a, all_b, 1.0, widths)
    torch.testing.assert_close(y, expected)


def test_a_slice_that_an_adapter_leaves_out_is_untouched_to_the_bit(rows: list[int]) -> None:
    """Of query, key and value an adapter may change two."""
    widths = (8, 4, 6)
    pairs = [stacks(width) for width in widths]
    pairs[1][0][2], pairs[1][1][2] = 0, 0  # as vLLM empties a slot
    x, y = torch.randn(len(rows), INPUTS), torch.randn(len(rows), sum(widths))
    before = y.clone()
    all_a, all_b = zip(*pairs, strict=True)
    grouped(rows).add_lora_linear(y, x, all_a, all_b, 1.0, widths)
    those = [row for row, slot in enumerate(rows) if slot == 2]
    assert torch.equal(y[those, 8:12], before[those, 8:12])
    expected = before + torch.cat([deltas(x, a, b, rows) for a, b in pairs], dim=1)
    torch.testing.assert_close(y, expected)


def test_shrink_and_expand_on_their_own_equal_the_whole(rows: list[int]) -> None:
    widths = (8, 4)
    pairs = [stacks(width) for width in widths]
    x, y = torch.randn(len(rows), INPUTS), torch.randn(len(rows), sum(widths) + 3)
    expected = y.clone()
    expected[:, 3:] += torch.cat([deltas(x, a, b, rows) for a, b in pairs], dim=1)
    wrapper = grouped(rows)
    buffers = torch.zeros(len(widths), len(rows), RANK)
    wrapper.add_shrink(buffers, x, tuple(a for a, _ in pairs), 1.0)
    wrapper.add_expand(y, buffers, tuple(b for _, b in pairs), widths, offset_start=3)
    torch.testing.assert_close(y, expected)


def test_the_head_goes_by_sampled_rows_and_takes_a_padded_vocabulary() -> None:
    sampled = [1, -1, 0]
    a, b = stacks(outputs=10)
    x, y = torch.randn(3, INPUTS), torch.randn(3, 12)
    expected = y.clone()
    expected[:, :10] += deltas(x, a, b, sampled)
    grouped([1, 1, 1, -1, 0, 0], sampled).add_lora_logits(y, x, a, b, 1.0)
    torch.testing.assert_close(y, expected)


def test_the_embedding_gets_its_own_adapter(rows: list[int]) -> None:
    _, b = stacks(outputs=10)
    x, y = torch.randn(len(rows), RANK), torch.randn(len(rows), 10)
    expected = y.clone()
    for row, slot in enumerate(rows):
        if slot >= 0:
            expected[row] += b[slot, 0] @ x[row]
    grouped(rows).add_lora_embedding(y, x, b)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_right_to_its_own_precision(dtype: torch.dtype) -> None:
    rows = BATCHES["interleaved"]
    a, b = (stack.to(dtype) for stack in stacks(outputs=10))
    x, y = torch.randn(len(rows), INPUTS).to(dtype), torch.zeros(len(rows), 10, dtype=dtype)
    expected = deltas(x.float(), a.float(), b.float(), rows)
    grouped(rows).add_lora_linear(y, x, (a,), (b,), 1.0, (10,))
    torch.testing.assert_close(y.float(), expected, rtol=0.05, atol=0.2)


def test_vllm_s_own_operations_still_have_the_defect() -> None:
    """When this fails, vLLM has been mended, and the correctness half of the plug-in can go."""
    rows = BATCHES["base first"]
    a, b = stacks(outputs=10)
    x, y = torch.randn(len(rows), INPUTS), torch.zeros(len(rows), 10)
    stock = of_batch(PunicaWrapperCPU(64, 8, "cpu"), rows)
    stock.add_lora_linear(y, x, (a,), (b,), 1.0, (10,))
    assert not torch.allclose(y, deltas(x, a, b, rows))


def test_neighbouring_rows_are_taken_without_a_copy() -> None:
    groups = group_rows(torch.tensor([-1, 1, 1, 0, 2, 0]))
    assert [group.slot for group in groups] == [0, 1, 2]
    assert groups[1].rows == slice(1, 3)
    assert isinstance(groups[0].rows, Tensor)
    assert groups[0].rows.tolist() == [3, 5]


def test_a_slot_s_rank_is_what_its_adapter_fills_in_steps_of_eight() -> None:
    a, _ = stacks(outputs=10, ranks=(16, 9, 3))
    ranks = Ranks()
    assert [ranks.of(a, slot) for slot in range(SLOTS)] == [16, 16, 8]


def test_an_empty_slot_has_no_rank() -> None:
    assert Ranks().of(torch.zeros(SLOTS, 1, RANK, INPUTS), 0) == 0


def test_another_adapter_in_a_slot_is_noticed() -> None:
    rows = [1, 1]
    a, b = stacks(outputs=10, ranks=(16, 3, 16))
    wrapper = grouped(rows)
    x = torch.randn(2, INPUTS)
    wrapper.add_lora_linear(torch.zeros(2, 10), x, (a,), (b,), 1.0, (10,))
    new_a, new_b = stacks(outputs=10, ranks=(16, 16, 16))
    a[1], b[1] = new_a[1], new_b[1]  # as vLLM activates an adapter, the mapping unchanged
    y = torch.zeros(2, 10)
    wrapper.add_lora_linear(y, x, (a,), (b,), 1.0, (10,))
    torch.testing.assert_close(y, deltas(x, a, b, rows))


def test_vllm_uses_the_grouped_operations_once_the_plug_in_is_registered() -> None:
    cpu_lora.register()
    wrapper = get_punica_wrapper(64, max_batches=8, device="cpu", lora_config=None)
    assert type(wrapper) is GroupedLora
    assert WRAPPER == "server.cpu_lora.GroupedLora"
