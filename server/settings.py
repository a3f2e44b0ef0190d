"""Everything an operator can set, by flag or by environment variable `DOCLORA_<NAME>`."""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

import generator

EMBEDDED = Path(generator.__file__).parent / "pretrained" / "tiny"
EMBEDDED_GENERATORS = [EMBEDDED / "doc", EMBEDDED / "text"]
MIB = 2**20


class Settings(BaseSettings):
    """Settings of `doclora serve`. Each field, by its alias if it has one, is a flag (`--max-wait`)
    and a variable (`DOCLORA_MAX_WAIT`); the flag wins."""

    model_config = SettingsConfigDict(
        env_prefix="DOCLORA_", env_prefix_target="all", validate_by_name=True, frozen=True
    )

    data_dir: Annotated[Path, Field(description="Folder of the catalogue, weights and texts")] = (
        Path("data")
    )
    database_url: Annotated[
        str | None,
        Field(description="SQLAlchemy URL of the catalogue (default: SQLite in the data folder)"),
    ] = None
    host: Annotated[str, Field(description="Address to listen on")] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535, description="Port to listen on")] = 8000

    generators: Annotated[
        list[Path],
        NoDecode,
        Field(
            alias="generator",
            min_length=1,
            description="Native generator folder; give it twice for one that reads documents and "
            f"one that reads descriptions (in the variable: a JSON list, or with {os.pathsep!r} "
            "between them; default: the embedded tiny ones)",
        ),
    ] = EMBEDDED_GENERATORS
    model: Annotated[
        str | None,
        Field(description="Base model: folder or hub name (default: the generators' own)"),
    ] = None
    served_name: Annotated[
        str | None,
        Field(description="Name of the base model in the API (default: its own name)"),
    ] = None
    dtype: Annotated[str, Field(description="Number type of the base model in the engine")] = "auto"
    max_model_len: Annotated[
        int | None, Field(ge=1, description="Tokens of prompt and answer (default: the model's)")
    ] = None
    kv_cache_gib: Annotated[
        float | None,
        Field(
            gt=0,
            description="Memory of the KV cache in GiB (default: 0.25 for the embedded model, "
            "else what vLLM chooses)",
        ),
    ] = None
    cpus: Annotated[
        str | None,
        Field(description='Cores to bind the engine to, like "0-15" (default: not bound)'),
    ] = None
    max_loras: Annotated[
        int, Field(ge=1, description="Distinct adapters in one batch of the engine")
    ] = 4
    max_resident: Annotated[
        int, Field(ge=1, description="Adapters loaded in the engine at once, the rest on disk")
    ] = 64

    generator_device: Annotated[
        str, Field(description="Device of the generators: auto, cpu, cuda, cuda:1, ...")
    ] = "auto"
    generator_mode: Annotated[
        Literal["batched", "iterative"],
        Field(
            description="Features of a document from all base layers at once, or layer by layer: "
            "the same adapters in a fraction of the memory, more slowly"
        ),
    ] = "batched"
    max_batch_tokens: Annotated[
        int, Field(ge=1, description="Tokens in one micro-batch of a generator, padding included")
    ] = 4096
    jobs: Annotated[
        int, Field(ge=1, le=256, description="Adapters in generation at once; they share batches")
    ] = 8

    max_upload_bytes: Annotated[
        int, Field(ge=1, description="Largest body of an upload, in bytes")
    ] = 16 * MIB
    max_wait: Annotated[
        float, Field(ge=0, description="Longest `wait` an upload may ask for, in seconds")
    ] = 300.0

    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="Least severe messages that are logged"
    )
    log_format: Literal["text", "json"] = Field(
        default="text", description="Log lines for people or, as JSON, for collectors"
    )

    @field_validator("generators", mode="before")
    @classmethod
    def _several(cls, given: Any) -> Any:
        """The paths in the variable's text."""
        if not isinstance(given, str):
            return given
        if given.startswith("["):
            return json.loads(given)
        return [path for path in given.split(os.pathsep) if path]
