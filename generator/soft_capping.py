"""Causal attention with soft-capped scores, as in Gemma 2, without a matrix of all of them.

Of transformers' own, the eager one holds several matrices of all tokens by all tokens, gigabytes
of a chunk of 8192, and flex attention has to be compiled first. Here a block of queries at a time
meets the keys that it sees, and no others.

Shape suffixes: B chunks, T tokens, K key/value heads, G query heads per key/value head, E head
size, Q queries of one block, C keys that some of them see.
"""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig

SOFT_CAPPED = "doclora_soft_capped"
# on a GPU the scores of a block then about fit into the cache
QUERIES = 512


def causal_attention(config: PreTrainedConfig) -> str | None:
    """The ``attn_implementation`` of a model that reads causally and without a mask; None for
    transformers' choice."""
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    return SOFT_CAPPED if capped else None


def soft_capped_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    softcap: float,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """``softmax(softcap * tanh(scaling * q k^T / softcap)) v``, causal, for transformers' models.

    ``query`` is ``[B, K G, T, E]``, ``key`` and ``value`` ``[B, K, T, E]``; returns ``[B, T, K G,
    E]``. With a ``sliding_window`` a token sees itself and the ``sliding_window - 1`` before it.
    Forward only, and without padding: raises ValueError where there is a mask.
    """
    if attention_mask is not None:
        raise ValueError("soft-capped attention is causal and takes no mask")
    B, K, T, E = key.shape
    query_BKGTE = (query * (scaling / softcap)).view(B, K, -1, T, E)
    key_BKET, value_BKTE = key.transpose(-1, -2).contiguous(), value.contiguous()
    mixed = torch.empty(B, T, query.shape[1], E, dtype=query.dtype, device=query.device)
    for start in range(0, T, QUERIES):
        stop = min(start + QUERIES, T)
        first = 0 if sliding_window is None else max(0, start + 1 - sliding_window)
        block = query_BKGTE[:, :, :, start:stop].flatten(2, 3)
        scores = torch.matmul(block, key_BKET[..., first:stop]).tanh_().mul_(softcap)
        _hide_unseen(scores.unflatten(2, (-1, stop - start)), start, first, sliding_window)
        out = torch.matmul(scores.softmax(-1), value_BKTE[:, :, first:stop])
        mixed[:, start:stop] = out.view(B, -1, stop - start, E).transpose(1, 2)
    return mixed, None


def _hide_unseen(scores_BKGQC: Tensor, start: int, first: int, sliding_window: int | None) -> None:
    """Later keys, and those before the window: minus infinity. ``start`` is the position of the
    first query, ``first`` that of the first key."""
    stop = first + scores_BKGQC.shape[-1]
    position = torch.arange(first, stop, device=scores_BKGQC.device)
    query, own = position[start - first :, None], scores_BKGQC[..., start - first :]
    own.masked_fill_(position[start - first :] > query, -torch.inf)
    if sliding_window is not None and (outside := stop - sliding_window - first) > 0:
        before = scores_BKGQC[..., :outside]
        before.masked_fill_(position[:outside] <= query - sliding_window, -torch.inf)


AttentionInterface.register(SOFT_CAPPED, soft_capped_attention)
