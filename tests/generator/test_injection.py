from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel

from generator.doc_to_lora import DocToLora
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.lora import LoraWeights
from tests.generator.models import (
    THREE_MODULES,
    base_model,
    hypernetwork_config,
    random_batch,
    trained,
)

CONFIG = hypernetwork_config(modules=THREE_MODULES)
IDS = torch.arange(24).view(4, 6)


def adapters(count: int) -> Factors:
    torch.manual_seed(1)
    model = trained(CONFIG)
    return model.combine(model(*random_batch(CONFIG, chunks=count)), 1)


def only(factors: Factors, index: int) -> Factors:
    return Factors(*({m: x[index : index + 1] for m, x in side.items()} for side in factors))


def test_each_row_uses_its_adapter_when_rows_outnumber_adapters() -> None:
    base, factors = base_model(), adapters(2)
    injection = LoraInjection(base, CONFIG.modules)
    with injection.applied(factors, 2.0):
        together = base(IDS).logits
    for row in range(4):
        with injection.applied(only(factors, row // 2), 2.0):
            torch.testing.assert_close(together[row], base(IDS[row : row + 1]).logits[0])
    assert (together - base(IDS).logits).abs().max() > 1e-2


def test_outside_of_applied_the_model_is_untouched_even_after_an_error() -> None:
    base = base_model()
    before = base(IDS).logits
    injection = LoraInjection(base, CONFIG.modules)
    with pytest.raises(RuntimeError, match="stop"), injection.applied(adapters(2), 2.0):
        raise RuntimeError("stop")
    assert torch.equal(base(IDS).logits, before)


def test_after_detach_nothing_is_left_on_the_model() -> None:
    base = base_model()
    injection = LoraInjection(base, CONFIG.modules)
    injection.detach()
    assert not any(module._forward_hooks for module in base.modules())


def test_the_logits_are_those_of_peft(tmp_path: Path) -> None:
    base, factors = base_model(), adapters(1)
    injection = LoraInjection(base, CONFIG.modules)
    with injection.applied(factors, CONFIG.scaling):
        injected = base(IDS).logits
    injection.detach()
    A, B = ({m: x[0] for m, x in side.items()} for side in factors)
    LoraWeights(A, B, CONFIG.scaling).save(tmp_path, "base")
    torch.testing.assert_close(PeftModel.from_pretrained(base, tmp_path)(IDS).logits, injected)


def test_gradients_reach_the_hypernetwork_and_not_the_base() -> None:
    base, model = base_model(), DocToLora(CONFIG)
    injection = LoraInjection(base, CONFIG.modules)
    with injection.applied(model.combine(model(*random_batch(CONFIG, chunks=2)), 1), 2.0):
        base(IDS).logits.square().sum().backward()
    assert all(model.scaler_B[m].grad.any() for m in CONFIG.modules)
    assert all(p.grad is None for p in base.parameters())


def test_a_half_precision_model_keeps_its_precision_and_the_lora_its_own() -> None:
    base = base_model().to(torch.bfloat16)
    injection = LoraInjection(base, CONFIG.modules)
    with injection.applied(adapters(2), 2.0):
        assert base(IDS).logits.dtype == torch.bfloat16


def test_it_compiles_with_the_model_to_one_graph_with_and_one_without_lora() -> None:
    base = base_model(layers=1)
    model = trained(hypernetwork_config(layers=1))
    injection = LoraInjection(base, ["down_proj"])
    graphs = 0

    def count(module: torch.fx.GraphModule, _: object) -> torch.fx.GraphModule:
        nonlocal graphs
        graphs += 1
        return module

    compiled: Any = torch.compile(base, backend=count, fullgraph=True, dynamic=False)
    for scale in (1.0, 2.0):  # other weights of the same shape do not compile again
        chunks = Factors(
            {"down_proj": scale * torch.randn(2, 1, 2, 24)}, {"down_proj": torch.randn(2, 1, 2, 16)}
        )
        with injection.applied(model.combine(chunks, 1), 2.0):
            torch.testing.assert_close(
                compiled(IDS, use_cache=False).logits, base(IDS, use_cache=False).logits
            )
        torch.testing.assert_close(
            compiled(IDS, use_cache=False).logits, base(IDS, use_cache=False).logits
        )
    assert graphs == 2
