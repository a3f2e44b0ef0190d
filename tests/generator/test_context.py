from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from generator.context import ContextEncoder, EncoderMismatch
from generator.doc_to_lora import HypernetworkConfig
from tests.generator.models import LAYERS, base_model, gemma_model, hypernetwork_config

IDS = torch.arange(24).view(2, 12)
BASES = pytest.mark.parametrize("base", [base_model, gemma_model], ids=["qwen3", "gemma2"])
Base = Callable[[], PreTrainedModel]

PER_LAYER = hypernetwork_config()
EARLY_EXIT = hypernetwork_config(context="early_exit", context_layer=2)
EMBED_ONLY = hypernetwork_config(context="embed_only")


def hidden_states(model: PreTrainedModel) -> tuple[torch.Tensor, ...]:
    states: tuple[torch.Tensor, ...] = model(IDS, output_hidden_states=True).hidden_states
    return states


@BASES
def test_per_layer_features_are_the_raw_activations_and_last_a_normed_one(base: Base) -> None:
    model = base()
    states = hidden_states(model)
    want = torch.stack([*states[: LAYERS - 1], model.model.norm(states[LAYERS - 1])], 1)
    torch.testing.assert_close(ContextEncoder(model, PER_LAYER)(IDS), want)


@BASES
def test_early_exit_features_are_the_normed_output_of_that_layer(base: Base) -> None:
    model = base()
    want = model.model.norm(hidden_states(model)[2])
    torch.testing.assert_close(ContextEncoder(model, EARLY_EXIT)(IDS), want[:, None])


@BASES
def test_embed_only_features_are_the_scaled_embeddings(base: Base) -> None:
    model = base()
    want = hidden_states(model)[0]
    torch.testing.assert_close(ContextEncoder(model, EMBED_ONLY)(IDS), want[:, None])


@pytest.mark.parametrize(
    ("config", "needed"), [(PER_LAYER, LAYERS - 1), (EARLY_EXIT, 2), (EMBED_ONLY, 0)]
)
def test_only_the_layers_that_a_feature_needs_run(config: HypernetworkConfig, needed: int) -> None:
    model = base_model()
    ran = []
    for index, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda *_, index=index: ran.append(index))
    model.lm_head.register_forward_pre_hook(lambda *_: ran.append("head"))
    ContextEncoder(model, config)(IDS)
    assert ran == list(range(needed))


@pytest.mark.parametrize("config", [PER_LAYER, EARLY_EXIT, EMBED_ONLY])
def test_visiting_hands_out_the_same_features_one_by_one(config: HypernetworkConfig) -> None:
    encoder = ContextEncoder(base_model(), config)
    seen: dict[int, torch.Tensor] = {}
    encoder.visit(IDS, lambda index, features: seen.update({index: features}))
    assert list(seen) == list(range(encoder.streams))
    assert torch.equal(torch.stack(list(seen.values()), 1), encoder(IDS))


def test_the_shared_model_answers_as_before() -> None:
    model = base_model()
    before = model(IDS).logits
    for config in (PER_LAYER, EARLY_EXIT, EMBED_ONLY):
        ContextEncoder(model, config)(IDS)
    assert torch.equal(model(IDS).logits, before)
    assert len(model.model.layers) == LAYERS


@BASES
def test_padding_at_the_right_changes_no_features_of_tokens(base: Base) -> None:
    encoder = ContextEncoder(base(), PER_LAYER)
    padded = torch.cat([IDS, torch.zeros(2, 5, dtype=torch.long)], 1)
    torch.testing.assert_close(encoder(padded)[:, :, :12], encoder(IDS))


def test_an_encoder_deeper_than_the_base_gives_one_feature_per_base_layer() -> None:
    config = hypernetwork_config(layers=2, context_last_layer=2)
    assert ContextEncoder(base_model(), config)(IDS).shape[:2] == (2, 2)


def test_it_reads_a_bare_decoder_too() -> None:
    model = base_model()
    bare = ContextEncoder(model.model, PER_LAYER)
    assert torch.equal(bare(IDS), ContextEncoder(model, PER_LAYER)(IDS))


def test_it_compiles_to_one_graph() -> None:
    encoder = ContextEncoder(base_model(layers=2), hypernetwork_config(layers=2))
    compiled = torch.compile(encoder, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(IDS), encoder(IDS))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_size": 8}, "hidden size is 16, .* features of 8"),
        ({"layers": 4}, "has 3 layers, .* features of 4"),
        ({"layers": 5, "context_last_layer": 5}, "has 3 layers, .* output of layer 4"),
        ({"context": "early_exit", "context_layer": 4}, "has 3 layers, .* output of layer 4"),
    ],
)
def test_a_model_that_cannot_give_the_features_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(EncoderMismatch, match=message):
        ContextEncoder(base_model(), hypernetwork_config(**changes))
