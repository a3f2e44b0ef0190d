"""Published Doc-to-LoRA checkpoints in this project's terms: settings, and names of weights.

Source: the code that Doc-to-LoRA (arXiv 2602.15902) was published with.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from generator.doc_to_lora import ContextKind, DocToLora, HypernetworkConfig
from generator.importing.faults import fields_at_fault
from generator.importing.torch_file import InvalidCheckpoint, TorchFile

OLD_PRE_HEAD_LAYERS = 4  # of checkpoints from before this was a setting
COMPILED = "_orig_mod."


class _Published(BaseModel):
    """Fields that matter; the others, such as those of another peft's LoraConfig, do not."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Lora(_Published):
    r: int
    lora_alpha: float
    target_modules: list[str]


class _Aggregator(_Published):
    aggregator_type: Literal["perceiver"]
    num_layers: int
    feature_size: int
    n_latent_queries: int
    num_blocks: int
    num_self_attn_per_block: int
    shared_weights: bool


class _Hypernetwork(_Published):
    latent_size: int
    per_rank_gen: Literal[True]
    per_layer_processing: bool
    use_bias: bool | None = None
    num_pre_head_layers: int | None = None
    extra_modules: Annotated[list[str], Field(max_length=0)] | None = None
    base_hidden_size: int
    layer_indices: dict[str, object]
    feature_sizes: Annotated[list[dict[str, int]], Field(min_length=2, max_length=2)]
    lora_config: _Lora
    aggregator_config: _Aggregator


class _Context(_Published):
    ctx_encoder_type: ContextKind
    ctx_encoder_model_name_or_path: str | None = None
    layer_idx: int | None = None
    ctx_encoder_last_layer: int | None = None


class _Checkpoint(_Published):
    base_model_name_or_path: Annotated[str, Field(min_length=1)]
    hypernet_config: _Hypernetwork
    ctx_encoder_args: _Context


@dataclass(frozen=True, slots=True)
class Settings:
    """What a published checkpoint says of itself.

    ``context_encoder`` is None where it is the base model. Whether it was quantised in training
    is not kept: here it runs in the precision of the generator.
    """

    base_model: str
    base_hidden_size: int
    context_encoder: str | None
    hypernetwork: HypernetworkConfig


def read_settings(file: TorchFile) -> Settings:
    """Raises InvalidCheckpoint, naming each field at fault, and InvalidHypernetworkConfig."""
    missing = [name for name in _Checkpoint.model_fields if name not in file.values]
    if missing:
        raise InvalidCheckpoint(
            f"{file.path}: no checkpoint of Doc-to-LoRA: it lacks {', '.join(missing)}"
        )
    try:
        checkpoint = _Checkpoint.model_validate(file.values)
    except ValidationError as error:
        raise InvalidCheckpoint(f"{file.path}: {fields_at_fault(error)}") from None
    _check_layers(file, checkpoint.hypernet_config)
    base, context = checkpoint.base_model_name_or_path, checkpoint.ctx_encoder_args
    encoder = context.ctx_encoder_model_name_or_path
    return Settings(
        base_model=base,
        base_hidden_size=checkpoint.hypernet_config.base_hidden_size,
        context_encoder=None if encoder in (None, "", base) else encoder,
        hypernetwork=_hypernetwork(file, checkpoint.hypernet_config, context),
    )


def _check_layers(file: TorchFile, published: _Hypernetwork) -> None:
    name = "hypernet_config.layer_indices"
    indices = file.read(name, file.reference(name, published.layer_indices)).tolist()
    layers = published.aggregator_config.num_layers
    if indices != list(range(layers)):
        raise InvalidCheckpoint(
            f"{file.path}: {name} is {indices}, it must name all {layers} layers in order"
        )


