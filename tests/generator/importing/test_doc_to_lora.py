"""A published Doc-to-LoRA checkpoint becomes a native folder, or is refused with what is wrong."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generator import checkpoint as native
from generator.chunks import Chunker
from generator.config import DocGeneratorConfig
from generator.doc_to_lora import DocToLora
from generator.document import DocumentGenerator
from generator.importing.doc_to_lora import Choices, import_doc_to_lora
from generator.importing.models import CannotImport
from tests.generator import models
from tests.generator.importing import published

Held = dict[str, Any]
PROMPT = {
    "context_prefix_ids": list(models.PROMPT.context_prefix_ids),
    "context_suffix_ids": list(models.PROMPT.context_suffix_ids),
    "chat_template": None,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More layers than the base model has."""
    return model(tmp_path_factory.mktemp("models") / "encoder", layers=models.LAYERS + 2)


def model(folder: Path, layers: int = models.LAYERS) -> Path:
    models.base_model(layers).save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


def choices(tmp_path: Path, base: Path, **changes: Any) -> Choices:
    prompt_format = tmp_path / "prompt.json"
    prompt_format.write_text(json.dumps(PROMPT))
    return Choices(**({"base": str(base), "prompt_format": prompt_format} | changes))


def imported(
    tmp_path: Path, base: Path, held: Held, **changes: Any
) -> tuple[DocGeneratorConfig, DocToLora]:
    path = published.save(held, tmp_path / "pytorch_model.bin")
    import_doc_to_lora(path, tmp_path / "doc", choices(tmp_path, base, **changes))
    return native.load_doc(tmp_path / "doc")


def assert_weights(hypernetwork: DocToLora, held: Held) -> None:
    """Every published tensor sits under our name for it."""
    wanted = {published.renamed(name): x for name, x in held.items() if isinstance(x, Tensor)}
    got = hypernetwork.state_dict()
    assert sorted(got) == sorted(wanted)
    for name, x in got.items():
        assert torch.equal(x, wanted[name].reshape(x.shape)), name


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"modules": ["q_proj", "down_proj", "o_proj"], "self_attention": 1, "rank": 3},
        {"per_layer": False, "pre_head_layers": 2},
        {"shared": True, "blocks": 3, "self_attention": 2},
        {"kind": "early_exit", "layer_idx": 2},
        {"kind": "embed_only"},
    ],
)
def test_every_weight_arrives_in_its_place(
    tmp_path: Path, base: Path, settings: dict[str, Any]
) -> None:
    held = published.checkpoint(**settings)
    config, hypernetwork = imported(tmp_path, base, held)
    assert_weights(hypernetwork, held)
    assert config.hypernetwork.scaling == 7.5
    assert config.hypernetwork.context == settings.get("kind", "per_layer_activations")
    generator = DocumentGenerator.load(tmp_path / "doc", device="cpu")
    (weights,) = generator.generate(Chunker.from_folder(tmp_path / "doc").split("A document."))
    assert sorted(weights.A) == sorted(settings.get("modules", ["down_proj"]))


def test_names_of_a_compiled_run_lose_their_prefix(tmp_path: Path, base: Path) -> None:
    held = published.checkpoint()
    compiled = {f"_orig_mod.{n}" if isinstance(x, Tensor) else n: x for n, x in held.items()}
    assert_weights(imported(tmp_path, base, compiled)[1], held)


def test_fields_that_old_checkpoints_lack_get_their_old_meaning(tmp_path: Path, base: Path) -> None:
    held = published.checkpoint(pre_head_layers=None, use_bias=None)
    del held["hypernet_config"].num_pre_head_layers
    del held["hypernet_config"].use_bias
    del held["ctx_encoder_args"].ctx_encoder_last_layer
    config, hypernetwork = imported(tmp_path, base, held)
    assert config.hypernetwork.pre_head_layers == 4
    assert config.hypernetwork.use_bias
    assert_weights(hypernetwork, held)


def test_a_bias_that_is_stored_and_not_used_is_left_out(tmp_path: Path, base: Path) -> None:
    config, hypernetwork = imported(tmp_path, base, published.checkpoint(use_bias=False))
    assert not config.hypernetwork.use_bias
    assert hypernetwork.bias() is None


