"""GTE v1.5 as published is loaded without its own code, and computes what that did."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel

from generator.gte import UnknownGte
from generator.hub import NeedsItsOwnCode, load_tokenizer, model_config
from tests.generator import models

HIDDEN, HEADS, INTERMEDIATE, VOCABULARY, LAYERS = 16, 2, 24, models.VOCABULARY, 2
NTK = {"type": "ntk", "factor": 2.0}


def published(**changes: Any) -> dict[str, Any]:
    """A ``config.json`` with the fields of Alibaba-NLP/gte-large-en-v1.5, and small."""
    return {
        "architectures": ["NewModel"],
        "auto_map": {
            "AutoConfig": "Alibaba-NLP/new-impl--configuration.NewConfig",
            "AutoModel": "Alibaba-NLP/new-impl--modeling.NewModel",
        },
        "model_type": "new",
        "hidden_act": "gelu",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "layer_norm_eps": 1e-12,
        "layer_norm_type": "layer_norm",
        "logn_attention_clip1": False,
        "logn_attention_scale": False,
        "max_position_embeddings": 64,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "pack_qkv": True,
        "pad_token_id": 0,
        "position_embedding_type": "rope",
        "rope_scaling": NTK,
        "rope_theta": 160000,
        "type_vocab_size": 2,
        "unpad_inputs": False,
        "vocab_size": VOCABULARY,
    } | changes


def gte_folder(folder: Path, **changes: Any) -> dict[str, Tensor]:
    """Writes a model in the published form, tokenizer included; its weights by published name."""
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "embeddings.LayerNorm.weight": (HIDDEN,),
        "embeddings.LayerNorm.bias": (HIDDEN,),
    }
    of_a_layer: dict[str, tuple[int, ...]] = {
        "attention.qkv_proj.weight": (3 * HIDDEN, HIDDEN),
        "attention.qkv_proj.bias": (3 * HIDDEN,),
        "attention.o_proj.weight": (HIDDEN, HIDDEN),
        "attention.o_proj.bias": (HIDDEN,),
        "attn_ln.weight": (HIDDEN,),
        "attn_ln.bias": (HIDDEN,),
        "mlp.up_gate_proj.weight": (2 * INTERMEDIATE, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        "mlp.down_proj.bias": (HIDDEN,),
        "mlp_ln.weight": (HIDDEN,),
        "mlp_ln.bias": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {f"encoder.layer.{layer}.{name}": shape for name, shape in of_a_layer.items()}
    torch.manual_seed(0)
    weights = {name: 0.5 * torch.randn(shape) for name, shape in shapes.items()}
    models.tokenizer().save_pretrained(folder)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(published(**changes)))
    return weights


def states(weights: dict[str, Tensor], ids: Tensor, mask: Tensor, scaling: float) -> Tensor:
    """Last hidden states, step by step. A scaling of 1 is none."""
    head_size = HIDDEN // HEADS
    frequencies = (160000 * scaling) ** -(torch.arange(0, head_size, 2) / head_size)
    angles = torch.arange(ids.shape[1])[:, None] * frequencies / scaling ** (2 / head_size)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        weight, bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        return functional.layer_norm(x, (HIDDEN,), weight, bias, 1e-12)

    def rotated(x: Tensor) -> Tensor:
        first, second = x.chunk(2, -1)
        return x * cos + torch.cat([-second, first], -1) * sin

    words = weights["embeddings.word_embeddings.weight"][ids]
    kinds = weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(words + kinds, "embeddings.LayerNorm")
    for layer in range(LAYERS):
        root = f"encoder.layer.{layer}."
        packed = linear(x, f"{root}attention.qkv_proj").chunk(3, -1)
        query, key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in packed)
        scores = rotated(query) @ rotated(key).mT / math.sqrt(head_size)
        attended = scores.masked_fill(~mask[:, None, None], -math.inf).softmax(-1) @ value
        attended = attended.transpose(1, 2).flatten(2)
        x = norm(x + linear(attended, f"{root}attention.o_proj"), f"{root}attn_ln")
        up, gate = linear(x, f"{root}mlp.up_gate_proj").chunk(2, -1)
        x = norm(x + linear(up * functional.gelu(gate), f"{root}mlp.down_proj"), f"{root}mlp_ln")
    return x


@pytest.mark.parametrize(("rope_scaling", "scaling"), [(NTK, 2.0), (None, 1.0)])
def test_it_computes_as_published(
    tmp_path: Path, rope_scaling: dict[str, Any] | None, scaling: float
) -> None:
    weights = gte_folder(tmp_path, rope_scaling=rope_scaling)
    model, report = AutoModel.from_pretrained(
        tmp_path, config=model_config(str(tmp_path)), output_loading_info=True
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ids = torch.randint(1, VOCABULARY, (3, 20))
    mask = torch.arange(20) < torch.tensor([20, 7, 1])[:, None]
    got = model.eval()(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    want = states(weights, ids, mask, scaling)
    torch.testing.assert_close(got[mask], want[mask], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "absolute"}, "position_embedding_type is 'absolute'"),
        ({"layer_norm_type": "rms_norm"}, "layer_norm_type is 'rms_norm'"),
        ({"logn_attention_scale": True}, "logn_attention_scale is True"),
        ({"pack_qkv": False}, "pack_qkv is False"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling is .*'dynamic'"),
        ({"rope_scaling": {**NTK, "mixed_b": 0.5}}, r"rope_scaling is .*only 'ntk' without mixed"),
    ],
)
def test_a_variant_that_transformers_does_not_compute_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    gte_folder(tmp_path, **changes)
    with pytest.raises(UnknownGte, match=message):
        model_config(str(tmp_path))


def test_a_model_that_needs_its_own_code_is_refused_and_nobody_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question: questions.append(question) or "n")
    gte_folder(tmp_path)
    assert load_tokenizer(str(tmp_path))("a").input_ids
    code = {"AutoConfig": "modeling.OtherConfig"}
    (tmp_path / "config.json").write_text(json.dumps(published(auto_map=code)))
    with pytest.raises(NeedsItsOwnCode, match=r"of the kind 'new', which transformers does not h"):
        model_config(str(tmp_path))
    assert not questions
