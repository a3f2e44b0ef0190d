"""Soft-capped attention against transformers' eager one, whatever the blocks."""

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from generator import soft_capping
from generator.soft_capping import SOFT_CAPPED, causal_attention, soft_capped_attention
from tests.generator.models import base_model, gemma_model

IDS = torch.randint(260, (2, 29), generator=torch.Generator().manual_seed(0))


def hidden(model: PreTrainedModel, implementation: str) -> Tensor:
    model.config._attn_implementation = implementation
    out: Tensor = model.model(IDS, use_cache=False).last_hidden_state
    return out


def sharp_model() -> PreTrainedModel:
    """Its scores are large enough for the cap to matter."""
    model = gemma_model()
    for layer in model.model.layers:
        layer.self_attn.q_proj.weight.mul_(3000)
    return model


@pytest.mark.parametrize("window", [1, 3, 8, 29, 64])
@pytest.mark.parametrize("queries", [1, 5, 8, 29, 512])
def test_capped_scores_are_those_of_eager_attention(
    monkeypatch: pytest.MonkeyPatch, queries: int, window: int
) -> None:
    monkeypatch.setattr(soft_capping, "QUERIES", queries)
    model = sharp_model()
    for layer in model.model.layers:
        if layer.self_attn.sliding_window is not None:
            layer.self_attn.sliding_window = window
    model.config.sliding_window = window
    want = hidden(model, "eager")
    torch.testing.assert_close(hidden(model, SOFT_CAPPED), want, rtol=0, atol=2e-4)


def test_the_cap_matters_in_these_tests() -> None:
    model = sharp_model()
    capped = hidden(model, SOFT_CAPPED)
    for layer in model.model.layers:
        layer.self_attn.attn_logit_softcapping = 1e9
    assert (hidden(model, "eager") - capped).abs().max() > 1e-2


def test_half_precision_comes_as_close_as_eager_attention() -> None:
    exact = hidden(gemma_model(), "eager")
    own, eager = (hidden(gemma_model().bfloat16(), name) for name in (SOFT_CAPPED, "eager"))
    assert (own - exact).abs().mean() < 1.1 * (eager - exact).abs().mean()


def test_no_query_meets_keys_that_its_block_cannot_see(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(soft_capping, "QUERIES", 4)
    query, key, value = torch.randn(1, 4, 16, 8), *torch.randn(2, 1, 2, 16, 8).unbind()
    with FlopCounterMode(display=False) as counted:
        soft_capped_attention(
            torch.nn.Module(), query, key, value, None, scaling=1.0, softcap=50.0, sliding_window=3
        )
    pairs = 4 * 4 + 3 * 4 * 6
    assert counted.get_total_flops() == 4 * pairs * 4 * 8


def test_a_mask_is_refused() -> None:
    x = torch.randn(1, 2, 3, 8)
    with pytest.raises(ValueError, match="takes no mask"):
        soft_capped_attention(
            torch.nn.Module(), x, x, x, torch.zeros(1, 1, 3, 3), scaling=1.0, softcap=50.0
        )


def test_models_without_a_cap_keep_their_attention() -> None:
    assert causal_attention(base_model().config) is None
    assert causal_attention(gemma_model().config) == SOFT_CAPPED
