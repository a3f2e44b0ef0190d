"""Adapters against a base model of two layers, made on the spot."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from server.adapter_check import AdapterCheck, Layers, linear_layers
from server.residency import EngineRefused

HIDDEN, INNER, RANK = 16, 24, 4
MODEL = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "vocab_size": 32,
}
Tensors = dict[str, Tensor]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    (folder / "config.json").write_text(json.dumps(MODEL))
    return folder


@pytest.fixture(scope="session")
def layers(base: Path) -> Layers:
    return linear_layers(base, ("down_proj", "k_proj"))


def key(layer: int, side: str, module: str = "mlp.down_proj") -> str:
    return f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"


def good() -> Tensors:
    return {
        key(layer, side): torch.randn(RANK, INNER) if side == "A" else torch.randn(HIDDEN, RANK)
        for layer in range(2)
        for side in "AB"
    }


def write(folder: Path, tensors: Tensors, **config: Any) -> Path:
    save_file(tensors, folder / "adapter_model.safetensors")
    written = {"r": RANK, "lora_alpha": 8.0, "target_modules": ["down_proj"], **config}
    (folder / "adapter_config.json").write_text(json.dumps(written))
    return folder


def check(layers: Layers, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    AdapterCheck(layers, max_rank=8, dtype=dtype).check(folder)


def test_the_base_model_s_layers_are_known_without_its_weights(layers: Layers) -> None:
    assert layers == {
        "model.layers.0.mlp.down_proj": (INNER, HIDDEN),
        "model.layers.1.mlp.down_proj": (INNER, HIDDEN),
        "model.layers.0.self_attn.k_proj": (HIDDEN, 8),
        "model.layers.1.self_attn.k_proj": (HIDDEN, 8),
    }


def test_a_layer_that_the_base_model_does_not_have_is_refused_with_those_it_has(
    base: Path,
) -> None:
    with pytest.raises(ValueError, match=r"no linear layer 'fc'; it has down_proj, gate_proj"):
        linear_layers(base, ("fc",))


def test_a_right_adapter_passes(layers: Layers, tmp_path: Path) -> None:
    check(layers, write(tmp_path, good()))


def test_an_adapter_may_change_fewer_kinds_of_layers_than_the_engine_wraps(
    layers: Layers, tmp_path: Path
) -> None:
    check(layers, write(tmp_path, good(), target_modules=["down_proj"]))


def drop(tensors: Tensors) -> None:
    del tensors[key(1, "B")]


def add_layer(tensors: Tensors) -> None:
    tensors[key(2, "A")] = torch.randn(RANK, INNER)
    tensors[key(2, "B")] = torch.randn(HIDDEN, RANK)


def other_module(tensors: Tensors) -> None:
    tensors[key(0, "A", "mlp.up_proj")] = torch.randn(RANK, HIDDEN)


def too_few_columns(tensors: Tensors) -> None:
    tensors[key(0, "A")] = torch.randn(RANK, INNER - 1)


def other_rank(tensors: Tensors) -> None:
    tensors[key(0, "B")] = torch.randn(HIDDEN, RANK + 1)


def transposed(tensors: Tensors) -> None:
    tensors[key(0, "B")] = torch.randn(RANK, HIDDEN)


def not_a_number(tensors: Tensors) -> None:
    tensors[key(1, "A")][2, 3] = float("nan")


def infinite(tensors: Tensors) -> None:
    tensors[key(0, "B")][2, 3] = float("inf")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (drop, r"lacks 1 weights, first .*layers\.1.*lora_B"),
        (add_layer, r"2 weights that this engine does not use, first .*layers\.2.*lora_A"),
        (other_module, r"1 weights .* first .*up_proj.*; it uses layers down_proj, k_proj"),
        (too_few_columns, r"lora_A\.weight is \(4, 23\); the base model needs \(4, 24\)"),
        (other_rank, r"lora_B\.weight is \(16, 5\); the base model needs \(16, 4\)"),
        (transposed, r"lora_B\.weight is \(4, 16\); the base model needs \(16, 4\)"),
        (not_a_number, r"layers\.1.*lora_A\.weight has values that are not finite"),
        (infinite, r"layers\.0.*lora_B\.weight has values that are not finite"),
    ],
)
def test_wrong_weights_are_refused_by_name(
    layers: Layers, tmp_path: Path, spoil: Callable[[Tensors], None], says: str
) -> None:
    tensors = good()
    spoil(tensors)
    with pytest.raises(EngineRefused, match=says):
        check(layers, write(tmp_path, tensors))


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"r": 9}, "rank is 9; this engine takes 1 to 8"),
        ({"r": 0}, "rank is 0"),
        ({"target_modules": ["fc"]}, "4 weights that this engine does not use"),
        ({"target_modules": ["down_proj", "k_proj"]}, "lacks 4 weights, first .*k_proj"),
        ({"lora_alpha": None}, "cannot be read"),
        ({"lora_alpha": float("inf")}, "not finite"),
    ],
)
def test_a_wrong_config_is_refused(
    layers: Layers, tmp_path: Path, config: dict[str, Any], says: str
) -> None:
    with pytest.raises(EngineRefused, match=says):
        check(layers, write(tmp_path, good(), **config))


def test_an_adapter_of_nothing_is_refused(layers: Layers, tmp_path: Path) -> None:
    with pytest.raises(EngineRefused, match="no weights"):
        check(layers, write(tmp_path, {}, target_modules=["fc"]))


def test_weights_that_the_engine_s_number_type_cannot_hold_are_refused(
    layers: Layers, tmp_path: Path
) -> None:
    tensors = good()
    tensors[key(0, "B")][0, 0] = 40_000.0  # twice that, by the scaling, is no float16
    folder = write(tmp_path, tensors)
    check(layers, folder, torch.bfloat16)
    with pytest.raises(EngineRefused, match=r"not finite numbers in torch\.float16"):
        check(layers, folder, torch.float16)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_file_that_is_missing_or_cut_off_is_refused(
    layers: Layers, tmp_path: Path, name: str
) -> None:
    file = write(tmp_path, good()) / name
    content = file.read_bytes()
    for left in (content[: len(content) // 2], b"", None):
        file.unlink() if left is None else file.write_bytes(left)
        with pytest.raises(EngineRefused, match="cannot be read") as refused:
            check(layers, tmp_path)
        assert str(tmp_path) not in str(refused.value)
