"""What an adapter must look like to be right for the base model.

vLLM takes adapters with missing columns, layers that do not exist and NaNs without a word; such an
adapter gives wrong answers, and NaNs reach other requests through reused cache blocks. So every
adapter is checked here before the engine sees it.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoModelForCausalLM

from generator.hub import model_config
from server.residency import EngineRefused

log = logging.getLogger(__name__)

PREFIX = "base_model.model."

# a layer's name in the base model -> its inputs and outputs
Layers = Mapping[str, tuple[int, int]]


def linear_layers(model: Path | str, target_modules: tuple[str, ...]) -> Layers:
    """The layers of the base model that adapters change; reads its config, not its weights.

    Raises ValueError when the base model has no linear layer of a target module's name.
    """
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(
            model_config(str(model)), trust_remote_code=False
        )
    layers = {
        name: (module.in_features, module.out_features)
        for name, module in skeleton.named_modules()
        if isinstance(module, nn.Linear)
    }
    kinds = {_kind(name) for name in layers}
    for target in target_modules:
        if target not in kinds:
            raise ValueError(
                f"The base model {model} has no linear layer {target!r}; "
                f"it has {', '.join(sorted(kinds))}."
            )
    return {name: size for name, size in layers.items() if _kind(name) in target_modules}


class AdapterCheck:
    """The keys, shapes and ranks that adapters of one base model have, in the engine's `dtype`."""

    def __init__(self, layers: Layers, max_rank: int, dtype: torch.dtype) -> None:
        self.layers = layers
        self.max_rank = max_rank
        self.dtype = dtype

    def check(self, folder: Path) -> None:
        """Read the whole adapter in `folder`; raises EngineRefused with what is wrong with it."""
        try:
            config = json.loads((folder / "adapter_config.json").read_text())
            rank, declared = int(config["r"]), set(config["target_modules"])
            self._check_rank(rank)
            scaling = config["lora_alpha"] / rank
            with safe_open(folder / "adapter_model.safetensors", framework="pt") as weights:
                self._check_keys(set(weights.keys()), declared)
                for key in weights.keys():  # noqa: SIM118 (not a mapping)
                    self._check_tensor(key, weights.get_tensor(key), rank, scaling)
        except (OSError, SafetensorError) as error:  # they name the file
            log.exception("an adapter cannot be read")
            raise EngineRefused(
                f"The files of the adapter {folder.name} cannot be read."
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise EngineRefused(
                f"The adapter in {folder.name} cannot be read: {error!r}"
            ) from error

    def _check_rank(self, rank: int) -> None:
        if not 1 <= rank <= self.max_rank:
            raise EngineRefused(
                f"The adapter's rank is {rank}; this engine takes 1 to {self.max_rank}."
            )

    def _check_keys(self, keys: set[str], declared: set[str]) -> None:
        expected = {
            f"{PREFIX}{name}.lora_{side}.weight"
            for name in self.layers
            if _kind(name) in declared
            for side in "AB"
        }
        if missing := sorted(expected - keys):
            raise EngineRefused(f"The adapter lacks {len(missing)} weights, first {missing[0]}.")
        if unknown := sorted(keys - expected):
            raise EngineRefused(
                f"The adapter has {len(unknown)} weights that this engine does not use, first "
                f"{unknown[0]}; it uses layers {', '.join(sorted(self._kinds()))}."
            )
        if not expected:
            raise EngineRefused("The adapter has no weights.")

    def _check_tensor(self, key: str, weight: torch.Tensor, rank: int, scaling: float) -> None:
        name, side, _ = key.removeprefix(PREFIX).rsplit(".", 2)
        inputs, outputs = self.layers[name]
        shape = (rank, inputs) if side == "lora_A" else (outputs, rank)
        if tuple(weight.shape) != shape:
            raise EngineRefused(
                f"The adapter's {key} is {tuple(weight.shape)}; the base model needs {shape}."
            )
        # as vLLM stores it: its scaling is folded into B, in the engine's number type
        stored = weight.to(self.dtype) * (1 if side == "lora_A" else scaling)
        if not torch.isfinite(stored).all():
            raise EngineRefused(
                f"The adapter's {key} has values that are not finite numbers in {self.dtype}."
            )

    def _kinds(self) -> set[str]:
        return {_kind(name) for name in self.layers}


def _kind(module: str) -> str:
    """`down_proj` of `model.layers.0.mlp.down_proj`."""
    return module.rpartition(".")[2]
