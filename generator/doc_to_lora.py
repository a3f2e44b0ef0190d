"""Doc-to-LoRA: features of a chunk of a document to the LoRA that makes a base model know it.

Source: Doc-to-LoRA (arXiv 2602.15902) and its published checkpoints.

Shape suffixes: B chunks, L base layers, T tokens, F feature size, M target modules (in sorted name
order), R rank of one chunk, D latent size.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from generator.hypernetwork import (
    Factors,
    InvalidHypernetworkConfig,
    check_counts,
    check_modules,
)
from generator.perceiver import Geometry, Perceiver

ContextKind = Literal["per_layer_activations", "early_exit", "embed_only"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HypernetworkConfig:
    """Everything that fixes the shapes and the equations of one hypernetwork.

    ``modules`` maps each target module's name to its input and output width; ``layers`` is the
    number of decoder layers of the base model. Defaults are the published main experiment's.
    """

    modules: Mapping[str, tuple[int, int]]
    layers: int
    feature_size: int  # hidden size of the context encoder
    rank: int = 8
    alpha: float | None = None  # multiplies the delta directly; None: 2 rank^1.5
    use_bias: bool = True
    latent_size: int = 512
    latents: int = 8
    blocks: int = 9
    self_attention_per_block: int = 0
    shared_weights: bool = False
    pre_head_layers: int = 1
    per_layer_processing: bool = True
    heads: int = 16
    kv_heads: int = 4
    head_dim: int = 128
    mlp_ratio: int = 4
    normalise_features: bool = False  # not in the published models; small ones learn faster
    context: ContextKind = "per_layer_activations"
    context_layer: int | None = None  # early_exit: how many decoder layers run
    context_last_layer: int | None = None  # per layer, with an encoder other than the base

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", check_modules(self.modules))
        check_counts(self, _COUNTS)
        if self.heads % self.kv_heads:
            raise InvalidHypernetworkConfig(
                f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise InvalidHypernetworkConfig(f"alpha is {self.alpha}, must be finite and positive")
        if (self.context == "early_exit") != (self.context_layer is not None):
            raise InvalidHypernetworkConfig(
                f"context_layer is {self.context_layer} with context {self.context!r}: "
                "it belongs to early_exit, and only there"
            )
        if self.context_layer is not None and self.context_layer < 1:
            raise InvalidHypernetworkConfig(
                f"context_layer is {self.context_layer}, must be at least 1"
            )
        if self.context_last_layer not in (None, self.layers) or (
            self.context_last_layer is not None and self.context != "per_layer_activations"
        ):
            raise InvalidHypernetworkConfig(
                f"context_last_layer is {self.context_last_layer} with context {self.context!r} "
                f"and {self.layers} layers: one feature per base layer needs null or {self.layers}"
            )

    @property
    def scaling(self) -> float:
        """Factor of the delta: ``y = W x + scaling * B^T A x``; not divided by the rank."""
        return 2 * self.rank**1.5 if self.alpha is None else self.alpha

    @property
    def layer_to_layer(self) -> bool:
        """Whether each base layer's weights come from its own features."""
        return self.context == "per_layer_activations"

    @property
    def head_width(self) -> int:
        """Width of the head's output: the widest module's A row and B row side by side."""
        return max(d_in + d_out for d_in, d_out in self.modules.values())


_COUNTS = {
    "layers": 1,
    "feature_size": 1,
    "rank": 1,
    "latent_size": 1,
    "latents": 1,
    "blocks": 1,
    "self_attention_per_block": 0,
    "pre_head_layers": 0,
    "heads": 1,
    "kv_heads": 1,
    "head_dim": 1,
    "mlp_ratio": 1,
}


class LayerwiseLinear(nn.Module):
    """A linear layer with weights of its own for every base layer: ``x[:, l] W[l] + b[l]``."""

    def __init__(self, layers: int, size_in: int, size_out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(layers, size_in, size_out) * size_in**-0.5)
        self.bias = nn.Parameter(torch.zeros(layers, size_out))

    def forward(self, x: Tensor) -> Tensor:  # [B, L, N, in] -> [B, L, N, out]
        return torch.einsum("blni,lio->blno", x, self.weight) + self.bias[:, None]


