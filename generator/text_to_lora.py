"""Text-to-LoRA: the embedding of a task's description to the LoRA that makes a base model do it.

Source: Text-to-LoRA (arXiv 2506.06105) and its published checkpoints.

Shape suffixes: B descriptions, L base layers, M target modules (in sorted name order), E embedding
size, X trunk width, H head size, R rank.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from generator.hypernetwork import Factors, InvalidHypernetworkConfig, check_counts, check_modules

MLP_RATIO = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHypernetworkConfig:
    """Everything that fixes the shapes and the equations of one hypernetwork.

    ``modules`` maps each target module's name to its input and output width; ``layers`` is the
    number of decoder layers of the base model. Defaults are the published flags'.
    """

    modules: Mapping[str, tuple[int, int]]
    layers: int
    embedding_size: int  # of the description encoder
    rank: int = 8
    scaling: float  # factor of the delta: ``y = W x + scaling * B^T A x``; not divided by the rank
    latent_size: int = 128
    head_size: int = 512
    shared_heads: bool = False  # one head a module makes A and B, told apart by an embedding
    head_bias: bool = True
    affine: bool = False  # A and B are scaled and shifted: a z-score undone, an offset added

    def __post_init__(self) -> None:
        object.__setattr__(self, "modules", check_modules(self.modules))
        check_counts(self, _COUNTS)
        if not (math.isfinite(self.scaling) and self.scaling > 0):
            raise InvalidHypernetworkConfig(
                f"scaling is {self.scaling}, must be finite and positive"
            )

    @property
    def trunk_width(self) -> int:
        """Width X of what goes through the MLPs: task, layer and module side by side."""
        return self.latent_size // 2 + 2 * (self.latent_size // 4)

    def head_rows(self, module: str) -> int:
        """Width of one rank's share of the module's head: A row and B row, or the wider of them."""
        return max(self.modules[module]) if self.shared_heads else sum(self.modules[module])


_COUNTS = {"layers": 1, "embedding_size": 1, "rank": 1, "latent_size": 4, "head_size": 1}


class TextToLora(nn.Module):
    """The hypernetwork. Untrained, with heads of their own for A and B, it generates LoRAs that
    change nothing (B is zero)."""

    def __init__(self, config: TextHypernetworkConfig) -> None:
        super().__init__()
        self.config = config
        task, part = config.latent_size // 2, config.latent_size // 4
        X, H, L, R = config.trunk_width, config.head_size, config.layers, config.rank
        self.task_projection = nn.Sequential(
            nn.Linear(config.embedding_size, task), nn.LayerNorm(task)
        )
        self.layer_embedding = nn.Sequential(nn.Embedding(L, part), nn.LayerNorm(part))
        self.module_embedding = nn.Sequential(
            nn.Embedding(len(config.modules), part), nn.LayerNorm(part)
        )
        self.mixer = _Mlp(X, X, norm=False)
        self.block_before_split = _Mlp(X, X)
        self.block = _Mlp(X, X)
        self.before_head = _Mlp(X, H)
        self.heads = nn.ModuleDict(
            {m: nn.Linear(H, R * config.head_rows(m), config.head_bias) for m in config.modules}
        )
        if config.shared_heads:
            self.side_embedding = nn.ParameterDict(
                {m: torch.randn(2, X) for m in config.modules}  # of A, of B
            )
            self.side_norm = nn.LayerNorm(X)
        if config.affine:
            self.scale_A, self.shift_A = self._affine(0)
            self.scale_B, self.shift_B = self._affine(1)
        if not config.shared_heads:
            self._start_without_effect()

    def forward(self, embeddings: Tensor) -> Factors:
        """LoRA of each description from its embedding ``[B, E]``; ``A[m] [B, L, R, d_in]`` and
        ``B[m] [B, L, R, d_out]``."""
        task = self.task_projection(embeddings)[:, None, None]
        of_layer, of_module = self.layer_embedding[0].weight, self.module_embedding[0].weight
        layers = self.layer_embedding[1](of_layer)[None, :, None]
        modules = self.module_embedding[1](of_module)[None, None]
        shape = (len(embeddings), self.config.layers, len(self.config.modules), -1)
        x = torch.cat([part.expand(shape) for part in (task, layers, modules)], -1)
        x = self.mixer(x)
        x = x + self.block_before_split(x)
        A, B = {}, {}
        for index, module in enumerate(self.config.modules):
            A[module], B[module] = self._factors(module, x[:, :, index])
        if self.config.affine:
            A = {m: a * self.scale_A[m] + self.shift_A[m] for m, a in A.items()}
            B = {m: b * self.scale_B[m] + self.shift_B[m] for m, b in B.items()}
        return Factors(A, B)

    def _factors(self, module: str, x: Tensor) -> tuple[Tensor, Tensor]:  # x: [B, L, X]
        d_in, d_out = self.config.modules[module]
        head, R = self._head(module), self.config.rank
        if self.config.shared_heads:
            sides = x[:, :, None] + self.side_norm(self.side_embedding[module])
            rows = head(self._before_head(sides)).unflatten(-1, (R, -1))  # [B, L, 2, R, widest]
            return rows[:, :, 0, :, :d_in], rows[:, :, 1, :, :d_out]
        a, b = head(self._before_head(x)).split([R * d_in, R * d_out], -1)
        return a.unflatten(-1, (R, d_in)), b.unflatten(-1, (R, d_out))

    def _before_head(self, x: Tensor) -> Tensor:
        out: Tensor = self.before_head(x + self.block(x))
        return out

    def _head(self, module: str) -> nn.Linear:
        head = self.heads[module]
        assert isinstance(head, nn.Linear)
        return head

    def _affine(self, side: int) -> tuple[nn.ParameterDict, nn.ParameterDict]:
        shapes = {
            m: (self.config.layers, self.config.rank, widths[side])
            for m, widths in self.config.modules.items()
        }
        return (
            nn.ParameterDict({m: torch.ones(shape) for m, shape in shapes.items()}),
            nn.ParameterDict({m: torch.zeros(shape) for m, shape in shapes.items()}),
        )

    @torch.no_grad()
    def _start_without_effect(self) -> None:
        """Rows of A begin like a LoRA's, rows of B at zero."""
        for module, (d_in, _) in self.config.modules.items():
            head, rows_of_A = self._head(module), self.config.rank * d_in
            head.weight[rows_of_A:] = 0
            if head.bias is not None:
                head.bias[rows_of_A:] = 0
                nn.init.normal_(head.bias[:rows_of_A], std=d_in**-0.5)


class _Mlp(nn.Module):
    """``silu(down(silu(up(norm(x)))))``, four times as wide inside."""

    def __init__(self, size_in: int, size_out: int, *, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size_in) if norm else nn.Identity()
        self.up = nn.Linear(size_in, MLP_RATIO * size_in)
        self.down = nn.Linear(MLP_RATIO * size_in, size_out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.silu(self.down(functional.silu(self.up(self.norm(x)))))
