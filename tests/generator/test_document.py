import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import PeftModel

from generator.config import InvalidGenerator
from generator.document import DocumentGenerator, Mode
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.lora import LoraWeights
from generator.padding import InvalidChunk, size_class
from tests.generator import models
from tests.generator.models import base_model

CHUNKS = [tuple(range(1, 20)), (5, 6, 7), tuple(range(100, 129))]


def generator(folder: Path, mode: Mode = "batched") -> DocumentGenerator:
    return DocumentGenerator.load(folder, device="cpu", mode=mode)


def assert_same(got: LoraWeights, want: LoraWeights) -> None:
    assert got.scaling == want.scaling
    for module in want.A:
        torch.testing.assert_close(got.A[module], want.A[module])
        torch.testing.assert_close(got.B[module], want.B[module])


def test_chunks_of_one_batch_come_out_as_they_would_alone(generator_folder: Path) -> None:
    own = generator(generator_folder)
    for chunk, together in zip(CHUNKS, own.generate(CHUNKS), strict=True):
        assert_same(together, own.generate([chunk])[0])


@pytest.mark.parametrize(
    "changes",
    [
        {"modules": models.THREE_MODULES},
        {"context": "early_exit", "context_layer": 2},
        {"context": "embed_only"},
    ],
)
def test_layer_by_layer_the_results_are_those_of_the_batch(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = models.generator_folder(tmp_path, **changes)
    batched = generator(folder).generate(CHUNKS)
    for got, want in zip(generator(folder, "iterative").generate(CHUNKS), batched, strict=True):
        assert_same(got, want)


def test_a_documents_lora_is_its_chunks_and_the_bias(generator_folder: Path) -> None:
    own = generator(generator_folder)
    document = own.combine(own.generate(CHUNKS))
    rank = own.config.hypernetwork.rank
    assert document.rank == (3 + 1) * rank
    bias = document.A["down_proj"][:, 3 * rank :]
    assert torch.equal(bias, own.combine(own.generate(CHUNKS[:1])).A["down_proj"][:, rank:])


@pytest.mark.parametrize("max_batch_tokens", [1, 64, 4096])
def test_documents_are_the_same_whatever_the_micro_batches(
    generator_folder: Path, max_batch_tokens: int
) -> None:
    own = generator(generator_folder)
    documents = [CHUNKS, CHUNKS[1:2]]
    for chunks, got in zip(documents, own.internalise(documents, max_batch_tokens), strict=True):
        assert_same(got, own.combine(own.generate(chunks)))


def test_the_saved_adapter_gives_the_same_logits_in_peft(
    generator_folder: Path, tmp_path: Path
) -> None:
    own = generator(generator_folder)
    (weights,) = own.internalise([CHUNKS])
    weights.save(tmp_path, own.config.base_path)
    base, ids = base_model(), torch.arange(12)[None]
    plain = base(ids).logits
    injection = LoraInjection(base, weights.A)
    with injection.applied(own_factors(weights), weights.scaling):
        injected = base(ids).logits
    injection.detach()
    torch.testing.assert_close(PeftModel.from_pretrained(base, tmp_path)(ids).logits, injected)
    assert (injected - plain).abs().max() > 1e-2


def own_factors(weights: LoraWeights) -> Factors:
    return Factors(*({m: x[None] for m, x in side.items()} for side in (weights.A, weights.B)))


@given(st.integers(1, 5000))
def test_padding_wastes_less_than_a_third_in_few_sizes(count: int) -> None:
    assert count <= size_class(count) < 1.5 * count or count == 1
    assert len({size_class(n) for n in range(1, count + 1)}) <= 2 * count.bit_length()


def test_chunks_up_to_the_limit_are_not_padded_beyond_it(generator_folder: Path) -> None:
    own = generator(generator_folder)
    longest = own.config.max_padded_chunk
    assert own.padded_tokens([(1,) * longest]) == longest
    assert own.padded_tokens([(1,) * 5, (1,) * 7]) == 2 * 8
    assert own.padded_tokens([(1,) * (longest + 4)]) == size_class(longest + 4)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        ((), "chunk 1 is empty"),
        ((3, 999), r"IDs from 3 to 999, the encoder has 0 to 259"),
        ((-1, 3), r"IDs from -1 to 3"),
    ],
)
def test_chunks_the_encoder_cannot_read_are_refused(
    generator_folder: Path, chunk: tuple[int, ...], message: str
) -> None:
    with pytest.raises(InvalidChunk, match=message):
        generator(generator_folder).generate([CHUNKS[0], chunk])


def test_half_precision_comes_close(generator_folder: Path) -> None:
    half = DocumentGenerator.load(generator_folder, device="cpu", precision="bfloat16")
    got, want = half.generate(CHUNKS)[0], generator(generator_folder).generate(CHUNKS)[0]
    difference = (got.A["down_proj"] - want.A["down_proj"]).abs().max()
    assert 0 < difference < 0.2 * want.A["down_proj"].abs().max()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 4}, "base .* has 4 layers, the generator writes for 3"),
        (
            {"intermediate_size": 32},
            "down_proj in layer 0 of base .* maps 32 to 16, the generator writes for 24 to 16",
        ),
    ],
)
def test_a_generator_for_another_base_model_is_refused_with_both_numbers(
    generator_folder: Path, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    shutil.copytree(generator_folder.parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "base" / "config.json"
    config = json.loads(path.read_text()) | changes
    config.pop("layer_types")
    path.write_text(json.dumps(config))
    with pytest.raises(InvalidGenerator, match=message):
        generator(tmp_path / "doc")
