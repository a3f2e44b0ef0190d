"""What a generator asks of the models around it, read off their configurations without weights."""

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from generator.config import GeneratorConfig, InvalidGenerator
from generator.hub import model_config
from generator.lora import MODULE_PARENTS


def outline(path: str) -> PreTrainedModel:
    """The decoder of a model without its weights, on the meta device."""
    with torch.device("meta"):
        decoder: PreTrainedModel = AutoModel.from_config(
            model_config(path), trust_remote_code=False
        )
    return decoder


def check_base(config: GeneratorConfig) -> None:
    """The base model's layers and target modules are those that the generator writes for.

    Raises InvalidGenerator with both numbers where they are not.
    """
    layers = getattr(outline(config.base_path), "layers", ())
    wanted = config.hypernetwork
    if len(layers) != wanted.layers:
        raise InvalidGenerator(
            f"base model {config.base_model} has {len(layers)} layers, "
            f"the generator writes for {wanted.layers}"
        )
    for module, widths in wanted.modules.items():
        for index, layer in enumerate(layers):
            linear = getattr(getattr(layer, MODULE_PARENTS[module], None), module, None)
            if not isinstance(linear, nn.Linear):
                raise InvalidGenerator(
                    f"base model {config.base_model} has no {module} in layer {index}"
                )
            if (linear.in_features, linear.out_features) != tuple(widths):
                raise InvalidGenerator(
                    f"{module} in layer {index} of base model {config.base_model} maps "
                    f"{linear.in_features} to {linear.out_features}, "
                    f"the generator writes for {widths[0]} to {widths[1]}"
                )
