"""vLLM plug-in: attention on CPU for heads of any size.

vLLM 0.32's CPU kernels are compiled for a list of head sizes. A base model with another one starts,
and the engine dies of its first request. Here its queries, keys and values are widened with zeros
to the next size of the list. That changes no result: zeros add nothing to the product of a query
and a key, and the columns that they add to the output are dropped. Sizes of the list are left as
they are.

Shapes: T tokens, H heads, D head size.
"""

from dataclasses import replace
from functools import cache
from typing import Any

from torch import Tensor
from torch.nn.functional import pad
from vllm.platforms import current_platform
from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend, CPUAttentionBackendImpl
from vllm.v1.attention.backends.registry import AttentionBackendEnum, register_backend
from vllm.v1.kv_cache_interface import AttentionSpec


@cache
def padded(head_size: int) -> int:
    """The narrowest heads of vLLM's kernels that take heads of this size; itself if none do."""
    sizes = CPUAttentionBackend.get_supported_head_sizes()
    return min((size for size in sizes if size >= head_size), default=head_size)


class PaddedHeads(CPUAttentionBackend):
    """vLLM's attention on CPU, the KV cache as wide as its kernels need."""

    @classmethod
    def customize_spec(cls, spec: AttentionSpec) -> AttentionSpec:
        size = padded(spec.head_size)
        return replace(spec, head_size=size, head_size_v=size)

    @staticmethod
    def get_impl_cls() -> type[CPUAttentionBackendImpl]:
        return PaddedHeadsImpl


class PaddedHeadsImpl(CPUAttentionBackendImpl):
    """What goes into the kernels padded at the end of D, what comes out cut."""

    def forward(
        self,
        layer: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        kv_cache: Tensor,
        attn_metadata: Any,
        output: Tensor,
        *scales: Tensor | None,
        **options: Any,
    ) -> Tensor:
        """Attention of `query` [T, H, D] into `output` [T, H, D]."""
        query, key, value, wide = (self._pad(x) for x in (query, key, value, output))
        super().forward(
            *(layer, query, key, value, kv_cache, attn_metadata, wide, *scales), **options
        )
        return output if wide is output else output.copy_(wide[..., : self.head_size])

    def do_kv_cache_update(
        self, layer: Any, key: Tensor, value: Tensor, kv_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        """Put `key` and `value` [T, H, D] into the cache."""
        super().do_kv_cache_update(layer, self._pad(key), self._pad(value), kv_cache, slot_mapping)

    def _pad(self, x: Tensor) -> Tensor:
        missing = padded(self.head_size) - self.head_size
        return pad(x, (0, missing)) if missing else x


BACKEND = f"{PaddedHeads.__module__}.{PaddedHeads.__qualname__}"


def register() -> None:
    """Put PaddedHeads in the place of vLLM's own, in every vLLM process on CPU.

    vLLM calls this through the entry point group `vllm.general_plugins`.
    """
    if current_platform.is_cpu():
        register_backend(AttentionBackendEnum.CPU_ATTN, BACKEND)
