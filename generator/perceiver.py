"""The aggregator: a Perceiver that reads token features and answers with a fixed number of vectors.

Doc-to-LoRA (arXiv 2602.15902): cross-attention from a few latent queries to the features of a
chunk, then one more cross-attention from one query per generated vector to those latents.

Shape suffixes: S sequences, T tokens, F feature size, D width, Q queries, C context length,
K key/value heads, G query heads per key/value head, E head size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes shared by every layer of a Perceiver.

    The attention width is ``heads * head_dim`` whatever ``width`` is, as in the published models.
    """

    width: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp_ratio: int


class RmsNorm(nn.Module):
    """``weight * x / sqrt(mean(x^2) + 1e-6)``, computed in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return self.weighted(rms_normalised(x))

    def weighted(self, normalised: Tensor) -> Tensor:
        """What is left to do for an ``x`` that is ``rms_normalised`` already."""
        return self.weight.float() * normalised


def rms_normalised(x: Tensor) -> Tensor:
    """``x / sqrt(mean(x^2) + 1e-6)`` over the last axis, in float32."""
    x = x.float()
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


class GatedMlp(nn.Module):
    """``down(silu(gate x) * up x)`` without biases."""

    def __init__(self, size_in: int, hidden: int, size_out: int) -> None:
        super().__init__()
        self.gate = nn.Linear(size_in, hidden, bias=False)
        self.up = nn.Linear(size_in, hidden, bias=False)
        self.down = nn.Linear(hidden, size_out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class GroupedAttention(nn.Module):
    """Attention without positions in which each key/value head serves consecutive query heads.

    Written as two matrix products: with 8 to 16 queries on CPU the backward pass of
    ``scaled_dot_product_attention`` under a mask is several times slower.
    """

    def __init__(self, geometry: Geometry) -> None:
        super().__init__()
        self.kv_heads = geometry.kv_heads
        self.group = geometry.heads // geometry.kv_heads
        self.head_dim = geometry.head_dim
        query_width = geometry.heads * geometry.head_dim
        kv_width = geometry.kv_heads * geometry.head_dim
        self.query = nn.Linear(geometry.width, query_width, bias=False)
        self.key = nn.Linear(geometry.width, kv_width, bias=False)
        self.value = nn.Linear(geometry.width, kv_width, bias=False)
        self.output = nn.Linear(query_width, geometry.width, bias=False)

    def forward(self, x_SQD: Tensor, context_SCD: Tensor, mask_S11C: Tensor | None) -> Tensor:
        S, Q, _ = x_SQD.shape
        K, G, E = self.kv_heads, self.group, self.head_dim
        query = self.query(x_SQD).view(S, Q, K, G, E).permute(0, 2, 3, 1, 4).reshape(S, K, G * Q, E)
        # where they are stored in another precision, converted once and not for either product
        context_SCD = context_SCD.to(self.key.weight.dtype)
        key = self.key(context_SCD).view(S, -1, K, E).permute(0, 2, 3, 1)
        value = self.value(context_SCD).view(S, -1, K, E).transpose(1, 2)
        scores = torch.matmul(query, key).float() * E**-0.5
        if mask_S11C is not None:
            scores = scores + mask_S11C
        mixed = torch.matmul(scores.softmax(-1).to(value.dtype), value)
        mixed = mixed.view(S, K, G, Q, E).permute(0, 3, 1, 2, 4).reshape(S, Q, K * G * E)
        out: Tensor = self.output(mixed)
        return out


class PerceiverLayer(nn.Module):
    """Attention and a gated MLP, each normalised before and after and added to the latents.

    A cross-attention layer reads the context, which comes normalised, through weights of its own; a
    self-attention layer reads the latents. The latents are not appended to the context.
    """

    def __init__(self, geometry: Geometry, *, cross: bool) -> None:
        super().__init__()
        width = geometry.width
        self.query_norm = RmsNorm(width)
        self.context_norm = RmsNorm(width) if cross else None
        self.attention = GroupedAttention(geometry)
        self.attention_out_norm = RmsNorm(width)
        self.mlp_norm = RmsNorm(width)
        self.mlp = GatedMlp(width, geometry.mlp_ratio * width, width)
        self.mlp_out_norm = RmsNorm(width)

    def forward(self, z_SQD: Tensor, context_SCD: Tensor, mask_S11C: Tensor | None) -> Tensor:
        query = self.query_norm(z_SQD)
        if self.context_norm is None:
            attended = self.attention(query, query, None)
        else:
            context_SCD = self.context_norm.weighted(context_SCD)
            attended = self.attention(query, context_SCD, mask_S11C)
        z_SQD = z_SQD + self.attention_out_norm(attended)
        out: Tensor = z_SQD + self.mlp_out_norm(self.mlp(self.mlp_norm(z_SQD)))
        return out


class QueryStack(nn.Module):
    """Learned queries, refined by layers over one context, then normalised."""

    def __init__(self, queries: int, width: int, layers: list[PerceiverLayer]) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(queries, width))
        self.layers = nn.ModuleList(layers)
        self.norm = RmsNorm(width)

    def forward(self, context_SCD: Tensor, mask_S11C: Tensor | None) -> Tensor:
        z = self.queries.float().expand(context_SCD.shape[0], -1, -1)
        context_SCD = rms_normalised(context_SCD)  # of the same context in every layer
        for layer in self.layers:
            z = layer(z, context_SCD, mask_S11C)
        out: Tensor = self.norm(z)
        return out


class Perceiver(nn.Module):
    """Features of a chunk ``[S, T, F]`` to ``outputs`` vectors ``[S, outputs, D]``.

    ``blocks`` encoder blocks of one cross-attention layer and ``self_attention_per_block``
    self-attention layers. With ``shared_weights`` blocks after the second reuse the second's
    cross-attention and every block reuses the first's self-attention layers; the first
    cross-attention is always its own.
    """

    def __init__(
        self,
        geometry: Geometry,
        *,
        feature_size: int,
        latents: int,
        outputs: int,
        blocks: int,
        self_attention_per_block: int,
        shared_weights: bool,
        normalise_features: bool,
    ) -> None:
        super().__init__()
        self.normalise_features = normalise_features
        self.feature_projection = GatedMlp(
            feature_size, geometry.mlp_ratio * feature_size, geometry.width
        )
        layers = _encoder_layers(geometry, blocks, self_attention_per_block, shared_weights)
        self.encoder = QueryStack(latents, geometry.width, layers)
        self.decoder = QueryStack(outputs, geometry.width, [PerceiverLayer(geometry, cross=True)])

    def read(self, features_STF: Tensor) -> Tensor:
        """What the layers read of each token: the features projected to ``[S, T, D]``."""
        if self.normalise_features:
            features_STF = rms_normalised(features_STF)
        out: Tensor = self.feature_projection(features_STF)
        return out

    def latents(self, context_STD: Tensor, mask_ST: Tensor) -> Tensor:
        """Latents ``[S, latents, D]`` of each sequence that ``read`` gave; positions where ``mask``
        is false are not read. A sequence masked throughout gives finite, meaningless latents."""
        additive = torch.zeros_like(mask_ST, dtype=torch.float32).masked_fill(
            ~mask_ST, torch.finfo(torch.float32).min
        )
        out: Tensor = self.encoder(context_STD, additive[:, None, None, :])
        return out

    def vectors(self, context_STD: Tensor, mask_ST: Tensor) -> Tensor:
        """Vectors ``[S, outputs, D]`` of sequences that ``read`` gave."""
        out: Tensor = self.decoder(self.latents(context_STD, mask_ST), None)
        return out

    def forward(self, features_STF: Tensor, mask_ST: Tensor) -> Tensor:
        return self.vectors(self.read(features_STF), mask_ST)


def _encoder_layers(
    geometry: Geometry, blocks: int, self_attention_per_block: int, shared_weights: bool
) -> list[PerceiverLayer]:
    layers: list[PerceiverLayer] = []
    period = 1 + self_attention_per_block
    for index in range(blocks * period):
        block, position = divmod(index, period)
        first_block_with_own_weights = 1 if position == 0 else 0
        if shared_weights and block > first_block_with_own_weights:
            layers.append(layers[first_block_with_own_weights * period + position])
        else:
            layers.append(PerceiverLayer(geometry, cross=position == 0))
    return layers
