"""A published Doc-to-LoRA checkpoint to a native generator folder."""

from dataclasses import dataclass, replace
from pathlib import Path

from generator.base_model import check_base
from generator.checkpoint import save
from generator.chunks import Chunker
from generator.config import DocGeneratorConfig, InvalidGenerator
from generator.context import ContextEncoder, EncoderMismatch
from generator.doc_to_lora import ContextKind
from generator.hypernetwork import InvalidHypernetworkConfig
from generator.importing.families import FAMILIES, family_of
from generator.importing.models import CannotImport, model_outline, model_tokenizer, place
from generator.importing.prompt_file import InvalidPromptFile, read_prompt_file
from generator.importing.published import Settings, read_settings, read_weights
from generator.importing.torch_file import InvalidCheckpoint, TorchFile
from generator.prompt import PromptFormat

ENCODER_OPTIONS = "--base or --context-encoder"  # say where it lies
# as their authors evaluated them: the main experiment, and the needle in a haystack
CHUNK_TOKENS: dict[ContextKind, int] = {
    "per_layer_activations": 8192,
    "early_exit": 1024,
    "embed_only": 1024,
}
MAX_CHUNKS = 7  # of the published rank 8, with the bias: adapters of rank 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What a checkpoint does not say, or says wrongly on this machine.

    base, context_encoder: folders or hub IDs of the models, None for the checkpoint's own names
    prompt_format: JSON file of the prompt, None for the one of the base model's family
    max_chunk_tokens, max_chunks: None for the published length, and for as many as make rank 64
        of the published rank
    """

    base: str | None = None
    context_encoder: str | None = None
    prompt_format: Path | None = None
    max_chunk_tokens: int | None = None
    max_chunks: int | None = None


def import_doc_to_lora(checkpoint: Path, out: Path, choices: Choices) -> DocGeneratorConfig:
    """Writes the native folder ``out``, named after itself; weights in float32.

    Nothing is written before everything is checked. Raises CannotImport, or OSError where ``out``
    cannot be written.
    """
    if out.exists():
        raise CannotImport(f"{out} is there already; remove it or choose another --out")
    try:
        file = TorchFile(checkpoint)
        settings = read_settings(file)
        config = _config(out.resolve().name, settings, choices)
        _check_models(config, settings)
        hypernetwork = read_weights(file, config.hypernetwork)
    except InvalidHypernetworkConfig as error:
        raise CannotImport(f"{checkpoint}: {error}") from error
    except (InvalidCheckpoint, InvalidGenerator, EncoderMismatch, InvalidPromptFile) as error:
        raise CannotImport(str(error)) from error
    save(out, config, hypernetwork)
    return config


def _config(name: str, settings: Settings, choices: Choices) -> DocGeneratorConfig:
    encoder = settings.context_encoder
    if encoder is None and choices.context_encoder is not None:
        raise CannotImport(
            "the checkpoint reads documents with its base model: --base says where it lies, and "
            f"--context-encoder {choices.context_encoder} does not apply"
        )
    kind = settings.hypernetwork.context
    return DocGeneratorConfig(
        name=name,
        base_model=place(choices.base or settings.base_model),
        context_encoder=encoder and place(choices.context_encoder or encoder),
        prompt=_prompt(settings, choices),
        max_chunk_tokens=choices.max_chunk_tokens or CHUNK_TOKENS[kind],
        max_chunks=choices.max_chunks or MAX_CHUNKS,
        hypernetwork=settings.hypernetwork,
    )


def _prompt(settings: Settings, choices: Choices) -> PromptFormat:
    if choices.prompt_format is not None:
        prompt = read_prompt_file(choices.prompt_format)
    else:
        family = family_of(settings.base_model) or family_of(choices.base or "")
        if family is None:
            known = ", ".join(name for family in FAMILIES for name in family.models)
            raise CannotImport(
                f"no prompt is known for the base model {settings.base_model} (known: {known}); "
                "--prompt-format declares it"
            )
        prompt = family.prompt
    if settings.context_encoder is None or prompt.context_chat_template is not None:
        return prompt
    encoder = family_of(settings.context_encoder)
    template = (
        encoder.prompt.chat_template
        if encoder is not None
        else model_tokenizer(
            choices.context_encoder or settings.context_encoder, ENCODER_OPTIONS
        ).chat_template
    )
    if template is None:
        raise CannotImport(
            f"the context encoder {settings.context_encoder} has no chat template; "
            "context_chat_template in a --prompt-format file declares it"
        )
    return replace(prompt, context_chat_template=template)


def _check_models(config: DocGeneratorConfig, settings: Settings) -> None:
    """The base model, the context encoder, its tokenizer and the prompt fit the checkpoint."""
    base = model_outline("base model", config.base_path, "--base")
    if base.config.hidden_size != settings.base_hidden_size:
        raise CannotImport(
            f"base model {config.base_model} has hidden size {base.config.hidden_size}, "
            f"the checkpoint was made for {settings.base_hidden_size}"
        )
    check_base(config)
    encoder = model_outline("context encoder", config.encoder_path, "--context-encoder")
    ContextEncoder(encoder, config.hypernetwork)
    _check_prompt(config, encoder.config.vocab_size)


def _check_prompt(config: DocGeneratorConfig, vocabulary: int) -> None:
    prompt = config.prompt
    highest = max((0, *prompt.context_prefix_ids, *prompt.context_suffix_ids))
    if highest >= vocabulary:
        raise CannotImport(
            f"the prompt format has the token ID {highest}, the context encoder's highest is "
            f"{vocabulary - 1}: it is another model's"
        )
    chunker = Chunker(
        model_tokenizer(config.encoder_path, ENCODER_OPTIONS),
        prompt,
        max_chunk_tokens=config.max_chunk_tokens,
        max_chunks=config.max_chunks,
    )
    try:
        chunker.split("A document.")
    except Exception as error:  # a template may fail in any way, and does so in every document
        raise CannotImport(f"the chat template does not render a document: {error}") from error
