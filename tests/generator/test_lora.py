import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator.lora import (
    InvalidLora,
    LoraWeights,
    NonFiniteWeights,
    WeightsTooLarge,
    combine,
    compose,
)
from tests.generator.models import LAYERS, THREE_MODULES, base_model


def lora(seed: int = 0, rank: int = 2, scaling: float = 3.0, layers: int = LAYERS) -> LoraWeights:
    torch.manual_seed(seed)
    return LoraWeights(
        {m: torch.randn(layers, rank, d_in) for m, (d_in, _) in THREE_MODULES.items()},
        {m: torch.randn(layers, rank, d_out) for m, (_, d_out) in THREE_MODULES.items()},
        scaling,
    )


def delta(weights: LoraWeights, module: str) -> Tensor:
    return weights.scaling * weights.B[module].mT @ weights.A[module]


@settings(max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5), st.booleans())
def test_combining_sums_the_deltas_and_adds_up_the_ranks(ranks: list[int], biased: bool) -> None:
    chunks = [lora(seed, rank) for seed, rank in enumerate(ranks)]
    bias = lora(99, 3) if biased else None
    combined = combine(chunks, bias)
    assert combined.rank == sum(ranks) + (3 if biased else 0)
    for module in THREE_MODULES:
        want = sum(delta(part, module) for part in [*chunks, *([bias] if bias else [])])
        torch.testing.assert_close(delta(combined, module), want, rtol=1e-4, atol=1e-4)


def test_chunks_lie_in_their_order_and_the_bias_last() -> None:
    first, second, bias = lora(0), lora(1), lora(2)
    combined = combine([first, second], bias)
    for index, part in enumerate((first, second, bias)):
        rows = slice(2 * index, 2 * index + 2)
        assert torch.equal(combined.A["down_proj"][:, rows], part.A["down_proj"])


@pytest.mark.parametrize("other", [lora(scaling=4.0), lora(layers=2)])
def test_parts_for_different_models_do_not_combine(other: LoraWeights) -> None:
    with pytest.raises(InvalidLora, match=r"parts disagree: 3 layers of .* scaled by 3\.0"):
        combine([lora(), other], None)
    with pytest.raises(InvalidLora, match="no chunk"):
        combine([], lora())


def test_composing_sums_weighted_deltas_over_all_modules() -> None:
    document, task = lora(0, rank=4), lora(1, rank=2, scaling=0.5)
    task = LoraWeights({"q_proj": task.A["q_proj"]}, {"q_proj": task.B["q_proj"]}, task.scaling)
    composed = compose([(document, 1.0), (task, -2.0)])
    assert composed.rank == 6
    for module in THREE_MODULES:
        want = delta(document, module)
        if module == "q_proj":
            want = want - 2.0 * delta(task, module)
        torch.testing.assert_close(delta(composed, module), want, rtol=1e-4, atol=1e-4)


def test_adapters_of_different_models_do_not_compose() -> None:
    other = LoraWeights(
        {"q_proj": torch.ones(LAYERS, 2, 5)}, {"q_proj": torch.ones(LAYERS, 2, 7)}, 1.0
    )
    for wrong in (other, lora(layers=2)):
        with pytest.raises(InvalidLora, match="adapters disagree: 3 layers of"):
            compose([(lora(), 1.0), (wrong, 1.0)])
    with pytest.raises(InvalidLora, match="no adapter"):
        compose([])


def test_strength_scales_the_delta() -> None:
    torch.testing.assert_close(delta(lora().scaled(0.5), "q_proj"), 0.5 * delta(lora(), "q_proj"))


def test_the_norm_is_that_of_the_largest_layers_delta() -> None:
    weights = lora()
    largest = max(float(torch.linalg.matrix_norm(delta(weights, m)).max()) for m in THREE_MODULES)
    assert weights.norm == pytest.approx(largest, rel=1e-5)


def test_weights_within_the_bound_pass_and_larger_ones_are_refused_by_module_and_layer() -> None:
    weights = lora()
    weights.A["o_proj"][1] *= 100
    weights.check(weights.norm * 1.01)
    with pytest.raises(WeightsTooLarge, match=r"o_proj in layer 1 has norm .* at most 50 "):
        weights.check(50)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_module_and_layer(value: float) -> None:
    weights = lora()
    weights.B["q_proj"][2, 1, 3] = value
    with pytest.raises(NonFiniteWeights, match="B of q_proj in layer 2"):
        weights.check(1e9)


