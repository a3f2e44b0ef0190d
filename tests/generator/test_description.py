"""Descriptions of tasks: token IDs, embeddings, LoRA weights."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from generator.chunks import Chunk
from generator.config import InvalidGenerator, Pooling, TextGeneratorConfig
from generator.description import (
    DescriptionEncoder,
    DescriptionReader,
    DescriptionTooLong,
    EmptyDescription,
    TextGenerator,
)
from generator.hub import load_tokenizer
from generator.lora import InvalidLora
from generator.padding import InvalidChunk
from tests.generator import models
from tests.generator.test_gte import gte_folder

CHUNKS: list[Chunk] = [tuple(range(1, 20)), (5, 6, 7), tuple(range(100, 129))]


def config(**changes: Any) -> TextGeneratorConfig:
    fields: dict[str, Any] = {
        "name": "tiny",
        "base_model": "org/base",
        "pooling": "mean",
        "max_description_tokens": 24,
        "hypernetwork": models.text_hypernetwork_config(),
    }
    return TextGeneratorConfig(**(fields | changes))


def text_of(ids: Chunk) -> str:
    text: str = models.tokenizer().decode(ids)
    return text


def reader(**changes: Any) -> DescriptionReader:
    return DescriptionReader(models.tokenizer(), config(**changes))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Sort the words", "Sort the words."),
        ("  Sort the words\n", "Sort the words."),
        ("Sortiere nach Größe", "Sortiere nach Größe."),
        ("Sort the words.", "Sort the words."),
        ("Sort them!", "Sort them!"),
        ("Keep to 5", "Keep to 5"),
        ("(sorted)", "(sorted)"),
    ],
)
def test_a_full_stop_comes_behind_a_letter_at_the_end(text: str, read: str) -> None:
    (ids,) = reader().split(text)
    assert text_of(ids) == read


def test_a_query_behind_a_prefix_is_read_as_it_is() -> None:
    (ids,) = reader(description_prefix="Query: ").split(" Sort the words ")
    assert text_of(ids) == "Query: Sort the words"


def test_special_tokens_are_the_tokenizers_own(reference_dir: Path) -> None:
    folder = reference_dir / "t2l_gemma2_sft" / "emb_gte_tiny"
    tokenizer = load_tokenizer(str(folder))
    (ids,) = DescriptionReader(tokenizer, config()).split("sort")
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    for nothing in ("\x00\x01", "\u200b", "\ufffd"):
        with pytest.raises(EmptyDescription):
            DescriptionReader(tokenizer, config()).split(nothing)


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n"])
@pytest.mark.parametrize("prefix", ["", "Query: "])
def test_a_description_without_text_is_refused(text: str, prefix: str) -> None:
    with pytest.raises(EmptyDescription, match="empty or holds only white space"):
        reader(description_prefix=prefix).split(text)


def test_the_longest_description_fits_and_one_token_more_is_refused_with_both_sizes() -> None:
    (ids,) = reader().split("x" * 23)  # and the full stop
    assert len(ids) == reader().max_tokens == 24
    with pytest.raises(DescriptionTooLong, match="has 25 tokens, the limit is 24") as caught:
        reader().split("x" * 24)
    assert (caught.value.tokens, caught.value.max_tokens) == (25, 24)


def test_a_native_folder_says_how_to_read(tmp_path: Path) -> None:
    folder = models.text_generator_folder(tmp_path)
    own = DescriptionReader.from_folder(folder)
    assert own.max_tokens == 48
    assert text_of(own.split("Sort words")[0]) == "Sort words."


def test_a_folder_whose_tokenizer_does_not_work_is_refused(tmp_path: Path) -> None:
    folder = models.text_generator_folder(tmp_path)
    (tmp_path / "base" / "tokenizer.json").write_text("{}")
    with pytest.raises(InvalidGenerator, match=r"tokenizer of the description encoder .*base does"):
        DescriptionReader.from_folder(folder)


class States(torch.nn.Module):
    """A language model whose last hidden states are given."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.states)


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("cls", [[3.0, 4.0], [1.0, 0.0]]),
        ("last_token", [[0.0, 2.0], [1.0, 0.0]]),
        ("mean", [[1.5, 3.0], [1.0, 0.0]]),
    ],
)
def test_states_are_pooled_without_padding_and_scaled_to_one_length(
    pooling: Pooling, pooled: list[list[float]]
) -> None:
    states = torch.tensor(
        [[[3.0, 4.0], [0.0, 2.0], [9.0, 9.0]], [[1.0, 0.0], [8.0, 8.0], [9.0, 9.0]]]
    )
    mask = torch.tensor([[True, True, False], [True, False, False]])
    got = DescriptionEncoder(States(states), pooling)(mask.long(), mask)
    want = torch.tensor(pooled)
    torch.testing.assert_close(got, want / want.norm(dim=-1, keepdim=True) * 2**0.5)


def test_half_precision_states_are_pooled_in_float32() -> None:
    mask = torch.ones(1, 2, dtype=torch.bool)
    got = DescriptionEncoder(States(torch.ones(1, 2, 4).bfloat16()), "cls")(mask.long(), mask)
    assert got.dtype == torch.float32


