"""The native generator folder: ``config.json`` and ``model.safetensors``, read strictly.

A folder that holds ``config.json`` is complete: it is written last.
"""

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from generator.doc_to_lora import DocToLora, HypernetworkConfig
from generator.durable import sync
from generator.prompt import PromptFormat

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MAX_FAULTS_NAMED = 8
# evenly, as published, or where passages end
Chunking = Literal["even", "passages"]


class InvalidGenerator(ValueError):
    """A generator folder that is missing, incomplete or contradicts itself; says what and where."""


class GeneratorConfig(BaseModel):
    """A generator's ``config.json``.

    ``base_model`` and ``context_encoder`` are hub IDs or paths, relative ones from the folder;
    without a ``context_encoder`` it is the base model. A rendered document is cut into chunks of at
    most ``max_chunk_tokens`` (before affixes); there may be ``max_chunks``. ``chunking`` is "even",
    as published, or at the ends of "passages" (with a fast tokenizer only).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["doclora-generator"] = "doclora-generator"
    version: Literal[1] = 1
    kind: Literal["doc-to-lora"] = "doc-to-lora"
    name: str = Field(min_length=1)
    base_model: str = Field(min_length=1)
    context_encoder: str | None = None
    prompt: PromptFormat
    max_chunk_tokens: int = Field(ge=1)
    max_chunks: int = Field(ge=1)
    chunking: Chunking = "even"
    hypernetwork: HypernetworkConfig

    _folder: Path | None = PrivateAttr(None)

    @property
    def base_path(self) -> str:
        """Where to load the base model from: an absolute path, or a hub ID.

        Raises InvalidGenerator if it is a path where nothing is."""
        return self._resolved("base_model", self.base_model)

    @property
    def encoder_path(self) -> str:
        """Where to load the context encoder and its tokenizer from; as ``base_path``."""
        if self.context_encoder is None:
            return self.base_path
        return self._resolved("context_encoder", self.context_encoder)

    @property
    def max_rank(self) -> int:
        """Rank of the adapter of a document of ``max_chunks``."""
        return (self.max_chunks + self.hypernetwork.use_bias) * self.hypernetwork.rank

    @property
    def max_padded_chunk(self) -> int:
        """Longest chunk, its affixes included."""
        affixes = self.prompt.context_prefix_ids + self.prompt.context_suffix_ids
        return self.max_chunk_tokens + len(affixes)

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

    def _resolved(self, field: str, name: str) -> str:
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


def read_config(folder: Path) -> GeneratorConfig:
    """The folder's configuration. Raises InvalidGenerator, naming each field at fault."""
    path = folder / CONFIG_FILE
    try:
        config = GeneratorConfig.model_validate_json(path.read_bytes())
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


def save(
    folder: Path,
    config: GeneratorConfig,
    hypernetwork: DocToLora,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a generator, over another one if need be. Weights are stored as ``dtype``.

    Interrupted, it leaves the former folder or one without ``config.json``, which is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    # shared weights are listed once, under their first name
    tensors = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in hypernetwork.named_parameters()
    }
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    _publish(partial, folder / WEIGHTS_FILE)
    partial = folder / f"{CONFIG_FILE}.partial"
    partial.write_text(config.model_dump_json(indent=2) + "\n")
    _publish(partial, folder / CONFIG_FILE)


def load(folder: Path) -> tuple[GeneratorConfig, DocToLora]:
    """A generator in evaluation mode, on the CPU in float32.

    Raises InvalidGenerator, naming every key that is missing, unexpected or of the wrong shape
    (with both shapes), not of floating point, or not finite.
    """
    config = read_config(folder)
    with torch.device("meta"):
        hypernetwork = DocToLora(config.hypernetwork)
    expected = {name: list(p.shape) for name, p in hypernetwork.named_parameters()}
    tensors = _read_tensors(folder / WEIGHTS_FILE, expected)
    # not strict: shared weights go by their first name, and every name was checked above
    hypernetwork.load_state_dict(tensors, strict=False, assign=True)
    return config, hypernetwork.eval().requires_grad_(False)


def _read_tensors(path: Path, expected: dict[str, list[int]]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            faults = shape_faults(shapes, expected)
            tensors = {} if faults else {key: file.get_tensor(key) for key in shapes}
    except (OSError, SafetensorError) as error:
        raise InvalidGenerator(f"{path} cannot be read: {error}") from None
    for key, x in tensors.items():
        if not x.is_floating_point():
            faults.append(f"{key} is {x.dtype}, must be of floating point")
        elif not x.isfinite().all():
            faults.append(f"{key} holds values that are not finite")
    if faults:
        raise InvalidGenerator(f"{path}: {in_short(faults)}")
    return {key: x.float() for key, x in tensors.items()}


def in_short(faults: Sequence[str]) -> str:
    """The first few of the faults, and how many more there are."""
    named = "; ".join(faults[:MAX_FAULTS_NAMED])
    rest = len(faults) - MAX_FAULTS_NAMED
    return named + (f"; and {rest} more" if rest > 0 else "")


def shape_faults(shapes: dict[str, list[int]], expected: dict[str, list[int]]) -> list[str]:
    """Every tensor that is missing, unexpected or of another shape than the configuration's."""
    return [
        *(f"missing {key} of shape {expected[key]}" for key in expected if key not in shapes),
        *(f"unexpected {key} of shape {shapes[key]}" for key in shapes if key not in expected),
        *(
            f"{key} has shape {shapes[key]}, the configuration asks for {shape}"
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        ),
    ]


def _publish(partial: Path, final: Path) -> None:
    """Makes a written file durable, then visible under its name."""
    sync(partial)
    partial.replace(final)
    sync(final.parent)
