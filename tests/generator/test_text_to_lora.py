"""The hypernetwork of Text-to-LoRA; its equations are tested in importing/test_text_to_lora.py."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator import checkpoint
from generator.config import (
    InvalidGenerator,
    TextGeneratorConfig,
    read_config,
    read_doc_config,
    read_text_config,
)
from generator.hypernetwork import InvalidHypernetworkConfig
from generator.text_to_lora import TextToLora
from tests.generator.models import (
    HIDDEN,
    LAYERS,
    generator_folder,
    text_hypernetwork_config,
    trained_text,
)

VARIANTS: list[dict[str, Any]] = [
    {},
    {"shared_heads": True, "modules": {"q_proj": (HIDDEN, 16), "down_proj": (24, HIDDEN)}},
    {"affine": True, "head_bias": False},
    {"latent_size": 18, "rank": 1},
]
VARIANT = pytest.mark.parametrize("changes", VARIANTS)


def embeddings(count: int = 3) -> Tensor:
    return torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(1)) * 4


@VARIANT
def test_factors_have_a_row_for_each_description_layer_and_rank(changes: dict[str, Any]) -> None:
    config = text_hypernetwork_config(**changes)
    factors = trained_text(config)(embeddings())
    assert list(factors.A) == list(factors.B) == sorted(config.modules)
    for module, (d_in, d_out) in config.modules.items():
        assert factors.A[module].shape == (3, LAYERS, config.rank, d_in)
        assert factors.B[module].shape == (3, LAYERS, config.rank, d_out)


@VARIANT
def test_a_description_has_the_lora_that_it_would_have_alone(changes: dict[str, Any]) -> None:
    hypernetwork = trained_text(text_hypernetwork_config(**changes))
    together = hypernetwork(embeddings())
    for index, embedding in enumerate(embeddings()):
        alone = hypernetwork(embedding[None])
        for module in alone.A:
            torch.testing.assert_close(together.A[module][index], alone.A[module][0])
            torch.testing.assert_close(together.B[module][index], alone.B[module][0])


@VARIANT
def test_descriptions_layers_and_modules_all_make_a_difference(changes: dict[str, Any]) -> None:
    factors = trained_text(text_hypernetwork_config(**changes))(embeddings(2))
    for side in factors:
        for x in side.values():
            assert (x[0] - x[1]).abs().max() > 1e-3
            assert (x[:, 0] - x[:, 1]).abs().max() > 1e-3
    one, other = (x[..., :HIDDEN] for x in factors.A.values())
    assert (one - other).abs().max() > 1e-3


def test_untrained_it_changes_nothing_and_can_be_trained() -> None:
    hypernetwork = TextToLora(text_hypernetwork_config())
    factors = hypernetwork(embeddings())
    assert not any(x.any() for x in factors.B.values())
    assert all(x.any() for x in factors.A.values())
    sum(x.sum() for x in factors.B.values()).backward()
    assert hypernetwork.heads["q_proj"].weight.grad.any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules": {}}, "modules must name at least one of"),
        ({"modules": {"lm_head": (4, 4)}}, "unknown: lm_head"),
        ({"modules": {"q_proj": (0, 4)}}, "modules.q_proj widths (0, 4) must be >= 1"),
        ({"rank": 0}, "rank is 0, must be at least 1"),
        ({"layers": 0}, "layers is 0, must be at least 1"),
        ({"embedding_size": 0}, "embedding_size is 0, must be at least 1"),
        ({"latent_size": 3}, "latent_size is 3, must be at least 4"),
        ({"head_size": 0}, "head_size is 0, must be at least 1"),
        ({"scaling": 0.0}, "scaling is 0.0, must be finite and positive"),
        ({"scaling": float("inf")}, "scaling is inf, must be finite and positive"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidHypernetworkConfig, match=re.escape(message)):
        text_hypernetwork_config(**changes)


def config(**changes: Any) -> TextGeneratorConfig:
    return TextGeneratorConfig(
        name="tiny",
        base_model="../base",
        description_encoder="../encoder",
        pooling="cls",
        description_prefix="Query: ",
        max_description_tokens=48,
        chat_template="{{ messages[0]['content'] }}",
        hypernetwork=text_hypernetwork_config(**changes),
    )


def saved(folder: Path, **changes: Any) -> Path:
    checkpoint.save(folder, config(**changes), trained_text(config(**changes).hypernetwork))
    return folder


@VARIANT
def test_a_saved_generator_loads_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded_config, loaded = checkpoint.load_text(saved(tmp_path, **changes))
    assert loaded_config.model_dump() == config(**changes).model_dump()
    want = trained_text(config(**changes).hypernetwork)(embeddings())
    got = loaded(embeddings())
    for module in want.A:
        assert torch.equal(got.A[module], want.A[module])
        assert torch.equal(got.B[module], want.B[module])


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop("mixer.up.bias"), r"missing mixer\.up\.bias of shape \[64\]"),
        (lambda t: t.update(extra=torch.zeros(7)), r"unexpected extra of shape \[7\]"),
        (
            lambda t: t.update({"heads.q_proj.bias": torch.zeros(9)}),
            r"heads\.q_proj\.bias has shape \[9\], the configuration asks for \[128\]",
        ),
        (lambda t: t["mixer.up.bias"].fill_(float("nan")), "up.bias holds values that are not fin"),
    ],
)
def test_weights_at_fault_are_refused_by_name(
    tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    path = saved(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)
    with pytest.raises(InvalidGenerator, match=message):
        checkpoint.load_text(tmp_path)


def test_a_folder_says_of_which_kind_it_is(tmp_path: Path) -> None:
    text, doc = saved(tmp_path / "text"), generator_folder(tmp_path)
    assert (read_config(text).kind, read_config(doc).kind) == ("text-to-lora", "doc-to-lora")
    with pytest.raises(InvalidGenerator, match="holds a text-to-lora generator, doc-to-lora is ne"):
        read_doc_config(text)
    with pytest.raises(InvalidGenerator, match="holds a doc-to-lora generator, text-to-lora is ne"):
        read_text_config(doc)
    assert read_text_config(text).max_rank == 4
    assert read_text_config(text).max_padded_chunk == 48