class PreHeadBlock(nn.Module):
    """``x + norm_out(down(silu(up(norm_in(x)))))``."""

    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__()
        width, hidden = config.latent_size, config.mlp_ratio * config.latent_size
        self.norm_in = nn.LayerNorm(width)
        self.norm_out = nn.LayerNorm(width)
        self.up: nn.Module
        self.down: nn.Module
        if config.per_layer_processing:
            self.up = LayerwiseLinear(config.layers, width, hidden)
            self.down = LayerwiseLinear(config.layers, hidden, width)
        else:
            self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:  # [B, L, N, D]
        hidden = functional.silu(self.up(self.norm_in(x)))
        out: Tensor = x + self.norm_out(self.down(hidden))
        return out


class DocToLora(nn.Module):
    """The hypernetwork. Untrained, it generates LoRAs that change nothing (B is zero)."""

    def __init__(self, config: HypernetworkConfig) -> None:
        super().__init__()
        self.config = config
        L, R, M, D = config.layers, config.rank, len(config.modules), config.latent_size
        self.perceiver = Perceiver(
            Geometry(D, config.heads, config.kv_heads, config.head_dim, config.mlp_ratio),
            feature_size=config.feature_size,
            latents=config.latents,
            outputs=M * R if config.layer_to_layer else L * M * R,
            blocks=config.blocks,
            self_attention_per_block=config.self_attention_per_block,
            shared_weights=config.shared_weights,
            normalise_features=config.normalise_features,
        )
        self.pre_head = nn.ModuleList(PreHeadBlock(config) for _ in range(config.pre_head_layers))
        # rows of A and B start small beside the base's own weights: the head's input has norm one
        head_std = 0.5 / math.sqrt(D + R * config.head_width)
        self.head = nn.Parameter(torch.randn(L, M, D, config.head_width) * head_std)
        self.scaler_A = nn.ParameterDict({m: torch.ones(L, R) for m in config.modules})
        self.scaler_B = nn.ParameterDict({m: torch.zeros(L, R) for m in config.modules})
        if config.use_bias:
            self.bias_A = nn.ParameterDict(
                {
                    m: torch.randn(L, R, d_in) * 0.2 / math.sqrt(d_in * R)
                    for m, (d_in, _) in config.modules.items()
                }
            )
            self.bias_B = nn.ParameterDict(
                {m: torch.zeros(L, R, d_out) for m, (_, d_out) in config.modules.items()}
            )

    def forward(self, features: Tensor, mask: Tensor) -> Factors:
        """LoRA of each chunk.

        ``features`` is ``[B, L, T, F]`` per layer, ``[B, 1, T, F]`` otherwise; ``mask`` is
        ``[B, T]``, true at tokens, false at padding. Returns ``A[m] [B, L, R, d_in]`` and
        ``B[m] [B, L, R, d_out]`` in float32.
        """
        return self.from_contexts(self.read(features), mask)

    def read(self, features: Tensor) -> Tensor:
        """What the aggregator keeps of the features ``[..., T, F]`` of each token: ``[..., T, D]``,
        usually several times less. Runs under the caller's autocast."""
        return self.perceiver.read(features)

    def from_contexts(self, contexts: Tensor, mask: Tensor) -> Factors:
        """As ``forward``, from what was read of all streams, ``[B, streams, T, D]``."""
        streams = contexts.shape[1]
        vectors = self.perceiver.vectors(contexts.flatten(0, 1), mask.repeat_interleave(streams, 0))
        return self.factors(vectors.unflatten(0, (-1, streams)))

    def aggregate(self, features: Tensor, mask: Tensor) -> Tensor:
        """Vectors ``[S, outputs, D]`` from features ``[S, T, F]`` and mask ``[S, T]`` of one stream
        of features (one layer's, or the only one). Runs under the caller's autocast."""
        out: Tensor = self.perceiver(features, mask)
        return out

    def store_products_as(self, dtype: torch.dtype) -> None:
        """Keeps the aggregator's matrices in ``dtype``, for use under autocast to it: the results
        are the same, and no call converts them again."""
        for module in self.perceiver.modules():
            if isinstance(module, nn.Linear):
                module.to(dtype)

    def factors(self, vectors: Tensor) -> Factors:
        """LoRA of each chunk from the aggregator's vectors of all streams, ``[B, streams, outputs,
        D]``. Always in float32, as published."""
        with torch.autocast(vectors.device.type, enabled=False):
            rows = self.head_rows(self.before_head(vectors.float()))
            A, B = {}, {}
            for index, (module, (d_in, d_out)) in enumerate(self.config.modules.items()):
                a, b, _ = rows[:, :, index].split(
                    [d_in, d_out, self.config.head_width - d_in - d_out], dim=-1
                )
                A[module] = a * self.scaler_A[module][:, :, None]
                B[module] = b * self.scaler_B[module][:, :, None]
        return Factors(A, B)

    def before_head(self, vectors: Tensor) -> Tensor:
        """Residual blocks before the head; ``[B, L, M, R, D]`` in layer, module, rank order."""
        L, M, R = self.config.layers, len(self.config.modules), self.config.rank
        x = vectors.reshape(-1, L, M * R, self.config.latent_size)
        for block in self.pre_head:
            x = block(x)
        return x.view(-1, L, M, R, self.config.latent_size)

    def head_rows(self, x: Tensor) -> Tensor:
        """A row and B row of each rank side by side, ``[B, L, M, R, head_width]``."""
        unit = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        rows: Tensor = torch.einsum("blmrd,lmdw->blmrw", unit, self.head)
        return rows

    def bias(self) -> Factors | None:
        """The generator's own LoRA, ``A[m] [L, R, d_in]``, added once per document."""
        if not self.config.use_bias:
            return None
        return Factors(dict(self.bias_A.items()), dict(self.bias_B.items()))

    def combine(
        self,
        chunks: Factors,
        chunks_per_document: int,
        *,
        chunk_scale: Tensor | None = None,
        bias_scale: float = 1.0,
    ) -> Factors:
        """One LoRA per document: its chunks' ranks side by side, then the bias once.

        ``chunks`` holds ``documents * chunks_per_document`` chunks, document-major. The result is
        ``[documents, L, (n + 1) R, d]`` (``n R`` without a bias), so the deltas are summed.
        ``chunk_scale`` ``[B]`` multiplies each chunk's delta (0 leaves a padding chunk out) and
        ``bias_scale`` both factors of the bias, its effect squared, as published.
        """
        A, B = chunks
        if chunk_scale is not None:
            A = {m: a * chunk_scale[:, None, None, None] for m, a in A.items()}
        bias = self.bias()
        bias_A = bias_B = None
        if bias is not None:
            bias_A = {m: a * bias_scale for m, a in bias.A.items()}
            bias_B = {m: b * bias_scale for m, b in bias.B.items()}
        return Factors(
            _side_by_side(A, chunks_per_document, bias_A),
            _side_by_side(B, chunks_per_document, bias_B),
        )


def _side_by_side(
    chunks: dict[str, Tensor], per_document: int, bias: dict[str, Tensor] | None
) -> dict[str, Tensor]:
    """``[G * n, L, R, d]`` to ``[G, L, n R, d]``, and the bias ``[L, R, d]`` once for each G."""
    combined = {}
    for module, x in chunks.items():
        x = x.unflatten(0, (-1, per_document)).transpose(1, 2).flatten(2, 3)
        if bias is not None:
            x = torch.cat([x, bias[module].expand(x.shape[0], -1, -1, -1)], dim=2)
        combined[module] = x
    return combined
