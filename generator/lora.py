"""LoRA weights as values, and where they sit in a transformers causal language model.

Shape suffixes: L decoder layers, R rank.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator.durable import sync

# The parent of each linear layer inside a decoder layer, the same in Gemma, Mistral, Qwen, Llama.
MODULE_PARENTS = {
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"


class InvalidLora(ValueError):
    """Tensors or files that are not one LoRA: missing parts, shapes that disagree."""


class NonFiniteWeights(ValueError):
    """A factor holds NaN or infinity; served, it would spoil every request in its batch."""


class WeightsTooLarge(ValueError):
    """A layer's delta is larger than the caller allows."""


@dataclass(frozen=True, slots=True, eq=False)
class LoraWeights:
    """One LoRA for a whole model: ``y = W x + scaling * B^T A x`` in every layer.

    ``A[m]`` is ``[L, R, d_in]`` and ``B[m]`` ``[L, R, d_out]`` (rank-major) in float32 for each
    target module m; L and R are the same for all. Raises InvalidLora where they are not.
    """

    A: Mapping[str, Tensor]
    B: Mapping[str, Tensor]
    scaling: float

    def __post_init__(self) -> None:
        if not self.A or set(self.A) != set(self.B):
            raise InvalidLora(f"A has modules {sorted(self.A)}, B has {sorted(self.B)}")
        L, R = next(iter(self.A.values())).shape[:2]
        for side, tensors in (("A", self.A), ("B", self.B)):
            for module, x in tensors.items():
                if x.ndim != 3 or x.shape[:2] != (L, R) or x.dtype != torch.float32:
                    raise InvalidLora(
                        f"{side} of {module} is {x.dtype} of shape {list(x.shape)}, "
                        f"must be torch.float32 of shape [{L}, {R}, width]"
                    )
        for name in ("A", "B"):
            in_order = dict(sorted(getattr(self, name).items()))
            object.__setattr__(self, name, MappingProxyType(in_order))

    @property
    def layers(self) -> int:
        return next(iter(self.A.values())).shape[0]

    @property
    def rank(self) -> int:
        return next(iter(self.A.values())).shape[1]

    @property
    def norm(self) -> float:
        """Largest Frobenius norm of a layer's delta; infinite or NaN if the weights are."""
        return max(float(self._norms(module).max()) for module in self.A)

    def scaled(self, strength: float) -> "LoraWeights":
        """The same LoRA with its delta multiplied by ``strength``."""
        return LoraWeights(self.A, self.B, self.scaling * strength)

    def check(self, max_norm: float) -> None:
        """Raises NonFiniteWeights, or WeightsTooLarge if a layer's delta has a Frobenius norm above
        ``max_norm``; the message names module and layer."""
        for module in self.A:
            for side, x in (("A", self.A[module]), ("B", self.B[module])):
                finite = x.isfinite().all(-1).all(-1)
                if not finite.all():
                    layer = int((~finite).nonzero()[0])
                    raise NonFiniteWeights(
                        f"{side} of {module} in layer {layer} holds values that are not finite"
                    )
        norms = {module: self._norms(module) for module in self.A}
        module = max(norms, key=lambda module: float(norms[module].max()))
        largest, layer = float(norms[module].max()), int(norms[module].argmax())
        if largest > max_norm:
            raise WeightsTooLarge(
                f"the delta of {module} in layer {layer} has norm {largest:.4g}, "
                f"at most {max_norm:.4g} is allowed"
            )

    def save(self, folder: Path, base_model: str) -> None:
        """Writes the adapter for PEFT and vLLM into the existing ``folder`` and syncs it to disk.

        The scaling goes into B and ``lora_alpha`` equals the rank, so that ``lora_alpha / r`` is
        one: an integer for strict readers, and B is rounded once where weights are cast to bf16.
        """
        tensors = {}
        for module, A in self.A.items():
            B = self.B[module] * self.scaling
            for layer in range(self.layers):
                key = _peft_key(layer, module)
                tensors[f"{key}.lora_A.weight"] = A[layer].contiguous()
                tensors[f"{key}.lora_B.weight"] = B[layer].T.contiguous()
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_model,
            "r": self.rank,
            "lora_alpha": self.rank,
            "lora_dropout": 0.0,
            "target_modules": list(self.A),
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "inference_mode": True,
            "init_lora_weights": True,
            "modules_to_save": None,
        }
        save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n")
        for path in (folder / WEIGHTS_FILE, folder / CONFIG_FILE, folder):
            sync(path)

    @classmethod
    def load(cls, folder: Path) -> "LoraWeights":
        """Reads a PEFT LoRA over the same modules in every layer. Raises InvalidLora."""
        config, tensors = _read_peft(folder)
        stacked: dict[str, dict[str, list[Tensor]]] = {"A": {}, "B": {}}
        layers = 1 + max(layer for layer, _, _ in tensors)
        for module in sorted({module for _, module, _ in tensors}):
            for side in ("A", "B"):
                try:
                    factors = [tensors[layer, module, side] for layer in range(layers)]
                except KeyError as missing:
                    layer, module, side = missing.args[0]
                    key = f"{_peft_key(layer, module)}.lora_{side}.weight"
                    raise InvalidLora(f"{folder / WEIGHTS_FILE} lacks {key}") from None
                if side == "B":
                    factors = [x.T for x in factors]
                stacked[side][module] = factors
        try:
            A, B = (
                {module: torch.stack(factors) for module, factors in stacked[side].items()}
                for side in ("A", "B")
            )
            rank = config["r"]
            scaling = config["lora_alpha"] / (math.sqrt(rank) if config["use_rslora"] else rank)
            weights = cls(A, B, scaling)
        except (InvalidLora, RuntimeError) as error:
            raise InvalidLora(f"{folder / WEIGHTS_FILE}: {error}") from None
        if weights.rank != rank:
            raise InvalidLora(
                f"{folder}: {CONFIG_FILE} says r = {rank}, the weights have rank {weights.rank}"
            )
        return weights

    def _norms(self, module: str) -> Tensor:
        """Frobenius norm of each layer's delta, ``[L]``, without forming it: the trace of the
        product of the two R x R Gram matrices."""
        A, B = self.A[module].double(), self.B[module].double()
        squared = ((A @ A.mT) * (B @ B.mT)).sum((-1, -2)).clamp_min(0)
        return abs(self.scaling) * squared.sqrt()


