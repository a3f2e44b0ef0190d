"""A published Text-to-LoRA checkpoint to a native generator folder."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from generator.base_model import check_base
from generator.checkpoint import save
from generator.config import InvalidGenerator, Pooling, TextGeneratorConfig
from generator.description import DescriptionReader, check_embedding_size
from generator.hypernetwork import InvalidHypernetworkConfig
from generator.importing.description_encoders import ENCODERS, encoder_of
from generator.importing.models import (
    CannotImport,
    model_configuration,
    model_outline,
    model_tokenizer,
    place,
)
from generator.importing.published_text import read_hypernetwork
from generator.importing.run_folder import Arguments, RunFolder
from generator.importing.task_families import chat_template_of
from generator.importing.torch_file import InvalidCheckpoint, TorchFile
from generator.text_to_lora import TextHypernetworkConfig

MAX_DESCRIPTION_TOKENS = 8192  # as published
ENCODER_OPTION = "--description-encoder"  # says where it lies


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a checkpoint does not say, or says wrongly on this machine.

    base, description_encoder: folders or hub IDs of the models, None for the checkpoint's own names
    pooling: None for the one that the description encoder was published with
    chat_template: file of a Jinja template, None for the one of the base model's family, and of no
        family for the base model's own
    """

    base: str | None = None
    description_encoder: str | None = None
    pooling: Pooling | None = None
    chat_template: Path | None = None


def import_text_to_lora(run: Path, out: Path, choices: Choices) -> TextGeneratorConfig:
    """Writes the native folder ``out``, named after itself; weights in float32. ``run`` is as in
    RunFolder.

    Nothing is written before everything is checked. Raises CannotImport, or OSError where ``out``
    cannot be written.
    """
    if out.exists():
        raise CannotImport(f"{out} is there already; remove it or choose another --out")
    try:
        folder = RunFolder.read(run)
        hypernetwork = read_hypernetwork(folder, TorchFile(folder.weights))
        config = _fitted(
            _config(out.resolve().name, folder.arguments, hypernetwork.config, choices)
        )
    except InvalidHypernetworkConfig as error:
        raise CannotImport(f"{run}: {error}") from error
    except (InvalidCheckpoint, InvalidGenerator) as error:
        raise CannotImport(str(error)) from error
    save(out, config, hypernetwork)
    return config


def _config(
    name: str, arguments: Arguments, hypernetwork: TextHypernetworkConfig, choices: Choices
) -> TextGeneratorConfig:
    base, encoder = arguments.model_dir, arguments.emb_model
    if encoder is None and choices.description_encoder is not None:
        raise CannotImport(
            "the checkpoint reads descriptions with its base model: --base says where it lies, and "
            f"--description-encoder {choices.description_encoder} does not apply"
        )
    known = encoder_of(encoder)
    pooling = choices.pooling or (known.pooling if known else None)
    if pooling is None:
        marks = " or ".join(known.mark for known in ENCODERS)
        raise CannotImport(
            f"how to pool the states of the description encoder {encoder} is not known (only of "
            f"those with {marks} in their names); --pooling declares it"
        )
    return TextGeneratorConfig(
        name=name,
        base_model=place(choices.base or base),
        description_encoder=encoder and place(choices.description_encoder or encoder),
        pooling=pooling,
        description_prefix=known.prefix if known else "",
        max_description_tokens=MAX_DESCRIPTION_TOKENS,
        chat_template=_chat_template(base, choices),
        hypernetwork=hypernetwork,
    )


def _chat_template(base: str, choices: Choices) -> str | None:
    if choices.chat_template is None:
        return chat_template_of(base) or chat_template_of(choices.base or "")
    try:
        return choices.chat_template.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotImport(f"{choices.chat_template} cannot be read: {error}") from None


def _fitted(config: TextGeneratorConfig) -> TextGeneratorConfig:
    """The configuration with no longer descriptions than the encoder reads, after a look at the
    models: base model, description encoder, its tokenizer and the chat template fit."""
    base = config.base_path
    model_outline("base model", base, "--base")
    check_base(config)
    encoder = model_configuration("description encoder", config.encoder_path, ENCODER_OPTION)
    check_embedding_size(config, encoder.hidden_size)
    positions = getattr(encoder, "max_position_embeddings", MAX_DESCRIPTION_TOKENS)
    config = config.model_copy(
        update={"max_description_tokens": min(MAX_DESCRIPTION_TOKENS, positions)}
    )
    reader = DescriptionReader(model_tokenizer(config.encoder_path, ENCODER_OPTION), config)
    try:
        reader.split("A")
    except Exception as error:  # a broken tokenizer may fail in any way
        raise CannotImport(
            f"the tokenizer of {config.encoder_path} does not read a description: {error}"
        ) from error
    if config.chat_template is not None:
        _check_chat_template(config.chat_template, model_tokenizer(base, "--base"))
    return config


def _check_chat_template(template: str, tokenizer: PreTrainedTokenizerBase) -> None:
    question = [{"role": "user", "content": "A question?"}]
    try:
        tokenizer.apply_chat_template(
            question, chat_template=template, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template may fail in any way, and does so in every chat
        raise CannotImport(f"the chat template does not render a question: {error}") from error
