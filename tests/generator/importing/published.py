"""Checkpoints like the published ones: their classes by name, their tensors by name and shape.

Written from the description of the format alone, so that an error in the import does not hide here.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from tests.generator.models import HIDDEN, INTERMEDIATE, LAYERS

CLASSES = {
    "HypernetConfig": "ctx_to_lora.modeling.hypernet",
    "AggregatorConfig": "ctx_to_lora.modeling.aggregator",
    "CtxEncoderArguments": "ctx_to_lora.configs",
}
WIDTHS = {"q_proj": (HIDDEN, 16), "o_proj": (16, HIDDEN), "down_proj": (INTERMEDIATE, HIDDEN)}
D, QUERY_WIDTH, KEY_WIDTH = 6, 2048, 512

# published name -> ours, applied in this order
RENAMES = (
    (r"^aggregator\.perceiver\.", "perceiver."),
    (r"^perceiver\.modality_projection\.", "perceiver.feature_projection."),
    (r"\.latents_q$", ".queries"),
    (r"^(perceiver\.\w+)\.layernorm\.", r"\1.norm."),
    (r"\.input_latents_layernorm\.", ".query_norm."),
    (r"\.input_context_layernorm\.", ".context_norm."),
    (r"\.post_attention_layernorm\.", ".attention_out_norm."),
    (r"\.pre_ff_layernorm\.", ".mlp_norm."),
    (r"\.post_ff_layernorm\.", ".mlp_out_norm."),
    (r"\.self_attn\.q_proj\.", ".attention.query."),
    (r"\.self_attn\.k_proj\.", ".attention.key."),
    (r"\.self_attn\.v_proj\.", ".attention.value."),
    (r"\.self_attn\.o_proj\.", ".attention.output."),
    (r"\.(gate|up|down)_proj\.", r".\1."),
    (r"^layers\.(\d+)\.(layers|mlp)\.0\.", r"pre_head.\1.norm_in."),
    (r"^layers\.(\d+)\.(layers\.1|mlp\.2)\.", r"pre_head.\1.up."),
    (r"^layers\.(\d+)\.(layers\.3|mlp\.5)\.", r"pre_head.\1.down."),
    (r"^layers\.(\d+)\.(layers\.4|mlp\.6)\.", r"pre_head.\1.norm_out."),
    (r"^head\.weight$", "head"),
)


def renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def checkpoint(**changes: Any) -> dict[str, Any]:
    """The dictionary of a checkpoint for the tiny base model, its settings changed by name."""
    settings: dict[str, Any] = {
        "modules": ["down_proj"],
        "rank": 2,
        "latents": 5,
        "blocks": 2,
        "self_attention": 0,
        "shared": False,
        "pre_head_layers": 1,
        "per_layer": True,
        "use_bias": True,
        "kind": "per_layer_activations",
        "layer_idx": 1,
        "encoder": None,
        "last_layer": None,
        "feature_size": HIDDEN,
    } | changes
    modules, kind = settings["modules"], settings["kind"]
    with _published_classes() as classes:
        aggregator = classes["AggregatorConfig"]()
        aggregator.__dict__ = {
            "aggregator_type": "perceiver",
            "num_layers": LAYERS,
            "num_modules": len(modules),
            "num_extra_modules": 0,
            "output_size": D,
            "feature_size": settings["feature_size"],
            "pooling_type": "mean",
            "num_latent_factor": 8,
            "lora_r": settings["rank"],
            "per_rank_gen": True,
            "n_latent_queries": settings["latents"],
            "num_blocks": settings["blocks"],
            "num_self_attn_per_block": settings["self_attention"],
            "shared_weights": settings["shared"],
            "layer_to_layer_ctx_encoder": kind == "per_layer_activations",
        }
        hypernetwork = classes["HypernetConfig"]()
        hypernetwork.__dict__ = {
            "latent_size": D,
            "per_rank_gen": True,
            "use_bias": settings["use_bias"],
            "per_layer_processing": settings["per_layer"],
            "num_pre_head_layers": settings["pre_head_layers"],
            "dropout_rate": 0.0,
            "extra_modules": None,
            "base_hidden_size": HIDDEN,
            "lora_config": LoraConfig(
                r=settings["rank"], lora_alpha=7.5, target_modules=set(modules)
            ),
            "layer_indices": torch.arange(LAYERS),
            "feature_sizes": tuple({m: WIDTHS[m][side] for m in modules} for side in (0, 1)),
            "aggregator_config": aggregator,
        }
        context = classes["CtxEncoderArguments"]()
        context.__dict__ = {
            "ctx_encoder_model_name_or_path": settings["encoder"],
            "ctx_encoder_type": kind,
            "layer_idx": settings["layer_idx"],
            "quantize_ctx_encoder": True,
            "ctx_encoder_last_layer": settings["last_layer"],
        }
    return {
        **_tensors(settings),
        "base_model_name_or_path": "org/base",
        "hypernet_config": hypernetwork,
        "ctx_encoder_args": context,
    }


def save(held: object, path: Path) -> Path:
    """As the published code saves it; in a process that has its classes."""
    with _published_classes():
        torch.save(held, path)
    return path


def _tensors(settings: dict[str, Any]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    F, rank, modules = settings["feature_size"], settings["rank"], settings["modules"]
    per_layer = settings["kind"] == "per_layer_activations"
    outputs = len(modules) * rank * (1 if per_layer else LAYERS)
    root = "aggregator.perceiver."
    shapes: dict[str, tuple[int, ...]] = {
        f"{root}modality_projection.gate_proj.weight": (4 * F, F),
        f"{root}modality_projection.up_proj.weight": (4 * F, F),
        f"{root}modality_projection.down_proj.weight": (D, 4 * F),
        f"{root}encoder.latents_q": (settings["latents"], D),
        f"{root}encoder.layernorm.weight": (D,),
        f"{root}decoder.latents_q": (outputs, D),
        f"{root}decoder.layernorm.weight": (D,),
        **_perceiver_layer(f"{root}decoder.layers.0.", cross=True),
    }
    period = 1 + settings["self_attention"]
    for index in range(settings["blocks"] * period):
        shapes |= _perceiver_layer(f"{root}encoder.layers.{index}.", cross=index % period == 0)
    for block in range(settings["pre_head_layers"] or 4):
        shapes |= _pre_head(f"layers.{block}.", settings["per_layer"])
    width = max(sum(WIDTHS[module]) for module in modules)
    shapes["head.weight"] = (
        (LAYERS, D, width) if len(modules) == 1 else (LAYERS, len(modules), D, width)
    )
    for module in modules:
        for side, size in zip("AB", WIDTHS[module], strict=True):
            shapes[f"bias_{side}.{module}"] = (LAYERS, rank, size)
            shapes[f"scaler_{side}.{module}"] = (1, LAYERS, rank, 1)
    tensors = {name: torch.randn(shape) for name, shape in shapes.items()}
    if settings["shared"]:
        _share(tensors, f"{root}encoder.layers.", settings["blocks"], period)
    return tensors


def _perceiver_layer(prefix: str, *, cross: bool) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "input_latents_layernorm.weight": (D,),
        "self_attn.q_proj.weight": (QUERY_WIDTH, D),
        "self_attn.k_proj.weight": (KEY_WIDTH, D),
        "self_attn.v_proj.weight": (KEY_WIDTH, D),
        "self_attn.o_proj.weight": (D, QUERY_WIDTH),
        "post_attention_layernorm.weight": (D,),
        "pre_ff_layernorm.weight": (D,),
        "post_ff_layernorm.weight": (D,),
        "mlp.gate_proj.weight": (4 * D, D),
        "mlp.up_proj.weight": (4 * D, D),
        "mlp.down_proj.weight": (D, 4 * D),
    }
    if cross:
        shapes["input_context_layernorm.weight"] = (D,)
    return {prefix + name: shape for name, shape in shapes.items()}


def _pre_head(prefix: str, per_layer: bool) -> dict[str, tuple[int, ...]]:
    if per_layer:
        shapes: dict[str, tuple[int, ...]] = {
            "layers.1.weight": (LAYERS, D, 4 * D),
            "layers.1.bias": (1, LAYERS, 1, 1, 4 * D),
            "layers.3.weight": (LAYERS, 4 * D, D),
            "layers.3.bias": (1, LAYERS, 1, 1, D),
        }
        norms = ("layers.0", "layers.4")
    else:
        shapes = {
            "mlp.2.weight": (4 * D, D),
            "mlp.2.bias": (4 * D,),
            "mlp.5.weight": (D, 4 * D),
            "mlp.5.bias": (D,),
        }
        norms = ("mlp.0", "mlp.6")
    shapes |= {f"{norm}.{kind}": (D,) for norm in norms for kind in ("weight", "bias")}
    return {prefix + name: shape for name, shape in shapes.items()}


def _share(tensors: dict[str, Tensor], prefix: str, blocks: int, period: int) -> None:
    """Later blocks have the second's cross-attention; all have the first's self-attention."""
    for index in range(blocks * period):
        block, position = divmod(index, period)
        first = 1 if position == 0 else 0
        if block > first:
            source, target = f"{prefix}{first * period + position}.", f"{prefix}{index}."
            for name in [name for name in tensors if name.startswith(source)]:
                tensors[target + name.removeprefix(source)] = tensors[name]


@contextmanager
def _published_classes() -> Iterator[dict[str, Any]]:
    """The published code's classes as empty ones of the same name, importable meanwhile."""
    names = {".".join(m.split(".")[:n]) for m in CLASSES.values() for n in (1, 2, 3)}
    saved = {name: sys.modules.get(name) for name in names}
    sys.modules.update({name: ModuleType(name) for name in names})
    classes = _CLASSES
    for name, module in CLASSES.items():
        setattr(sys.modules[module], name, classes[name])
    try:
        yield classes
    finally:
        for name, module in saved.items():
            if module is None:
                del sys.modules[name]


_CLASSES: dict[str, Any] = {
    name: type(name, (), {"__module__": module}) for name, module in CLASSES.items()
}
