import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator import checkpoint
from generator.config import DocGeneratorConfig, InvalidGenerator, read_doc_config
from tests.generator.models import PROMPT, hypernetwork_config, random_batch, trained

CONFIGS: list[dict[str, Any]] = [
    {},
    {"shared_weights": True, "blocks": 3, "self_attention_per_block": 1},
    {"use_bias": False, "context": "early_exit", "context_layer": 1, "alpha": 7.5},
]


def config(**changes: Any) -> DocGeneratorConfig:
    return DocGeneratorConfig(
        name="tiny",
        base_model="../base",
        prompt=PROMPT,
        max_chunk_tokens=24,
        max_chunks=5,
        hypernetwork=hypernetwork_config(**changes),
    )


def saved(folder: Path, **changes: Any) -> Path:
    checkpoint.save(folder, config(**changes), trained(config(**changes).hypernetwork))
    return folder


@pytest.mark.parametrize("changes", CONFIGS)
def test_a_saved_generator_loads_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded_config, loaded = checkpoint.load_doc(saved(tmp_path / "doc", **changes))
    assert loaded_config.model_dump() == config(**changes).model_dump()
    batch = random_batch(loaded_config.hypernetwork)
    want = trained(loaded_config.hypernetwork)(*batch)
    assert torch.equal(loaded(*batch).A["down_proj"], want.A["down_proj"])
    assert torch.equal(loaded(*batch).B["down_proj"], want.B["down_proj"])


def test_weights_stored_in_half_precision_load_as_float32(tmp_path: Path) -> None:
    model = trained(config().hypernetwork)
    checkpoint.save(tmp_path, config(), model, torch.bfloat16)
    _, loaded = checkpoint.load_doc(tmp_path)
    assert torch.equal(loaded.head, model.head.to(torch.bfloat16).float())


def edit_weights(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    edit(tensors)
    save_file(tensors, path)


SCALER = "scaler_A.down_proj"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(SCALER), rf"missing {SCALER} of shape \[3, 2\]"),
        (lambda t: t.update(extra=torch.zeros(7)), r"unexpected extra of shape \[7\]"),
        (
            lambda t: t.update({SCALER: torch.zeros(3, 9)}),
            rf"{SCALER} has shape \[3, 9\], the configuration asks for \[3, 2\]",
        ),
        (lambda t: t[SCALER].fill_(float("nan")), f"{SCALER} holds values that are not finite"),
        (
            lambda t: t.update({SCALER: torch.zeros(3, 2, dtype=torch.int32)}),
            rf"{SCALER} is torch\.int32, must be of floating point",
        ),
    ],
)
def test_weights_at_fault_are_refused_by_name(
    tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, edit)
    with pytest.raises(InvalidGenerator, match=message):
        checkpoint.load_doc(tmp_path)


def test_many_faults_are_counted_after_the_first_few(tmp_path: Path) -> None:
    saved(tmp_path)
    edit_weights(tmp_path, lambda tensors: [tensors.pop(key) for key in list(tensors)[:20]])
    with pytest.raises(InvalidGenerator, match=r"(missing .*; ){8}and 12 more"):
        checkpoint.load_doc(tmp_path)