def combine(chunks: Sequence[LoraWeights], bias: LoraWeights | None) -> LoraWeights:
    """One LoRA whose delta is the sum of the chunks' deltas and the bias's.

    The ranks lie side by side in the order given, the bias last (Doc-to-LoRA, arXiv 2602.15902).
    Raises InvalidLora if there is nothing to combine or the parts are not for the same model.
    """
    parts = [*chunks, bias] if bias is not None else list(chunks)
    if not chunks:
        raise InvalidLora("there is no chunk to combine")
    for part in parts:
        if part.scaling != parts[0].scaling or _widths(part) != _widths(parts[0]):
            raise InvalidLora(
                f"parts disagree: {_widths(parts[0])} scaled by {parts[0].scaling}, "
                f"{_widths(part)} scaled by {part.scaling}"
            )
    modules = parts[0].A
    return LoraWeights(
        {m: torch.cat([part.A[m] for part in parts], dim=1) for m in modules},
        {m: torch.cat([part.B[m] for part in parts], dim=1) for m in modules},
        parts[0].scaling,
    )


def compose(parts: Sequence[tuple[LoraWeights, float]]) -> LoraWeights:
    """One LoRA whose delta is the weighted sum of several adapters' deltas.

    The ranks lie side by side in the order given; where an adapter has no delta for a module of
    another's, its share of the rank is zero. Raises InvalidLora if there is nothing to compose or
    the adapters are not for the same model.
    """
    if not parts:
        raise InvalidLora("there is no adapter to compose")
    widths: dict[str, tuple[int, int]] = {}
    for lora, _ in parts:
        for module, x in lora.A.items():
            own = x.shape[2], lora.B[module].shape[2]
            if widths.setdefault(module, own) != own or lora.layers != parts[0][0].layers:
                raise InvalidLora(f"adapters disagree: {_widths(parts[0][0])}, {_widths(lora)}")

    def nothing(lora: LoraWeights, width: int) -> Tensor:
        return torch.zeros(lora.layers, lora.rank, width)

    A = {
        module: torch.cat([lora.A.get(module, nothing(lora, d_in)) for lora, _ in parts], 1)
        for module, (d_in, _) in widths.items()
    }
    B = {
        module: torch.cat(
            [
                lora.B.get(module, nothing(lora, d_out)) * (lora.scaling * weight)
                for lora, weight in parts
            ],
            1,
        )
        for module, (_, d_out) in widths.items()
    }
    return LoraWeights(A, B, 1.0)


def _widths(lora: LoraWeights) -> str:
    modules = (f"{m} {A.shape[2]}->{lora.B[m].shape[2]}" for m, A in lora.A.items())
    return f"{lora.layers} layers of {', '.join(modules)}"


def _peft_key(layer: int, module: str) -> str:
    return f"base_model.model.model.layers.{layer}.{MODULE_PARENTS[module]}.{module}"


_PEFT_KEY = re.compile(
    r"base_model\.model\.model\.layers\.(?P<layer>\d+)\.(?P<parent>\w+)\.(?P<module>\w+)"
    r"\.lora_(?P<side>[AB])\.weight"
)


def _read_peft(folder: Path) -> tuple[dict[str, Any], dict[tuple[int, str, str], Tensor]]:
    """The configuration and the float32 tensors by (layer, module, "A" or "B")."""
    try:
        config = {"use_rslora": False} | json.loads((folder / CONFIG_FILE).read_text())
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, SafetensorError) as error:
        raise InvalidLora(f"{folder} is not a PEFT adapter: {error}") from None
    if config.get("peft_type") != "LORA" or not {"r", "lora_alpha"} <= set(config):
        raise InvalidLora(f"{folder / CONFIG_FILE} does not describe a LoRA with r and lora_alpha")
    for extension in ("use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(extension):
            raise InvalidLora(f"{folder / CONFIG_FILE}: {extension} is not supported")
    named = {}
    for key, x in tensors.items():
        match = _PEFT_KEY.fullmatch(key)
        if match is None or MODULE_PARENTS.get(match["module"]) != match["parent"]:
            raise InvalidLora(f"{folder / WEIGHTS_FILE}: no place for {key}")
        named[int(match["layer"]), match["module"], match["side"]] = x.float()
    if not named:
        raise InvalidLora(f"{folder / WEIGHTS_FILE} holds no tensors")
    return config, named
