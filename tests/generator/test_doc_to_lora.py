from typing import Any

import pytest
import torch
from torch import Tensor

from generator.doc_to_lora import DocToLora, HypernetworkConfig
from generator.hypernetwork import Factors, InvalidHypernetworkConfig
from tests.generator.models import THREE_MODULES, hypernetwork_config, random_batch, trained

KINDS: list[dict[str, Any]] = [
    {"context": "per_layer_activations", "modules": THREE_MODULES},
    {"context": "early_exit", "context_layer": 1, "modules": THREE_MODULES},
    {"context": "embed_only", "per_layer_processing": False, "pre_head_layers": 2},
]


def delta(factors: Factors, module: str) -> Tensor:
    return factors.B[module].mT @ factors.A[module]


def test_an_untrained_hypernetwork_generates_loras_that_change_nothing() -> None:
    config = hypernetwork_config(modules=THREE_MODULES)
    model = DocToLora(config)
    lora = model.combine(model(*random_batch(config)), 3)
    for module in config.modules:
        assert lora.A[module].abs().sum() > 0
        assert not lora.B[module].any()


@pytest.mark.parametrize("changes", KINDS)
def test_the_first_two_steps_of_training_reach_every_parameter(changes: dict[str, Any]) -> None:
    config = hypernetwork_config(**changes)
    torch.manual_seed(0)
    model = DocToLora(config)
    features, mask = random_batch(config)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(2):
        lora = model.combine(model(features, mask), 1)
        losses = [(delta(lora, m) - 1).square().sum() for m in config.modules]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert [name for name, grad in grads.items() if grad is None or not grad.any()] == []


@pytest.mark.parametrize("changes", KINDS)
def test_factors_have_the_widths_of_their_modules(changes: dict[str, Any]) -> None:
    config = hypernetwork_config(**changes)
    out = trained(config)(*random_batch(config, chunks=2))
    for module, (d_in, d_out) in config.modules.items():
        assert out.A[module].shape == (2, config.layers, config.rank, d_in)
        assert out.B[module].shape == (2, config.layers, config.rank, d_out)


def test_a_layers_lora_depends_on_that_layers_features_only() -> None:
    config = hypernetwork_config()
    model = trained(config)
    features, mask = random_batch(config)
    changed = features.clone()
    changed[:, 1] += 1.0
    before, after = model(features, mask), model(changed, mask)
    for layer, differs in enumerate([False, True, False]):
        same = torch.equal(before.A["down_proj"][:, layer], after.A["down_proj"][:, layer])
        assert same != differs


def test_padding_changes_no_lora() -> None:
    config = hypernetwork_config()
    model = trained(config)
    features, mask = random_batch(config)
    padded = torch.cat([features, torch.randn(3, 3, 9, config.feature_size)], 2)
    out = model(padded, torch.cat([mask, torch.zeros(3, 9, dtype=torch.bool)], 1))
    torch.testing.assert_close(out.A["down_proj"], model(features, mask).A["down_proj"])


def test_the_head_is_linear_in_the_direction_of_each_vector_and_blind_to_its_length() -> None:
    config = hypernetwork_config(modules=THREE_MODULES, pre_head_layers=0)
    model = trained(config)
    vectors = torch.randn(1, config.layers, 3 * config.rank, config.latent_size)
    out = model.factors(vectors)
    for index, (module, (d_in, d_out)) in enumerate(config.modules.items()):
        for layer in range(config.layers):
            for rank in range(config.rank):
                x = vectors[0, layer, index * config.rank + rank]
                row = (x / x.norm()) @ model.head[layer, index]
                a = row[:d_in] * model.scaler_A[module][layer, rank]
                b = row[d_in : d_in + d_out] * model.scaler_B[module][layer, rank]
                torch.testing.assert_close(out.A[module][0, layer, rank], a)
                torch.testing.assert_close(out.B[module][0, layer, rank], b)
    longer = model.factors(3 * vectors)
    torch.testing.assert_close(longer.A["down_proj"], out.A["down_proj"])


def test_modules_are_in_sorted_order_whatever_order_they_are_given_in() -> None:
    names = list(hypernetwork_config(modules=THREE_MODULES).modules)
    assert names == ["down_proj", "o_proj", "q_proj"]


