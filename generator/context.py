"""The context encoder: a frozen language model's activations over a chunk, as features.

Three kinds, as in the published Doc-to-LoRA. With h_0 the embeddings, h_k the raw output of decoder
layer k and N the model's final norm:

- ``per_layer_activations``: h_0, ..., h_{n-1}, N(h_n), one feature per base layer (n + 1 of them);
- ``early_exit``: N(h_k) of an early layer k;
- ``embed_only``: h_0.

Layers that no feature needs do not run; neither does the language model head.

Shape suffixes: B chunks, T tokens, F feature size; a stream is one of a chunk's features.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from generator.doc_to_lora import HypernetworkConfig

Visit = Callable[[int, Tensor], None]


class EncoderMismatch(ValueError):
    """The language model cannot give the features that the hypernetwork reads."""


class ContextEncoder(nn.Module):
    """Reads features off a transformers causal language model, which it shares and never changes.

    ``model`` may be the whole model or its decoder. Chunks are padded on the right with any valid
    ID: attention is causal, so padding reaches no token and no mask is needed. Outside of
    ``LoraInjection.applied``, else the features see the LoRA.
    """

    def __init__(self, model: PreTrainedModel, config: HypernetworkConfig) -> None:
        super().__init__()
        decoder = model.get_decoder()
        _check(decoder, config)
        layers = list(decoder.layers)[: _layers_needed(config)]
        self.streams = config.layers if config.layer_to_layer else 1
        self._tap = _Tap()
        # a view with modules of its own choice; the shared decoder keeps all of its layers
        view = copy.copy(decoder)
        view._modules = dict(decoder._modules)
        if config.layer_to_layer:
            view.layers = nn.ModuleList(_Tapped(layer, self._tap) for layer in layers)
        else:
            view.layers = nn.ModuleList(layers)
        if config.context == "embed_only":
            view.norm = nn.Identity()
        self._decoder = view

    def forward(self, ids: Tensor) -> Tensor:
        """Features ``[B, streams, T, F]`` of the token IDs ``[B, T]``, all at once."""
        streams: list[Tensor] = []
        self.visit(ids, lambda _, features: streams.append(features))
        return torch.stack(streams, 1)

    def visit(self, ids: Tensor, take: Visit) -> None:
        """Hands ``take`` one stream after the other, ``(index, [B, T, F])``; keeps none of them."""
        self._tap.open(take)
        try:
            last = self._decoder(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            self._tap.close()
        take(self.streams - 1, last)


class _Tap:
    """Where the layers of one encoder report the activations that enter them."""

    def __init__(self) -> None:
        self._take: Visit | None = None
        self._index = 0

    def open(self, take: Visit) -> None:
        self._take, self._index = take, 0

    def close(self) -> None:
        self._take = None

    def report(self, activations: Tensor) -> None:
        if self._take is not None:
            self._take(self._index, activations)
            self._index += 1


class _Tapped(nn.Module):
    """A decoder layer that reports its input; otherwise indistinguishable from it."""

    def __init__(self, layer: nn.Module, tap: _Tap) -> None:
        super().__init__()
        self.layer = layer
        self._tap = tap

    def forward(self, activations: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._tap.report(activations)
        return self.layer(activations, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("layer"), name)


def _layers_needed(config: HypernetworkConfig) -> int:
    match config.context:
        case "per_layer_activations":
            return config.layers - 1
        case "early_exit":
            assert config.context_layer is not None
            return config.context_layer
        case "embed_only":
            return 0


def _check(decoder: PreTrainedModel, config: HypernetworkConfig) -> None:
    hidden_size, layers = decoder.config.hidden_size, len(decoder.layers)
    if hidden_size != config.feature_size:
        raise EncoderMismatch(
            f"the context encoder's hidden size is {hidden_size}, "
            f"the hypernetwork reads features of {config.feature_size}"
        )
    if config.layer_to_layer and config.context_last_layer is None and layers != config.layers:
        raise EncoderMismatch(
            f"the context encoder has {layers} layers, the hypernetwork reads features of "
            f"{config.layers} (context_last_layer says so where the encoder is not the base)"
        )
    if layers < _layers_needed(config):
        raise EncoderMismatch(
            f"the context encoder has {layers} layers, "
            f"the hypernetwork reads the output of layer {_layers_needed(config)}"
        )
