"""The equations, step by step, against values that the published Text-to-LoRA code computed."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from generator.chunks import Chunk
from generator.description import DescriptionReader, TextGenerator
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.lora import LoraWeights
from tests.generator.reference import TEXT_CASES, TextCase, assert_close
from tests.generator.test_parity import assert_logits


@pytest.fixture(scope="module", params=TEXT_CASES)
def case(
    request: pytest.FixtureRequest, reference_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> TextCase:
    return TextCase(reference_dir / request.param, tmp_path_factory.mktemp("imported") / "text")


def described(case: TextCase, *names: str) -> list[Chunk]:
    reader = DescriptionReader.from_folder(case.native)
    return [chunk for name in names for chunk in reader.split(case.info["texts"][name])]


def assert_lora(got: LoraWeights, want: Factors) -> None:
    assert set(got.A) == set(want.A)
    for module in want.A:
        assert_close(got.A[module], want.A[module])
        assert_close(got.B[module], want.B[module])


def test_a_description_becomes_the_published_ids(case: TextCase) -> None:
    (ids,) = described(case, "desc")
    assert list(ids) == case.io["text_input_ids"][0].tolist()
    reader = DescriptionReader.from_folder(case.native)
    for name, text in zip(("desc", "desc2"), case.info["texts"]["formatted"], strict=True):
        assert described(case, name) == list(reader.split(text))


def test_embeddings_alone_and_in_a_padded_batch(case: TextCase) -> None:
    generator = TextGenerator.load(case.native, device="cpu")
    assert_close(generator.embed(described(case, "desc")), case.io["text_emb"])
    assert_close(generator.embed(described(case, "desc", "desc2")), case.io["text_emb_batch2"])


def test_the_trunk(case: TextCase) -> None:
    model = case.hypernetwork
    task = model.task_projection(case.io["task_emb"])
    assert_close(task, case.io["fixed.encoded_task_emb"])
    of_layers = model.layer_embedding[1](model.layer_embedding[0].weight)
    of_modules = model.module_embedding[1](model.module_embedding[0].weight)
    for index, module in enumerate(model.config.modules):
        parts = (task, of_layers, of_modules[index][None])
        x = torch.cat([part.expand(len(of_layers), -1) for part in parts], -1)
        x = model.mixer(x)
        assert_close(x, case.io[f"fixed.dbg.{module}.mixer"])
        x = x + model.block_before_split(x)
        assert_close(x, case.io[f"fixed.dbg.{module}.mlp1"])
        x = model.before_head(x + model.block(x))
        assert_close(x, case.io[f"fixed.dbg.{module}.mlp3"])


def test_the_lora_of_a_fixed_embedding(case: TextCase) -> None:
    factors = case.hypernetwork(case.io["task_emb"])
    (weights,) = factors.each(1, case.hypernetwork.config.scaling)
    assert_lora(weights, case.lora("fixed"))


def test_the_lora_of_a_text(case: TextCase) -> None:
    generator = TextGenerator.load(case.native, device="cpu")
    alone = generator.generate(described(case, "desc"))
    with_another = generator.generate(described(case, "desc2", "desc"))
    for weights in (alone[0], with_another[1]):
        assert_lora(weights, case.lora("text"))


@pytest.mark.parametrize("run", ["fixed", "text"])
def test_an_adapter_as_the_published_code_saves_it_reads_as_ours(case: TextCase, run: str) -> None:
    theirs = LoraWeights.load(case.folder / f"expected_lora_{run}")
    assert theirs.scaling == pytest.approx(case.hypernetwork.config.scaling)
    assert theirs.scaling == pytest.approx(case.info["peft"]["scaling"])
    assert_lora(theirs, case.lora(run))


def test_logits_through_injection(case: TextCase) -> None:
    ids, config = case.io["logits.input_ids"], case.hypernetwork.config
    injection = LoraInjection(case.base, config.modules)
    try:
        assert_logits(case.base(ids).logits, case.io["logits.base"])
        with injection.applied(case.hypernetwork(case.io["task_emb"]), config.scaling):
            assert_logits(case.base(ids).logits, case.io["logits.lora_fixed"])
    finally:
        injection.detach()


def test_logits_of_peft_with_the_saved_adapter(case: TextCase, tmp_path: Path) -> None:
    factors = case.hypernetwork(case.io["task_emb"])
    (weights,) = factors.each(1, case.hypernetwork.config.scaling)
    weights.save(tmp_path, "base")
    model = PeftModel.from_pretrained(case.base, tmp_path)
    try:
        assert_logits(model(case.io["logits.input_ids"]).logits, case.io["logits.lora_fixed"])
    finally:
        model.unload()
