"""A published Text-to-LoRA run becomes a native folder, or is refused with what is wrong."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import Phi3Config

from generator import checkpoint as native
from generator.config import TextGeneratorConfig, read_text_config
from generator.description import DescriptionReader, TextGenerator
from generator.importing.models import CannotImport
from generator.importing.text_to_lora import Choices, import_text_to_lora
from generator.text_to_lora import TextToLora
from tests.generator import models
from tests.generator.importing.published_text import lora, run_folder, state_dict
from tests.generator.reference import assert_close
from tests.generator.test_gte import gte_folder

Held = dict[str, Tensor]
FACTORISED = {"training_task": "recon", "factorized": True}
DELTAS = {"training_task": "recon", "pred_z_score": False, "delta_w_scaling": 400}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("models") / "base")


def model(folder: Path, layers: int = models.LAYERS) -> Path:
    models.base_model(layers).save_pretrained(folder)
    models.tokenizer().save_pretrained(folder)
    return folder


def imported(
    tmp_path: Path,
    base: Path,
    state: Held,
    arguments: dict[str, Any] | None = None,
    adapter: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[TextGeneratorConfig, TextToLora]:
    """The base model stands in for the description encoder too."""
    run = run_folder(tmp_path / "run", state, arguments, adapter)
    choices = {"base": str(base), "description_encoder": str(base)} | changes
    import_text_to_lora(run, tmp_path / "text", Choices(**choices))
    return native.load_text(tmp_path / "text")


@pytest.mark.parametrize("modules", [("v_proj", "q_proj"), ("q_proj", "down_proj", "v_proj")])
@pytest.mark.parametrize(
    ("arguments", "state", "affine"),
    [
        ({}, {}, False),
        ({}, {"offset": True, "head_bias": False}, True),
        ({"shared_AB_head": True}, {"shared": True}, False),
        (FACTORISED, {"z_score": True, "head_bias": False}, True),
        (FACTORISED, {"z_score": True, "offset": True, "head_bias": False}, True),
        (FACTORISED | {"shared_AB_head": True}, {"shared": True, "z_score": True}, True),
        (FACTORISED | {"pred_z_score": False}, {"offset": True}, True),
        (FACTORISED | {"pred_z_score": False}, {}, False),
        (DELTAS, {}, False),
        (DELTAS, {"offset": True}, False),
        (DELTAS | {"shared_AB_head": True}, {"shared": True}, False),
    ],
)
def test_it_generates_what_the_equations_say(
    tmp_path: Path,
    base: Path,
    modules: tuple[str, ...],
    arguments: dict[str, Any],
    state: dict[str, Any],
    affine: bool,
) -> None:
    published = state_dict(modules, **state)
    config, hypernetwork = imported(tmp_path, base, published, arguments)
    embeddings = torch.randn(2, models.HIDDEN) * 4
    factors = hypernetwork(embeddings)
    assert list(factors.A) == sorted(modules)
    for row, module in enumerate(modules):
        for index, embedding in enumerate(embeddings):
            A, B = lora(published, embedding, module, row, arguments)
            assert_close(factors.A[module][index], A)
            assert_close(factors.B[module][index], B.mT)
    assert config.hypernetwork.affine == affine
    assert config.hypernetwork.head_bias == state.get("head_bias", True)


@pytest.mark.parametrize(("use_rslora", "scaling"), [(True, 6 / 2**0.5), (False, 3.0)])
def test_the_scaling_is_that_of_peft(
    tmp_path: Path, base: Path, use_rslora: bool, scaling: float
) -> None:
    config, _ = imported(tmp_path, base, state_dict(), adapter={"use_rslora": use_rslora})
    assert config.hypernetwork.scaling == pytest.approx(scaling)


def test_the_folder_makes_loras_of_descriptions(tmp_path: Path, base: Path) -> None:
    config, _ = imported(tmp_path, base, state_dict())
    assert (config.name, config.base_path, config.encoder_path) == ("text", str(base), str(base))
    generator = TextGenerator.load(tmp_path / "text", device="cpu")
    reader = DescriptionReader.from_folder(tmp_path / "text")
    (weights,) = generator.generate(reader.split("Answer in one word."))
    assert (weights.rank, weights.layers, sorted(weights.A)) == (2, 3, ["q_proj", "v_proj"])


def test_a_folder_of_gte_as_published_is_read_with_its_class_token(
    tmp_path: Path, base: Path
) -> None:
    gte_folder(tmp_path / "gte")
    config, _ = imported(tmp_path, base, state_dict(), description_encoder=str(tmp_path / "gte"))
    assert (config.pooling, config.description_prefix) == ("cls", "")
    assert config.max_description_tokens == 64
    generator = TextGenerator.load(tmp_path / "text", device="cpu")
    assert generator.embed([(5, 6, 7)]).norm() == pytest.approx(models.HIDDEN**0.5)


@pytest.mark.parametrize("name", [None, "", "null", "~"])
def test_without_a_name_the_base_model_reads_descriptions(
    tmp_path: Path, base: Path, name: str | None
) -> None:
    arguments = {"emb_model": name}
    config, _ = imported(tmp_path, base, state_dict(), arguments, description_encoder=None)
    assert (config.description_encoder, config.pooling) == (None, "last_token")
    assert (config.encoder_path, config.max_description_tokens) == (str(base), 64)


def test_an_encoder_of_the_sfr_kind_reads_queries(tmp_path: Path, base: Path) -> None:
    arguments = {"emb_model": "Salesforce/SFR-Embedding-Mistral"}
    config, _ = imported(tmp_path, base, state_dict(), arguments)
    assert config.pooling == "last_token"
    assert config.description_prefix.startswith("Instruct: Retrieve")
    (ids,) = DescriptionReader.from_folder(tmp_path / "text").split("Sort words")
    assert models.tokenizer().decode(ids).endswith("Query: Sort words")


def test_pooling_that_nobody_published_is_to_be_declared(tmp_path: Path, base: Path) -> None:
    arguments = {"emb_model": "org/minilm"}
    with pytest.raises(CannotImport, match=r"org/minilm is not known .*--pooling declares"):
        imported(tmp_path, base, state_dict(), arguments)
    config, _ = imported(tmp_path, base, state_dict(), arguments, pooling="mean")
    assert (config.pooling, config.description_prefix) == ("mean", "")


def test_an_encoder_is_not_chosen_for_a_checkpoint_that_reads_with_its_base(
    tmp_path: Path, base: Path
) -> None:
    with pytest.raises(CannotImport, match=r"with its base model.* does not apply"):
        imported(tmp_path, base, state_dict(), {"emb_model": ""})


def test_chats_are_rendered_as_the_base_models_family_was_trained(
    tmp_path: Path, base: Path
) -> None:
    arguments = {"model_dir": "mistralai/Mistral-7B-Instruct-v0.2/"}
    config, _ = imported(tmp_path, base, state_dict(), arguments)
    assert "[INST]" in (config.chat_template or "")


def test_a_base_model_of_no_family_keeps_its_own_template_or_gets_one(
    tmp_path: Path, base: Path
) -> None:
    config, _ = imported(tmp_path, base, state_dict())
    assert config.chat_template is None
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages[0]['content'] }}")
    run = tmp_path / "run"
    choices = Choices(base=str(base), description_encoder=str(base), chat_template=template)
    import_text_to_lora(run, tmp_path / "other", choices)
    assert read_text_config(tmp_path / "other").chat_template == template.read_text()
    template.write_text("{{ raise_exception('no questions') }}")
    with pytest.raises(CannotImport, match="does not render a question: no questions"):
        import_text_to_lora(run, tmp_path / "third", choices)


def drop(*names: str) -> Callable[[Held], object]:
    return lambda held: [held.pop(name) for name in names]


def put(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda held: held.update({name: value})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (drop("mixer.1.bias"), "missing mixer.1.bias of shape [48]"),
        (
            drop("std_recon_target.B.q_proj"),
            "missing std_recon_target.B.q_proj of shape [3, 16, 2]",
        ),
        (drop("heads.q_proj.bias"), "missing heads.q_proj.bias of shape [64]"),
        (drop("AB_offset.A.v_proj"), "AB_offset.A.v_proj is missing"),
        (drop("task_encoder.mlp.0.weight"), "task_encoder.mlp.0.weight is missing"),
        (put("layer_depth_encoder.0.weight", torch.zeros(3)), "0.weight is of shape [3]"),
        (put("extra", torch.zeros(7)), "unexpected extra of shape [7]"),
        (put("out_emb_norm.bias", torch.zeros(12)), "unexpected out_emb_norm.bias of shape [12]"),
        (
            put("mlp3.4.bias", torch.zeros(9)),
            "mlp3.4.bias has shape [9], the configuration asks for [10]",
        ),
        (
            put("layer_type_encoder.0.weight", torch.zeros(3, 3)),
            "layer_type_encoder.0.weight has shape [3, 3], the configuration asks for [2, 3]",
        ),
        (
            put("mixer.1.bias", torch.full((48,), torch.nan)),
            "mixer.1.bias holds values that are not finite",
        ),
        (put("steps", 100), "no checkpoint of Text-to-LoRA: steps are no tensors"),
        (
            drop("heads.q_proj.weight", "heads.q_proj.bias"),
            "has heads for v_proj, its adapter_config.json targets q_proj, v_proj",
        ),
    ],
)
def test_weights_at_fault_are_refused_by_name_and_leave_nothing(
    tmp_path: Path, base: Path, edit: Callable[[Held], object], message: str
) -> None:
    state = state_dict()
    edit(state)
    with pytest.raises(CannotImport, match=re.escape(message)):
        imported(tmp_path, base, state, adapter={"target_modules": ["q_proj", "v_proj"]})
    assert not (tmp_path / "text").exists()


def test_a_target_that_no_base_model_has_is_refused(tmp_path: Path, base: Path) -> None:
    state = {name.replace("v_proj", "conv1d"): x for name, x in state_dict().items()}
    with pytest.raises(CannotImport, match="unknown: conv1d"):
        imported(tmp_path, base, state)


def test_a_base_model_of_other_layers_or_widths_is_refused_with_both_numbers(
    tmp_path: Path, base: Path
) -> None:
    other = model(tmp_path / "other", layers=models.LAYERS + 2)
    with pytest.raises(CannotImport, match=r"has 5 layers, the generator writes for 3"):
        imported(tmp_path, other, state_dict(), description_encoder=str(base))
    state = state_dict()
    for group in ("AB_offset", "mean_recon_target", "std_recon_target"):
        state[f"{group}.A.v_proj"] = torch.zeros(3, 2, 99)
    state["heads.v_proj.weight"] = torch.zeros(2 * (99 + 16), 10)
    state["heads.v_proj.bias"] = torch.zeros(2 * (99 + 16))
    with pytest.raises(CannotImport, match=r"maps 16 to 16, the generator writes for 99 to 16"):
        imported(tmp_path, base, state)


def test_a_base_model_without_the_target_modules_is_refused(tmp_path: Path, base: Path) -> None:
    packed = Phi3Config(hidden_size=16, num_attention_heads=2, num_hidden_layers=3, pad_token_id=0)
    packed.save_pretrained(tmp_path / "packed")
    with pytest.raises(CannotImport, match=r"packed has no q_proj in layer 0"):
        imported(tmp_path, tmp_path / "packed", state_dict(), description_encoder=str(base))


def test_an_encoder_of_another_width_is_refused_with_both_numbers(
    tmp_path: Path, base: Path
) -> None:
    state = state_dict() | {"task_encoder.mlp.0.weight": torch.zeros(6, 1024)}
    with pytest.raises(CannotImport, match=r"hidden size is 16, .* reads embeddings of 1024"):
        imported(tmp_path, base, state)


def test_models_that_are_nowhere_are_named_with_the_option_that_says_where(
    tmp_path: Path, base: Path
) -> None:
    nowhere = tmp_path / "nowhere"
    with pytest.raises(CannotImport, match=r"base model .*nowhere cannot be read.*--base says"):
        imported(tmp_path, nowhere, state_dict())
    with pytest.raises(CannotImport, match=r"nowhere cannot be read.*--description-encoder says"):
        imported(tmp_path, base, state_dict(), description_encoder=str(nowhere))


def test_an_encoder_whose_tokenizer_does_not_work_is_refused(tmp_path: Path, base: Path) -> None:
    models.base_model().save_pretrained(tmp_path / "mute")
    with pytest.raises(CannotImport, match=r"mute"):
        imported(tmp_path, base, state_dict(), description_encoder=str(tmp_path / "mute"))


def test_a_folder_that_is_there_is_not_written_over(tmp_path: Path, base: Path) -> None:
    imported(tmp_path, base, state_dict())
    with pytest.raises(CannotImport, match=r"text is there already"):
        imported(tmp_path, base, state_dict())