def test_weights_that_are_cut_off_or_not_safetensors_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path) / "model.safetensors"
    for content in (path.read_bytes()[:-10], b"\x80\x02}q\x00."):
        path.write_bytes(content)
        with pytest.raises(InvalidGenerator, match=r"model\.safetensors cannot be read"):
            checkpoint.load_doc(tmp_path)
    path.unlink()
    with pytest.raises(InvalidGenerator, match=r"model\.safetensors cannot be read"):
        checkpoint.load_doc(tmp_path)


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "other"}, "format: Input should be 'doclora-generator'"),
        ({"version": 2}, "version: Input should be 1"),
        ({"name": ""}, "name: String should have at least 1 character"),
        ({"max_chunks": 0}, "max_chunks: Input should be greater than or equal to 1"),
        ({"max_chunk_tokens": "24"}, "max_chunk_tokens: Input should be a valid integer"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"prompt": {"context_suffix_ids": []}}, "prompt.context_prefix_ids: Field required"),
        ({"hypernetwork": {"rank": 8}}, "hypernetwork.modules: Field required"),
        (
            {"hypernetwork": {"modules": {"down_proj": [4]}, "layers": 2, "feature_size": 4}},
            "hypernetwork.modules.down_proj.1: Field required",
        ),
        (
            {
                "hypernetwork": {
                    "modules": {"down_proj": [4, 4]}, "layers": 2, "feature_size": 4, "blocks": 0
                }
            },
            "hypernetwork: Value error, blocks is 0, must be at least 1",
        ),
        (
            {
                "hypernetwork": {
                    "modules": {"down_proj": [4, 4]}, "layers": 2, "feature_size": 4, "head": 1
                }
            },
            "hypernetwork.head: Unexpected",
        ),
    ],
)  # fmt: skip
def test_a_config_at_fault_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    saved(tmp_path)
    edit_config(tmp_path, **changes)
    with pytest.raises(InvalidGenerator, match=message):
        read_doc_config(tmp_path)


def test_a_config_that_is_no_json_or_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidGenerator, match=r"no generator in .*nowhere"):
        read_doc_config(tmp_path / "nowhere")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidGenerator, match="Invalid JSON"):
        read_doc_config(tmp_path)


def test_models_beside_the_folder_are_found_and_hub_names_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "doc")
    (tmp_path / "base").mkdir()
    assert read_doc_config(folder).base_path == str(tmp_path.resolve() / "base")
    assert read_doc_config(folder).encoder_path == read_doc_config(folder).base_path
    edit_config(folder, base_model="google/gemma-2-2b-it", context_encoder="../base")
    assert read_doc_config(folder).base_path == "google/gemma-2-2b-it"
    assert read_doc_config(folder).encoder_path == str(tmp_path.resolve() / "base")


def test_a_model_that_is_not_where_the_config_says_is_named(tmp_path: Path) -> None:
    folder = saved(tmp_path / "doc")
    edit_config(folder, context_encoder="../reader")
    with pytest.raises(
        InvalidGenerator, match=r"base_model is '\.\./base', but .* no folder .*base"
    ):
        _ = read_doc_config(folder).base_path
    with pytest.raises(InvalidGenerator, match=r"context_encoder is '\.\./reader'"):
        _ = read_doc_config(folder).encoder_path


def test_the_fingerprint_changes_with_either_file_and_with_nothing_else(tmp_path: Path) -> None:
    first = read_doc_config(saved(tmp_path / "a")).fingerprint
    assert len(first) == 64
    assert read_doc_config(saved(tmp_path / "b")).fingerprint == first
    edit_weights(tmp_path / "a", lambda tensors: tensors[SCALER].add_(1))
    edit_config(tmp_path / "b", name="other")
    assert len({first, *(read_doc_config(tmp_path / x).fingerprint for x in "ab")}) == 3


def test_the_largest_adapter_has_the_rank_of_all_chunks_and_the_bias() -> None:
    assert config().max_rank == (5 + 1) * 2
    assert config(use_bias=False).max_rank == 5 * 2


@pytest.mark.parametrize("step", [1, 2])
def test_an_interrupted_save_leaves_no_mixture_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    saved(tmp_path)
    replaced = 0
    replace = Path.replace

    def fails(self: Path, target: Path) -> Path:
        nonlocal replaced
        replaced += 1
        if replaced == step:
            raise OSError("disk full")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path, use_bias=False)
    monkeypatch.undo()
    with pytest.raises(InvalidGenerator, match="no generator in"):
        checkpoint.load_doc(tmp_path)
    checkpoint.load_doc(saved(tmp_path, use_bias=False))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
