"""The benchmark's counted operations, against those that torch counts as they run."""

from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from generator.context import ContextEncoder
from generator.doc_to_lora import DocToLora
from tests.benchmarks.operations import (
    aggregator_operations,
    causal_pairs,
    encoder_operations,
    head_operations,
    operations,
)
from tests.benchmarks.published_shapes import BASES, hypernetwork_config, parameters
from tests.generator import models

TOKENS = 12


def all_pairs(tokens: int, _: int | None) -> int:
    """What attention that computes every score and hides some needs."""
    return tokens**2


@pytest.mark.parametrize("make", [models.base_model, models.gemma_model])
def test_the_context_encoders_operations_are_those_that_run(make: Any) -> None:
    model = make()
    model.config._attn_implementation = "eager"
    encoder = ContextEncoder(model, models.hypernetwork_config())
    with FlopCounterMode(display=False) as counted:
        encoder(torch.arange(TOKENS)[None])
    layers = models.LAYERS - 1
    assert counted.get_total_flops() == encoder_operations(
        model.config, layers, TOKENS, pairs=all_pairs
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modules": models.THREE_MODULES, "self_attention_per_block": 2, "pre_head_layers": 2},
        {"context": "embed_only", "latents": 3},
    ],
)
def test_the_hypernetworks_operations_are_those_that_run(changes: dict[str, Any]) -> None:
    config = models.hypernetwork_config(**changes)
    streams = config.layers if config.layer_to_layer else 1
    features = torch.randn(2, streams, TOKENS, config.feature_size)
    with FlopCounterMode(display=False) as counted:
        DocToLora(config)(features, torch.ones(2, TOKENS, dtype=torch.bool))
    one = streams * aggregator_operations(config, TOKENS) + head_operations(config)
    assert counted.get_total_flops() == 2 * one


def test_a_documents_operations_are_those_of_its_chunks() -> None:
    config, encoder = models.hypernetwork_config(), models.base_model().config
    one, two = (operations(encoder, config, chunks) for chunks in ([7], [7, 7]))
    assert (two.reading, two.writing) == (2 * one.reading, 2 * one.writing)
    assert one.total == one.reading + one.writing


@pytest.mark.parametrize("window", [None, 1, 3, 8, 9])
def test_pairs_are_what_a_causal_mask_leaves(window: int | None) -> None:
    query, key = torch.arange(8)[:, None], torch.arange(8)
    seen = (key <= query) & (key > query - (window or 8))
    assert causal_pairs(8, window) == seen.sum()


def test_the_published_hypernetwork_has_309_million_parameters() -> None:
    config = BASES["gemma-2-2b"].config()
    assert round(parameters(hypernetwork_config(config)) / 1e6) == 309
    assert round(parameters(hypernetwork_config(config, blocks=9)) / 1e6) == 315
