"""``config.json`` of a native generator folder: which generator it is, and what lies around it."""

import hashlib
import importlib.util
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, TypeAdapter, ValidationError

from generator.doc_to_lora import HypernetworkConfig
from generator.prompt import PromptFormat
from generator.text_to_lora import TextHypernetworkConfig

CONFIG_FILE = "config.json"
IN_PACKAGE = "package:"
WEIGHTS_FILE = "model.safetensors"
# evenly, as published, or where passages end
Chunking = Literal["even", "passages"]
Pooling = Literal["cls", "last_token", "mean"]


class InvalidGenerator(ValueError):
    """A generator folder that is missing, incomplete or contradicts itself; says what and where."""


class _Config(BaseModel):
    """What generators of all kinds say.

    ``base_model`` is a hub ID or a path, a relative one from the folder.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["doclora-generator"] = "doclora-generator"
    version: Literal[1] = 1
    name: str = Field(min_length=1)
    base_model: str = Field(min_length=1)

    _folder: Path | None = PrivateAttr(None)

    @property
    def base_path(self) -> str:
        """Where to load the base model from: an absolute path, or a hub ID.

        Raises InvalidGenerator if it is a path where nothing is."""
        return self._resolved("base_model", self.base_model)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over the folder's two files: which generator made an adapter."""
        if self._folder is None:
            raise ValueError("only a config read from a folder has a fingerprint")
        digest = hashlib.sha256()
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            with (self._folder / name).open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
        return digest.hexdigest()

    def _encoder_path(self, field: str, name: str | None) -> str:
        return self.base_path if name is None else self._resolved(field, name)

    def _resolved(self, field: str, name: str) -> str:
        if name.startswith(IN_PACKAGE):
            return in_package(name)
        if self._folder is None:
            return name
        local = (self._folder / name).resolve()
        if local.is_dir():
            return str(local)
        if name.startswith((".", "/")):
            raise InvalidGenerator(
                f"{self._folder / CONFIG_FILE}: {field} is {name!r}, but there is no folder {local}"
            )
        return name


def in_package(name: str) -> str:
    """Where the folder of an installed package lies that a "package:" name means; the package is
    not imported. Raises InvalidGenerator."""
    package, _, inside = name.removeprefix(IN_PACKAGE).partition("/")
    # of a name with a dot, the package before the dot would be imported
    found = importlib.util.find_spec(package) if package.isidentifier() else None
    folders = [] if found is None else found.submodule_search_locations or []
    for folder in folders:
        if (Path(folder) / inside).is_dir():
            return str(Path(folder) / inside)
    raise InvalidGenerator(f"{name}: the Python package {package} with it is not installed")


class DocGeneratorConfig(_Config):
    """A Doc-to-LoRA generator's ``config.json``.

    ``context_encoder`` is a hub ID or path like ``base_model``, and without one it is the base
    model. A rendered document is cut into chunks of at most ``max_chunk_tokens`` (before affixes);
    there may be ``max_chunks``. ``chunking`` is "even", as published, or at the ends of "passages"
    (with a fast tokenizer only).
    """

    kind: Literal["doc-to-lora"] = "doc-to-lora"
    context_encoder: str | None = None
    prompt: PromptFormat
    max_chunk_tokens: int = Field(ge=1)
    max_chunks: int = Field(ge=1)
    chunking: Chunking = "even"
    hypernetwork: HypernetworkConfig

    @property
    def encoder_path(self) -> str:
        """Where to load the context encoder and its tokenizer from; as ``base_path``."""
        return self._encoder_path("context_encoder", self.context_encoder)

    @property
    def chat_template(self) -> str | None:
        """The template (Jinja) of chats with its adapters; None for the base model's own."""
        return self.prompt.chat_template

    @property
    def max_rank(self) -> int:
        """Rank of the adapter of a document of ``max_chunks``."""
        return (self.max_chunks + self.hypernetwork.use_bias) * self.hypernetwork.rank

    @property
    def max_padded_chunk(self) -> int:
        """Longest chunk, its affixes included."""
        affixes = self.prompt.context_prefix_ids + self.prompt.context_suffix_ids
        return self.max_chunk_tokens + len(affixes)


class TextGeneratorConfig(_Config):
    """A Text-to-LoRA generator's ``config.json``.

    ``description_encoder`` is a hub ID or path like ``base_model``, and without one it is the base
    model; "package:" and a path inside an installed Python package names one that comes with that.
    Of its last hidden states the one that ``pooling`` names, or their mean, embeds a
    description of at most ``max_description_tokens``, special tokens included;
    ``description_prefix`` is put before it.
    """

    kind: Literal["text-to-lora"] = "text-to-lora"
    description_encoder: str | None = None
    pooling: Pooling
    description_prefix: str = ""
    max_description_tokens: int = Field(ge=1)
    chat_template: str | None = None
    hypernetwork: TextHypernetworkConfig

    @property
    def encoder_path(self) -> str:
        """Where to load the description encoder and its tokenizer from; as ``base_path``."""
        return self._encoder_path("description_encoder", self.description_encoder)

    @property
    def max_rank(self) -> int:
        """Rank of every adapter."""
        return self.hypernetwork.rank

    @property
    def max_padded_chunk(self) -> int:
        """Longest description: it is a chunk of its own."""
        return self.max_description_tokens


GeneratorConfig = DocGeneratorConfig | TextGeneratorConfig
C = TypeVar("C", DocGeneratorConfig, TextGeneratorConfig)

_READER: TypeAdapter[GeneratorConfig] = TypeAdapter(
    Annotated[GeneratorConfig, Field(discriminator="kind")]
)


def read_config(folder: Path) -> GeneratorConfig:
    """The folder's configuration. Raises InvalidGenerator, naming each field at fault."""
    path = folder / CONFIG_FILE
    try:
        config = _READER.validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidGenerator(f"no generator in {folder}: {error}") from None
    except ValidationError as error:
        faults = (
            f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}"
            for fault in error.errors()
        )
        raise InvalidGenerator(f"{path}: {'; '.join(faults)}") from None
    config._folder = folder.resolve()
    return config


def read_doc_config(folder: Path) -> DocGeneratorConfig:
    """The configuration of a folder that must hold a Doc-to-LoRA generator. As ``read_config``."""
    return _of_kind(folder, DocGeneratorConfig)


def read_text_config(folder: Path) -> TextGeneratorConfig:
    """The configuration of a folder that must hold a Text-to-LoRA generator. As ``read_config``."""
    return _of_kind(folder, TextGeneratorConfig)


def _of_kind(folder: Path, kind: type[C]) -> C:
    config = read_config(folder)
    if not isinstance(config, kind):
        needed = kind.model_fields["kind"].default
        raise InvalidGenerator(f"{folder} holds a {config.kind} generator, {needed} is needed")
    return config
