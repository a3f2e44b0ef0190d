"""The equations, step by step, against values that the published Doc-to-LoRA code computed."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoTokenizer

from generator.chunks import Chunker
from generator.config import read_doc_config
from generator.context import ContextEncoder
from generator.document import DocumentGenerator, Mode
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.lora import LoraWeights
from tests.generator.reference import CASES, Case, assert_close

RUNS = pytest.mark.parametrize("run", ["c1", "c3"])


@pytest.fixture(scope="module", params=CASES)
def case(
    request: pytest.FixtureRequest, reference_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Case:
    return Case(reference_dir / request.param, tmp_path_factory.mktemp("imported") / "doc")


def assert_factors(case: Case, got: Factors, name: str) -> None:
    for module in case.config.modules:
        assert_close(got.A[module], case.io[f"{name}.{module}.A"])
        assert_close(got.B[module], case.io[f"{name}.{module}.B"])


@RUNS
def test_features(case: Case, run: str) -> None:
    want, mask = case.features(run)
    got = ContextEncoder(case.base, case.config)(case.io[f"{run}.ctx_ids"])
    assert_close(got * mask[:, None, :, None], want)


@RUNS
def test_aggregator(case: Case, run: str) -> None:
    features, mask = case.features(run)
    streams = features.shape[1]
    layer_major = features.transpose(0, 1).flatten(0, 1), mask.repeat(streams, 1)
    perceiver = case.hypernetwork.perceiver
    read = perceiver.read(layer_major[0])
    assert_close(perceiver.latents(read, layer_major[1]), case.io[f"{run}.dbg.encoder_latents"])
    assert_close(perceiver(*layer_major), case.io[f"{run}.dbg.decoder_out"])


@RUNS
def test_head(case: Case, run: str) -> None:
    model = case.hypernetwork
    before_head = model.before_head(case.io[f"{run}.dbg.aggregator_out"].flatten(2, 3))
    assert_close(before_head, case.io[f"{run}.dbg.pre_head_out"])
    assert_close(model.head_rows(before_head), case.io[f"{run}.dbg.head_out"])


@RUNS
def test_generated_and_combined_factors(case: Case, run: str) -> None:
    features, mask = case.features(run)
    chunks = case.hypernetwork(features, mask)
    assert_factors(case, chunks, f"{run}.gen")
    assert_factors(case, case.hypernetwork.combine(chunks, len(mask)), f"{run}.combined")


def test_chunks_and_bias_scaled(case: Case) -> None:
    chunks = case.hypernetwork(*case.features("c3"))
    scale = case.io["c3s.scalers"]
    combined = case.hypernetwork.combine(chunks, 3, chunk_scale=scale, bias_scale=0.5)
    assert_factors(case, combined, "c3s.combined")


@pytest.mark.parametrize("mode", ["batched", "iterative"])
def test_documents_of_one_and_two_chunks_in_one_batch(case: Case, mode: Mode) -> None:
    generator = DocumentGenerator.load(case.native, device="cpu", mode=mode)
    parts = generator.generate(real_chunks(case, "c3"))
    for index, document in enumerate([parts[:1], parts[1:]]):
        combined = generator.combine(document)
        for module in case.config.modules:
            for got, side in ((combined.A, "A"), (combined.B, "B")):
                # the published code pads every document of a batch to the longest one's rank
                want = case.io[f"mix12.combined.{module}.{side}"][index]
                assert_close(got[module], want[:, : combined.rank])
                assert not want[:, combined.rank :].any()


def real_chunks(case: Case, run: str) -> list[list[int]]:
    rows = zip(case.io[f"{run}.ctx_ids"], case.io[f"{run}.ctx_attn_mask"].bool(), strict=True)
    return [ids[mask].tolist() for ids, mask in rows]


def test_a_text_becomes_the_published_chunks(case: Case) -> None:
    chunks = Chunker.from_folder(case.native).split(case.info["texts"]["doc3"])
    assert [list(chunk) for chunk in chunks] == real_chunks(case, "c3")
    whole = Chunker.from_folder(case.native, max_chunk_tokens=1000).split(
        case.info["texts"]["doc1"]
    )
    assert [list(chunk) for chunk in whole] == real_chunks(case, "c1")


def test_a_question_is_rendered_as_published(case: Case) -> None:
    config = read_doc_config(case.native)
    tokenizer = AutoTokenizer.from_pretrained(config.base_path)
    question = [{"role": "user", "content": case.info["texts"]["question"]}]
    for name, messages in (
        ("prompt", question),
        ("prompt_with_empty_system", [{"role": "system", "content": ""}, *question]),
    ):
        text = tokenizer.apply_chat_template(
            messages,
            chat_template=config.prompt.chat_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        ids = tokenizer(text, add_special_tokens=False).input_ids
        assert ids == case.io[f"{name}.input_ids"][0].tolist()


@RUNS
def test_logits_through_injection(case: Case, run: str) -> None:
    combined = Factors(
        *({m: case.io[f"{run}.combined.{m}.{x}"] for m in case.config.modules} for x in "AB")
    )
    injection = LoraInjection(case.base, case.config.modules)
    try:
        assert_logits(logits(case), case.io["logits.base"])
        with injection.applied(combined, case.config.scaling):
            assert_logits(logits(case), case.io[f"logits.{run}"])
    finally:
        injection.detach()


@RUNS
def test_logits_of_peft_with_the_saved_adapter(case: Case, tmp_path: Path, run: str) -> None:
    generator = DocumentGenerator.load(case.native, device="cpu")
    (weights,) = generator.internalise([real_chunks(case, run)])
    weights.save(tmp_path, generator.config.base_path)
    model = PeftModel.from_pretrained(case.base, tmp_path)
    try:
        assert_logits(logits(case), case.io[f"logits.{run}"])
    finally:
        model.unload()
    assert_logits(logits(case), case.io["logits.base"])


@RUNS
def test_an_adapter_exported_by_others_reads_as_ours(case: Case, run: str) -> None:
    theirs = LoraWeights.load(case.folder / f"peft_{run}")
    assert theirs.scaling == pytest.approx(case.config.scaling)
    factors = Factors(*({m: x[None] for m, x in side.items()} for side in (theirs.A, theirs.B)))
    assert_factors(case, factors, f"{run}.combined")


def logits(case: Case) -> Tensor:
    out: Tensor = case.base(case.io["prompt.input_ids"]).logits
    return out


def assert_logits(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=1e-3)
