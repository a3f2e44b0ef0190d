"""vLLM's kernels with widened heads against attention written out."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from vllm import _custom_ops as ops
from vllm.platforms import current_platform
from vllm.v1.attention.backends import cpu_attn, registry
from vllm.v1.attention.backends.cpu_attn import CPUAttentionMetadata
from vllm.v1.attention.backends.registry import AttentionBackendEnum
from vllm.v1.attention.selector import AttentionSelectorConfig
from vllm.v1.kv_cache_interface import FullAttentionSpec

from server.cpu_attention import BACKEND, PaddedHeads, PaddedHeadsImpl, padded, register

HEADS, KV_HEADS, BLOCK = 4, 2, 32
SCALE, SOFT_CAP, WINDOW = 0.3, 5.0, 20
PROMPT = 40  # tokens: more than a block
SELECTION = AttentionSelectorConfig(16, torch.float32, "auto", None)


def spec(head_size: int) -> FullAttentionSpec:
    return FullAttentionSpec(
        block_size=BLOCK, num_kv_heads=KV_HEADS, head_size=head_size, dtype=torch.float32
    )


class Layer:
    """One layer's attention for one request, whose tokens come in as many calls as one likes."""

    _k_scale_float = _v_scale_float = 1.0

    def __init__(self, head_size: int) -> None:
        self.cached = 0
        self.width = PaddedHeads.customize_spec(spec(head_size)).head_size
        self.isa = cpu_attn._get_attn_isa(torch.float32, BLOCK, self.width)
        self.cache = torch.zeros(3, KV_HEADS, BLOCK, 2 * self.width)
        self.impl = PaddedHeadsImpl(
            *(HEADS, head_size, SCALE, KV_HEADS, None, WINDOW, "auto"), logits_soft_cap=SOFT_CAP
        )

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        slots = BLOCK + torch.arange(self.cached, self.cached + len(query))  # from the second block
        self.cached += len(query)
        self.impl.do_kv_cache_update(self, key, value, self.cache, slots)
        starts = torch.tensor([0, len(query)], dtype=torch.int32)
        lengths = torch.tensor([self.cached], dtype=torch.int32)
        schedule = ops.cpu_attn_get_scheduler_metadata(
            *(1, HEADS, KV_HEADS, self.width, lengths, torch.float32, starts, True),
            *(WINDOW, self.isa, False),
        )
        metadata = CPUAttentionMetadata(
            num_actual_tokens=len(query),
            max_query_len=len(query),
            query_start_loc=starts,
            max_seq_len=self.cached,
            seq_lens=lengths,
            block_table=torch.tensor([[1, 2]], dtype=torch.int32),
            slot_mapping=slots,
            scheduler_metadata=schedule,
        )
        output = torch.full_like(query, float("nan"))
        return self.impl.forward(self, query, key, value, self.cache, metadata, output)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal, grouped, soft-capped attention in a window, of `[T, H, D]`."""
    key, value = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (key, value))
    scores = torch.einsum("qhd,khd->hqk", query, key) * SCALE
    scores = SOFT_CAP * torch.tanh(scores / SOFT_CAP)
    back = torch.arange(len(query))[:, None] - torch.arange(len(key))
    scores = scores.masked_fill((back < 0) | (back >= WINDOW), float("-inf"))
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), value)


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    config = SimpleNamespace(model_config=SimpleNamespace(dtype=torch.float32))
    monkeypatch.setattr(cpu_attn, "get_current_vllm_config", lambda: config)


@pytest.mark.parametrize("head_size", [8, 16, 20, 48, 64, 144])
def test_heads_of_any_size_attend_as_written_out(head_size: int) -> None:
    torch.manual_seed(head_size)
    tokens = PROMPT + 2
    query = torch.randn(tokens, HEADS, head_size)
    key, value = torch.randn(2, tokens, KV_HEADS, head_size)
    layer = Layer(head_size)
    parts = [slice(0, PROMPT), slice(PROMPT, PROMPT + 1), slice(PROMPT + 1, tokens)]
    got = torch.cat([layer(query[part], key[part], value[part]) for part in parts])
    torch.testing.assert_close(got, attention(query, key, value), rtol=1e-5, atol=1e-5)


def test_heads_that_the_kernels_know_keep_their_cache() -> None:
    for size in PaddedHeads.get_supported_head_sizes():
        assert PaddedHeads.customize_spec(spec(size)) == spec(size)


def test_heads_wider_than_any_kernels_are_left_to_vllm_to_refuse() -> None:
    widest = max(PaddedHeads.get_supported_head_sizes())
    assert padded(widest + 1) == widest + 1


def test_vllm_takes_it_for_its_attention_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_ATTN_OVERRIDES", {})
    register()
    theirs = AttentionBackendEnum.CPU_ATTN
    assert current_platform.get_attn_backend_cls(theirs, SELECTION) == BACKEND
    assert theirs.get_class() is PaddedHeads