def generator(folder: Path) -> TextGenerator:
    return TextGenerator.load(folder, device="cpu")


def with_encoder(root: Path, **changes: Any) -> Path:
    """A native generator folder whose description encoder is GTE as published, beside it."""
    folder = models.text_generator_folder(root)
    gte_folder(root / "gte")
    edit_config(folder, description_encoder="../gte", pooling="cls", **changes)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("pooling", ["cls", "last_token", "mean"])
def test_descriptions_of_one_batch_come_out_as_they_would_alone(
    tmp_path: Path, pooling: Pooling
) -> None:
    folder = with_encoder(tmp_path)
    edit_config(folder, pooling=pooling)
    own = generator(folder)
    embeddings, loras = own.embed(CHUNKS), own.generate(CHUNKS)
    for index, chunk in enumerate(CHUNKS):
        torch.testing.assert_close(embeddings[index], own.embed([chunk])[0])
        (alone,) = own.generate([chunk])
        assert alone.scaling == loras[index].scaling == 2.0
        for module in alone.A:
            torch.testing.assert_close(alone.A[module], loras[index].A[module])
            torch.testing.assert_close(alone.B[module], loras[index].B[module])
    assert (embeddings[0] - embeddings[1]).abs().max() > 1e-2


def test_the_base_model_reads_descriptions_where_no_encoder_is_named(tmp_path: Path) -> None:
    folder = models.text_generator_folder(tmp_path)
    base = models.base_model().model(torch.tensor(CHUNKS[1])[None]).last_hidden_state
    want = base.mean(1) / base.mean(1).norm() * models.HIDDEN**0.5
    torch.testing.assert_close(generator(folder).embed(CHUNKS[1:2]), want)


def test_an_encoder_of_its_own_computes_in_float32_whatever_the_precision(tmp_path: Path) -> None:
    folder = with_encoder(tmp_path)
    half = TextGenerator.load(folder, device="cpu", precision="bfloat16")
    assert torch.equal(half.embed(CHUNKS), generator(folder).embed(CHUNKS))
    edit_config(folder, description_encoder=None)
    half = TextGenerator.load(folder, device="cpu", precision="bfloat16")
    difference = (half.embed(CHUNKS) - generator(folder).embed(CHUNKS)).abs().max()
    assert 0 < difference < 0.2


def test_an_encoder_may_come_with_a_python_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_encoder(tmp_path)
    want = generator(folder).embed(CHUNKS)
    package = tmp_path / "site" / "packed_encoder"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('it is not to be imported')")
    shutil.move(tmp_path / "gte", package / "model")
    edit_config(folder, description_encoder="package:packed_encoder/model")
    with pytest.raises(InvalidGenerator, match=r"package packed_encoder.* not installed"):
        generator(folder)
    monkeypatch.syspath_prepend(package.parent)
    assert torch.equal(generator(folder).embed(CHUNKS), want)
    edit_config(folder, description_encoder="package:packed_encoder/other")
    with pytest.raises(InvalidGenerator, match=r"packed_encoder.* not installed"):
        generator(folder)


def test_an_encoder_that_lacks_weights_is_refused_by_their_names(tmp_path: Path) -> None:
    folder = with_encoder(tmp_path)
    path = tmp_path / "gte" / "model.safetensors"
    weights = load_file(path)
    weights.pop("encoder.layer.1.mlp.down_proj.bias")
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InvalidGenerator, match=r"encoder .*gte lacks layers\.1\.mlp\.down_proj\.b"):
        generator(folder)


def test_an_encoder_of_another_width_is_refused_with_both_numbers(tmp_path: Path) -> None:
    folder = models.text_generator_folder(tmp_path, embedding_size=24)
    with pytest.raises(InvalidGenerator, match=r"hidden size is 16, .* reads embeddings of 24"):
        generator(folder)


def test_a_generator_for_another_base_model_is_refused_with_both_numbers(tmp_path: Path) -> None:
    with pytest.raises(InvalidGenerator, match=r"has 3 layers, the generator writes for 4"):
        generator(models.text_generator_folder(tmp_path, layers=4))


@pytest.mark.parametrize(
    ("chunk", "message"), [((), "chunk 1 is empty"), ((3, 999), r"IDs from 3 to 999")]
)
def test_ids_that_the_encoder_cannot_read_are_refused(
    tmp_path: Path, chunk: Chunk, message: str
) -> None:
    with pytest.raises(InvalidChunk, match=message):
        generator(models.text_generator_folder(tmp_path)).generate([CHUNKS[0], chunk])


def test_a_description_is_one_lora(tmp_path: Path) -> None:
    own = generator(models.text_generator_folder(tmp_path))
    parts = own.generate(CHUNKS[:2])
    assert own.combine(parts[:1]) is parts[0]
    with pytest.raises(InvalidLora, match="one LoRA, not 2"):
        own.combine(parts)


def test_descriptions_are_not_padded_beyond_the_limit(tmp_path: Path) -> None:
    own = generator(models.text_generator_folder(tmp_path))
    assert own.padded_tokens([(1,) * 47]) == 48
    assert own.padded_tokens([(1,) * 5, (1,) * 7]) == 2 * 8