def _hypernetwork(
    file: TorchFile, published: _Hypernetwork, context: _Context
) -> HypernetworkConfig:
    aggregator, lora = published.aggregator_config, published.lora_config
    d_in, d_out = published.feature_sizes
    for module in lora.target_modules:
        if module not in d_in or module not in d_out:
            raise InvalidCheckpoint(
                f"{file.path}: hypernet_config.feature_sizes lacks the target module {module}"
            )
    pre_head_layers, use_bias = published.num_pre_head_layers, published.use_bias
    kind = context.ctx_encoder_type
    return HypernetworkConfig(
        modules={m: (d_in[m], d_out[m]) for m in lora.target_modules},
        layers=aggregator.num_layers,
        feature_size=aggregator.feature_size,
        rank=lora.r,
        alpha=lora.lora_alpha,
        use_bias=True if use_bias is None else use_bias,
        latent_size=published.latent_size,
        latents=aggregator.n_latent_queries,
        blocks=aggregator.num_blocks,
        self_attention_per_block=aggregator.num_self_attn_per_block,
        shared_weights=aggregator.shared_weights,
        pre_head_layers=OLD_PRE_HEAD_LAYERS if pre_head_layers is None else pre_head_layers,
        per_layer_processing=published.per_layer_processing,
        context=kind,
        # both are stored for every kind, and read for one
        context_layer=context.layer_idx if kind == "early_exit" else None,
        context_last_layer=(
            context.ctx_encoder_last_layer if kind == "per_layer_activations" else None
        ),
    )


def read_weights(file: TorchFile, config: HypernetworkConfig) -> DocToLora:
    """The hypernetwork with the checkpoint's weights, in float32 and in evaluation mode.

    Raises InvalidCheckpoint, naming each tensor that is missing, unexpected or of the wrong shape,
    with both shapes, and the first that is not finite.
    """
    with torch.device("meta"):
        hypernetwork = DocToLora(config)
    references = {name.removeprefix(COMPILED): x for name, x in file.tensors.items()}
    wanted = {ours: list(x.shape) for ours, x in hypernetwork.state_dict().items()}
    published = {ours: _published_name(ours, config) for ours in wanted}
    expected = {
        name: _published_shape(ours, wanted[ours], config) for ours, name in published.items()
    }
    if not config.use_bias:
        expected |= _unused_biases(config)
    weights = file.weights(references, expected)
    tensors = {ours: weights[name].reshape(wanted[ours]) for ours, name in published.items()}
    hypernetwork.load_state_dict(tensors, assign=True)
    return hypernetwork.eval().requires_grad_(False)


_PERCEIVER = {
    "perceiver": "aggregator.perceiver",
    "feature_projection": "modality_projection",
    "queries": "latents_q",
    "norm": "layernorm",
    "query_norm": "input_latents_layernorm",
    "context_norm": "input_context_layernorm",
    "attention": "self_attn",
    "query": "q_proj",
    "key": "k_proj",
    "value": "v_proj",
    "output": "o_proj",
    "attention_out_norm": "post_attention_layernorm",
    "mlp_norm": "pre_ff_layernorm",
    "mlp_out_norm": "post_ff_layernorm",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}
# places in a sequence of modules, activations and dropouts among them
_PRE_HEAD_OF_EACH_LAYER = {"norm_in": 0, "up": 1, "down": 3, "norm_out": 4}
_PRE_HEAD_OF_ALL_LAYERS = {"norm_in": 0, "up": 2, "down": 5, "norm_out": 6}


def _published_name(ours: str, config: HypernetworkConfig) -> str:
    match ours.split("."):
        case ["perceiver", *_] as parts:
            return ".".join(_PERCEIVER.get(part, part) for part in parts)
        case ["pre_head", block, part, kind] if config.per_layer_processing:
            return f"layers.{block}.layers.{_PRE_HEAD_OF_EACH_LAYER[part]}.{kind}"
        case ["pre_head", block, part, kind]:
            return f"layers.{block}.mlp.{_PRE_HEAD_OF_ALL_LAYERS[part]}.{kind}"
        case ["head"]:
            return "head.weight"
    return ours


def _published_shape(ours: str, shape: list[int], config: HypernetworkConfig) -> list[int]:
    """Published shapes differ by axes of size one."""
    match ours.split("."):
        case ["scaler_A" | "scaler_B", _]:
            return [1, *shape, 1]
        case ["pre_head", _, "up" | "down", "bias"] if config.per_layer_processing:
            layers, width = shape
            return [1, layers, 1, 1, width]
        case ["head"] if len(config.modules) == 1:
            layers, _, latent_size, width = shape
            return [layers, latent_size, width]
    return shape


def _unused_biases(config: HypernetworkConfig) -> dict[str, list[int]]:
    """Stored whether or not they are used."""
    return {
        f"{side}.{module}": [config.layers, config.rank, width]
        for module, widths in config.modules.items()
        for side, width in zip(("bias_A", "bias_B"), widths, strict=True)
    }
