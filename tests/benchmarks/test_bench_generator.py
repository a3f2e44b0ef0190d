"""The benchmark of the generator, at shapes that take no time."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from generator.document import Mode
from tests.benchmarks import bench_generator
from tests.benchmarks.bench_generator import Matrices, line, measure
from tests.benchmarks.published_shapes import BASES, RandomGenerator

CPU = torch.device("cpu")
TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 3,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
}


def tiny(base: str) -> RandomGenerator:
    return RandomGenerator(
        replace(BASES[base], sizes=BASES[base].sizes | TINY),
        layers=None,
        blocks=2,
        chunk_tokens=32,
        device=CPU,
        dtype=torch.float32,
    )


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("mode", bench_generator.MODES)
def test_a_document_of_several_chunks_is_measured_against_its_floor(
    monkeypatch: pytest.MonkeyPatch, base: str, mode: Mode
) -> None:
    monkeypatch.setattr(bench_generator, "LONG_ENOUGH", 0.0)
    case = measure(base, tiny(base), mode, tokens=120, rounds=1, matrices=Matrices(16, CPU))
    assert case.chunks == 4
    assert min(case.seconds, case.floor, case.peak_bytes) > 0
    assert "published" not in line(case, published=True)
    long = replace(case, mode="iterative", tokens=bench_generator.LONG)
    assert "of the published 0.551 s" in line(long, published=True)
    assert "published" not in line(long, published=False)