def test_combining_sums_the_chunks_deltas_and_one_bias() -> None:
    config = hypernetwork_config(modules=THREE_MODULES)
    model = trained(config)
    chunks = model(*random_batch(config, chunks=4))
    combined = model.combine(chunks, 2)
    bias = model.bias()
    assert bias is not None
    for module in config.modules:
        assert combined.A[module].shape[:3] == (2, config.layers, 3 * config.rank)
        each = delta(chunks, module)
        want = each.unflatten(0, (2, 2)).sum(1) + delta(bias, module)
        torch.testing.assert_close(delta(combined, module), want)
        first_chunk_of_second = combined.A[module][1, :, : config.rank]
        assert torch.equal(first_chunk_of_second, chunks.A[module][2])


def test_a_chunk_scaled_by_zero_is_left_out() -> None:
    config = hypernetwork_config()
    model = trained(config)
    chunks = model(*random_batch(config, chunks=3))
    with_two = model.combine(Factors(*({m: x[:2] for m, x in side.items()} for side in chunks)), 2)
    masked = model.combine(chunks, 3, chunk_scale=torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(delta(masked, "down_proj"), delta(with_two, "down_proj"))


def test_without_a_bias_the_rank_is_that_of_the_chunks() -> None:
    config = hypernetwork_config(use_bias=False)
    model = trained(config)
    assert model.bias() is None
    assert model.combine(model(*random_batch(config)), 3).A["down_proj"].shape[2] == 3 * config.rank


def test_normalised_features_make_the_result_blind_to_the_features_scale() -> None:
    config = hypernetwork_config(normalise_features=True)
    model = trained(config)
    features, mask = random_batch(config)
    out, scaled = model(features, mask), model(100 * features, mask)
    torch.testing.assert_close(out.A["down_proj"], scaled.A["down_proj"], rtol=1e-3, atol=1e-5)


def test_under_autocast_the_factors_stay_in_float32_and_close() -> None:
    config = hypernetwork_config()
    model = trained(config)
    features, mask = random_batch(config)
    with torch.autocast("cpu", torch.bfloat16):
        out = model(features, mask)
    exact = model(features, mask)
    assert out.A["down_proj"].dtype == torch.float32
    assert not torch.equal(out.A["down_proj"], exact.A["down_proj"])
    torch.testing.assert_close(out.A["down_proj"], exact.A["down_proj"], rtol=0.1, atol=0.05)


def test_matrices_stored_in_the_precision_of_autocast_change_no_factor() -> None:
    config = hypernetwork_config()
    model = trained(config)
    features, mask = random_batch(config)
    with torch.autocast("cpu", torch.bfloat16):
        converted_by_autocast = model(features, mask)
        model.store_products_as(torch.bfloat16)
        stored = model(features, mask)
    assert torch.equal(stored.A["down_proj"], converted_by_autocast.A["down_proj"])
    assert torch.equal(stored.B["down_proj"], converted_by_autocast.B["down_proj"])


def test_it_compiles_to_one_graph() -> None:
    config = hypernetwork_config(blocks=1)
    model = trained(config)
    batch = random_batch(config)
    compiled = torch.compile(model, backend="eager", fullgraph=True, dynamic=False)
    torch.testing.assert_close(compiled(*batch).A["down_proj"], model(*batch).A["down_proj"])


def test_the_scaling_is_two_rank_to_the_three_halves_unless_given() -> None:
    assert hypernetwork_config(rank=4).scaling == 16
    assert hypernetwork_config(rank=4, alpha=3.5).scaling == 3.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules": {}}, "there is none"),
        ({"modules": {"lm_head": (4, 4)}}, "unknown: lm_head"),
        ({"modules": {"down_proj": (0, 4)}}, r"modules.down_proj widths \(0, 4\)"),
        ({"rank": 0}, "rank is 0, must be at least 1"),
        ({"heads": 6, "kv_heads": 4}, r"heads \(6\) must be a multiple of kv_heads \(4\)"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"context": "early_exit"}, "context_layer is None with context 'early_exit'"),
        ({"context_layer": 2}, "context_layer is 2 with context 'per_layer_activations'"),
        ({"context": "early_exit", "context_layer": 0}, "context_layer is 0"),
        ({"context_last_layer": 9}, "context_last_layer is 9 .* 3 layers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidHypernetworkConfig, match=message):
        hypernetwork_config(**changes)


def test_at_the_published_sizes_it_has_the_309_million_parameters_of_the_paper() -> None:
    config = HypernetworkConfig(
        modules={"down_proj": (9216, 2304)}, layers=26, feature_size=2304, blocks=8
    )
    with torch.device("meta"):
        parameters = sum(p.numel() for p in DocToLora(config).parameters())
    assert round(parameters / 1e6) == 309