def test_a_delta_too_large_to_measure_is_too_large() -> None:
    weights = lora()
    weights.A["q_proj"][0] = 3e38
    weights.B["q_proj"][0] = 3e38
    with pytest.raises(WeightsTooLarge, match="q_proj in layer 0 has norm inf"):
        weights.scaled(1e300).check(1e300)


@pytest.mark.parametrize("rank", [1, 5])
def test_saved_and_loaded_it_is_the_same_delta(tmp_path: Path, rank: int) -> None:
    weights = lora(rank=rank)
    weights.save(tmp_path, "some/base")
    loaded = LoraWeights.load(tmp_path)
    assert (loaded.rank, loaded.layers) == (rank, LAYERS)
    for module in THREE_MODULES:
        torch.testing.assert_close(delta(loaded, module), delta(weights, module))


def test_the_saved_folder_is_what_peft_and_strict_readers_expect(tmp_path: Path) -> None:
    lora().save(tmp_path, "some/base")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (2, 2)
    assert config["base_model_name_or_path"] == "some/base"
    assert config["target_modules"] == ["down_proj", "o_proj", "q_proj"]
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.model.layers.2.self_attn.q_proj"
    assert tensors[f"{prefix}.lora_A.weight"].shape == (2, 16)
    assert tensors[f"{prefix}.lora_B.weight"].shape == (16, 2)
    model = PeftModel.from_pretrained(base_model(), tmp_path)
    layer: Any = model.get_submodule("base_model.model.model.layers.1.mlp.down_proj")
    torch.testing.assert_close(layer.get_delta_weight("default"), delta(lora(), "down_proj")[1])


@pytest.mark.parametrize(("rslora", "factor"), [(False, 5 / 2), (True, 5 / 2**0.5)])
def test_other_scalings_of_peft_are_understood(tmp_path: Path, rslora: bool, factor: float) -> None:
    lora(scaling=1.0).save(tmp_path, "base")
    edit_config(tmp_path, lora_alpha=5, use_rslora=rslora)
    want = factor * delta(lora(scaling=1.0), "q_proj")
    torch.testing.assert_close(delta(LoraWeights.load(tmp_path), "q_proj"), want)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": 4}, "says r = 4, the weights have rank 2"),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern is not supported"),
        ({"peft_type": "IA3"}, "does not describe a LoRA"),
    ],
)
def test_a_config_that_means_something_else_is_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    lora().save(tmp_path, "base")
    edit_config(tmp_path, **changes)
    with pytest.raises(InvalidLora, match=message):
        LoraWeights.load(tmp_path)


KEY = "base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda tensors: tensors.pop(KEY), f"lacks {KEY}"),
        (lambda tensors: tensors.update({"lm_head.lora_A.weight": torch.zeros(2, 2)}), "lm_head"),
        (lambda tensors: tensors.update({KEY: torch.zeros(5, 2)}), "stack expects"),
        (lambda tensors: tensors.clear(), "holds no tensors"),
    ],
)
def test_weights_that_are_not_one_whole_lora_are_refused(
    tmp_path: Path, edit: Any, message: str
) -> None:
    lora().save(tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(InvalidLora, match=message):
        LoraWeights.load(tmp_path)


def test_a_folder_that_is_cut_off_or_missing_is_refused(tmp_path: Path) -> None:
    lora().save(tmp_path, "base")
    path = tmp_path / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(InvalidLora, match="is not a PEFT adapter"):
        LoraWeights.load(tmp_path)
    with pytest.raises(InvalidLora, match="is not a PEFT adapter"):
        LoraWeights.load(tmp_path / "nowhere")


def test_factors_of_different_ranks_or_modules_are_no_lora() -> None:
    good = lora()
    with pytest.raises(InvalidLora, match=r"B of o_proj is .* \[3, 1, 16\], must be .* \[3, 2, "):
        LoraWeights(good.A, {**good.B, "o_proj": good.B["o_proj"][:, :1]}, 1.0)
    with pytest.raises(InvalidLora, match="A has modules"):
        LoraWeights(good.A, {"q_proj": good.B["q_proj"]}, 1.0)
    with pytest.raises(InvalidLora, match=r"torch\.float64"):
        LoraWeights({**good.A, "q_proj": good.A["q_proj"].double()}, good.B, 1.0)


def test_the_value_cannot_be_given_other_factors() -> None:
    with pytest.raises(TypeError):
        lora().A["q_proj"] = torch.zeros(1)  # type: ignore[index]
    with pytest.raises(AttributeError):
        lora().scaling = 1.0  # type: ignore[misc]