def test_weights_of_half_precision_become_float32(tmp_path: Path, base: Path) -> None:
    held = published.checkpoint()
    held["head.weight"] = held["head.weight"].bfloat16()
    _, hypernetwork = imported(tmp_path, base, held)
    assert torch.equal(hypernetwork.head[:, 0], held["head.weight"].float())


def test_a_context_encoder_other_than_the_base_reads_with_its_own_template(
    tmp_path: Path, base: Path, encoder: Path
) -> None:
    held = published.checkpoint(encoder="org/encoder", last_layer=models.LAYERS)
    config, _ = imported(tmp_path, base, held, context_encoder=str(encoder))
    assert (config.base_path, config.encoder_path) == (str(base), str(encoder))
    assert config.hypernetwork.context_last_layer == models.LAYERS
    assert config.prompt.chat_template is None
    assert config.prompt.context_chat_template == models.CHAT_TEMPLATE
    DocumentGenerator.load(tmp_path / "doc", device="cpu").generate([[1, 2, 3]])


def test_a_context_encoder_without_a_chat_template_needs_one_declared(
    tmp_path: Path, base: Path
) -> None:
    plain = models.tokenizer()
    plain.chat_template = None
    models.base_model().save_pretrained(tmp_path / "plain")
    plain.save_pretrained(tmp_path / "plain")
    held = published.checkpoint(encoder="org/plain", last_layer=models.LAYERS)
    with pytest.raises(CannotImport, match=r"org/plain has no chat template; context_chat_temp"):
        imported(tmp_path, base, held, context_encoder=str(tmp_path / "plain"))


def test_an_encoder_that_is_the_base_by_name_is_the_base(tmp_path: Path, base: Path) -> None:
    config, _ = imported(tmp_path, base, published.checkpoint(encoder="org/base"))
    assert config.context_encoder is None


def test_the_folder_keeps_the_declared_prompt_and_chunks(tmp_path: Path, base: Path) -> None:
    config, _ = imported(tmp_path, base, published.checkpoint(), max_chunk_tokens=24, max_chunks=5)
    assert config.prompt == models.PROMPT
    assert (config.name, config.max_chunk_tokens, config.max_chunks) == ("doc", 24, 5)
    chunks = Chunker.from_folder(tmp_path / "doc").split("x" * 60)
    reference = Chunker(models.tokenizer(), models.PROMPT, max_chunk_tokens=24, max_chunks=5)
    assert chunks == reference.split("x" * 60)


@pytest.mark.parametrize(
    ("kind", "tokens"), [("per_layer_activations", 8192), ("embed_only", 1024)]
)
def test_chunks_are_as_long_as_its_authors_evaluated_them(
    tmp_path: Path, base: Path, kind: str, tokens: int
) -> None:
    config, _ = imported(tmp_path, base, published.checkpoint(kind=kind))
    assert (config.max_chunk_tokens, config.max_chunks) == (tokens, 7)


def drop(name: str) -> Callable[[Held], object]:
    return lambda held: held.pop(name)


def put(name: str, value: object) -> Callable[[Held], object]:
    return lambda held: held.update({name: value})


def field(owner: str, name: str, value: object) -> Callable[[Held], object]:
    return lambda held: setattr(held[owner], name, value)


SCALER = "scaler_A.down_proj"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("hypernet_config"), "no checkpoint of Doc-to-LoRA: it lacks hypernet_config"),
        (drop("base_model_name_or_path"), "it lacks base_model_name_or_path"),
        (drop(SCALER), r"missing scaler_A.down_proj of shape [1, 3, 2, 1]"),
        (put("extra", torch.zeros(7)), "unexpected extra of shape [7]"),
        (
            put(SCALER, torch.zeros(1, 3, 9, 1)),
            "scaler_A.down_proj has shape [1, 3, 9, 1], the configuration asks for [1, 3, 2, 1]",
        ),
        (
            put(SCALER, torch.full((1, 3, 2, 1), torch.inf)),
            "scaler_A.down_proj holds values that are not finite",
        ),
        (
            field("hypernet_config", "latent_size", "wide"),
            "hypernet_config.latent_size: Input should be a valid integer",
        ),
        (field("hypernet_config", "per_rank_gen", False), "per_rank_gen: Input should be True"),
        (field("hypernet_config", "extra_modules", ["norm"]), "hypernet_config.extra_modules"),
        (
            field("hypernet_config", "layer_indices", torch.tensor([0, 2, 1])),
            "layer_indices is [0, 2, 1], it must name all 3 layers in order",
        ),
        (
            field("hypernet_config", "feature_sizes", ({}, {})),
            "feature_sizes lacks the target module down_proj",
        ),
        (
            field("hypernet_config", "base_hidden_size", 2304),
            "has hidden size 16, the checkpoint was made for 2304",
        ),
        (
            field("ctx_encoder_args", "ctx_encoder_type", "last"),
            "ctx_encoder_type: Input should be 'per_layer_activations', 'early_exit' or",
        ),
    ],
)
def test_a_checkpoint_at_fault_is_refused_by_name_and_leaves_nothing(
    tmp_path: Path, base: Path, edit: Callable[[Held], object], message: str
) -> None:
    held = published.checkpoint()
    edit(held)
    with pytest.raises(CannotImport, match=re.escape(message)):
        imported(tmp_path, base, held)
    assert not (tmp_path / "doc").exists()


