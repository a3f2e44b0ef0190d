"""Reads the reference fixtures of the published Doc-to-LoRA into this project's own modules."""

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from generator.doc_to_lora import DocToLora, HypernetworkConfig

CASES = ("d2l_gemma2_l2l", "d2l_mistral_multi", "d2l_qwen3_early_exit")


class Inert:
    """Stands in for a class of the published code: keeps its fields, does nothing."""

    def __init__(self, *values: object) -> None:
        self.values = values


ADMITTED = (
    "ctx_to_lora.modeling.hypernet.HypernetConfig",
    "ctx_to_lora.modeling.aggregator.AggregatorConfig",
    "ctx_to_lora.configs.CtxEncoderArguments",
    "peft.tuners.lora.config.LoraConfig",
    "peft.tuners.lora.config.LoraRuntimeConfig",
    "peft.utils.peft_types.PeftType",
)

# published name -> ours, applied in this order
RENAMES = (
    (r"^_orig_mod\.", ""),
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
    (r"^layers\.(\d+)\.layers\.0\.", r"pre_head.\1.norm_in."),
    (r"^layers\.(\d+)\.layers\.1\.", r"pre_head.\1.up."),
    (r"^layers\.(\d+)\.layers\.3\.", r"pre_head.\1.down."),
    (r"^layers\.(\d+)\.layers\.4\.", r"pre_head.\1.norm_out."),
    (r"^head\.weight$", "head"),
)


def renamed(key: str) -> str:
    for pattern, replacement in RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


@dataclass
class Case:
    """One fixture folder: the published system's inputs, intermediate values and outputs."""

    folder: Path
    info: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.info = json.loads((self.folder / "case.json").read_text())

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.folder / "io.safetensors")

    @cached_property
    def checkpoint(self) -> dict[str, Any]:
        stand_ins: list[Any] = [(type(name, (Inert,), {}), name) for name in ADMITTED]
        with torch.serialization.safe_globals(stand_ins):
            loaded: dict[str, Any] = torch.load(
                self.folder / "checkpoint-1" / "pytorch_model.bin",
                map_location="cpu",
                weights_only=True,
            )
        return loaded

    @cached_property
    def base(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.folder / "base_model", dtype=torch.float32, attn_implementation="eager"
        )
        return model.eval().requires_grad_(False)

    @cached_property
    def config(self) -> HypernetworkConfig:
        published, context = self.checkpoint["hypernet_config"], self.checkpoint["ctx_encoder_args"]
        aggregator, lora = published.aggregator_config, published.lora_config
        d_in, d_out = published.feature_sizes
        early_exit = context.ctx_encoder_type == "early_exit"
        return HypernetworkConfig(
            modules={m: (d_in[m], d_out[m]) for m in lora.target_modules},
            layers=aggregator.num_layers,
            feature_size=aggregator.feature_size,
            rank=lora.r,
            alpha=lora.lora_alpha,
            use_bias=published.use_bias,
            latent_size=published.latent_size,
            latents=aggregator.n_latent_queries,
            blocks=aggregator.num_blocks,
            self_attention_per_block=aggregator.num_self_attn_per_block,
            shared_weights=aggregator.shared_weights,
            pre_head_layers=published.num_pre_head_layers,
            per_layer_processing=published.per_layer_processing,
            context=context.ctx_encoder_type,
            context_layer=context.layer_idx if early_exit else None,
            context_last_layer=context.ctx_encoder_last_layer,
        )

    @cached_property
    def hypernetwork(self) -> DocToLora:
        model = DocToLora(self.config)
        wanted = model.state_dict()
        tensors = {renamed(k): v for k, v in self.checkpoint.items() if isinstance(v, Tensor)}
        assert sorted(tensors) == sorted(wanted)
        # published tensors differ by axes of size one only: [1, L, r, 1], no module axis for one
        model.load_state_dict({k: v.reshape(wanted[k].shape) for k, v in tensors.items()})
        return model.eval().requires_grad_(False)

    def features(self, run: str) -> tuple[Tensor, Tensor]:
        """The published features ``[B, streams, T, F]`` and mask of run ``c1`` or ``c3``."""
        features = self.io[f"{run}.ctx_features"]
        if features.ndim == 3:
            features = features[:, None]
        return features, self.io[f"{run}.ctx_attn_mask"].bool()


def assert_close(got: Tensor, want: Tensor, tolerance: float = 2e-5) -> None:
    """Largest difference at most ``tolerance`` relative to ``max(1, max|want|)``."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, want {tuple(want.shape)}"
    error = (got - want).abs().max().item() / max(1.0, want.abs().max().item())
    assert error <= tolerance, f"relative difference {error:.2e} above {tolerance:.0e}"