def test_a_base_model_of_other_layers_or_widths_is_refused_with_both_numbers(
    tmp_path: Path, base: Path, encoder: Path
) -> None:
    held = published.checkpoint()
    with pytest.raises(CannotImport, match=r"has 5 layers, the generator writes for 3"):
        imported(tmp_path, encoder, held)
    held["hypernet_config"].feature_sizes = ({"down_proj": 99}, {"down_proj": 16})
    with pytest.raises(CannotImport, match=r"maps 24 to 16, the generator writes for 99 to 16"):
        imported(tmp_path, base, held)


def test_a_context_encoder_of_another_width_is_refused_with_both_numbers(
    tmp_path: Path, base: Path
) -> None:
    held = published.checkpoint(encoder="org/encoder", last_layer=3, feature_size=20)
    with pytest.raises(CannotImport, match=r"hidden size is 16, .* reads features of 20"):
        imported(tmp_path, base, held, context_encoder=str(base))


def test_an_encoder_is_not_chosen_for_a_checkpoint_that_reads_with_its_base(
    tmp_path: Path, base: Path
) -> None:
    with pytest.raises(CannotImport, match=r"with its base model.* does not apply"):
        imported(tmp_path, base, published.checkpoint(), context_encoder=str(base))


def test_a_base_model_of_no_known_family_needs_a_prompt_format(tmp_path: Path, base: Path) -> None:
    with pytest.raises(CannotImport, match=r"org/base \(known: gemma-2-2b-it, .*--prompt-format"):
        imported(tmp_path, base, published.checkpoint(), prompt_format=None)


def test_a_prompt_of_another_models_tokenizer_is_refused(tmp_path: Path, base: Path) -> None:
    held = published.checkpoint()
    held["base_model_name_or_path"] = "google/gemma-2-2b-it"
    with pytest.raises(CannotImport, match=r"token ID 2516, the context encoder's highest is 259"):
        imported(tmp_path, base, held, prompt_format=None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**PROMPT, "context_prefix_ids": "ab"}, "context_prefix_ids: "),
        ({"context_prefix_ids": []}, "context_suffix_ids: "),
        ({**PROMPT, "colour": 1}, "colour: "),
        (
            {**PROMPT, "chat_template": "{{ raise_exception('no system') }}"},
            "does not render a document: no system",
        ),
    ],
)
def test_a_prompt_format_at_fault_is_refused(
    tmp_path: Path, base: Path, content: dict[str, Any], message: str
) -> None:
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(content))
    with pytest.raises(CannotImport, match=message):
        imported(tmp_path, base, published.checkpoint(), prompt_format=path)


def test_models_that_are_nowhere_are_named_with_the_option_that_says_where(
    tmp_path: Path, base: Path
) -> None:
    held = published.checkpoint(encoder="org/encoder", last_layer=3)
    nowhere = str(tmp_path / "nowhere")
    with pytest.raises(CannotImport, match=r"nowhere cannot be read.*--base says where"):
        imported(tmp_path, Path(nowhere), published.checkpoint())
    with pytest.raises(CannotImport, match=r"nowhere cannot be read.*--context-encoder says"):
        imported(tmp_path, base, held, context_encoder=nowhere)


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path, base: Path) -> None:
    imported(tmp_path, base, published.checkpoint())
    with pytest.raises(CannotImport, match=r"doc is there already"):
        imported(tmp_path, base, published.checkpoint())
