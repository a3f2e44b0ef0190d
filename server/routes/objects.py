"""What the API answers with, in OpenAI's manner."""

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

from adapters_store import Adapter, AdapterKind, AdapterStatus

EXAMPLE_ID = "adp_01k3j8z6c2v5xq0m7r4t9w1y8e"


class ProgressObject(BaseModel):
    done: int = Field(description="Chunks that are made")
    total: int = Field(description="Chunks in all; 0 before it is known")


class FailureObject(BaseModel):
    code: str = Field(description="A stable word to branch on")
    message: str


class TimingsObject(BaseModel):
    """Milliseconds of each stage, null until it has run."""

    extract: float | None = Field(description="Reading the source and splitting it into chunks")
    generate: float | None = Field(description="Waiting for and running the generator")
    store: float | None = Field(description="Making the weights durable")
    # BaseModel has a method of this name
    registered: float | None = Field(
        serialization_alias="register", description="The last load into the engine"
    )


class AdapterObject(BaseModel):
    """A LoRA adapter made from one document, or from the description of a task (kind `text`). Its
    ID never names other weights."""

    id: str = Field(description="Use it as `model` in chat, completions and the others")
    object: Literal["adapter"] = "adapter"
    kind: AdapterKind
    status: AdapterStatus
    progress: ProgressObject
    error: FailureObject | None = Field(description="Why the status is `failed`")
    name: str | None = Field(description="The label it was uploaded under; works as `model` too")
    version: int | None = Field(description="Counts the adapters under one name")
    base_model: str
    generator: str = Field(description="The hypernetwork that made it: name@fingerprint")
    source_name: str | None = Field(
        description="File name of the document, or the beginning of the description"
    )
    source_bytes: int
    tokens: int | None
    chunks: int | None
    rank: int | None
    bytes: int | None = Field(description="Size of the weights")
    sha256: str | None = Field(description="Hash of the weights")
    compression_error: float | None
    timings_ms: TimingsObject
    resident: bool = Field(description="Whether it is loaded in the engine now")
    created_at: int = Field(description="Unix seconds")
    last_used_at: int | None = Field(description="Unix seconds")
    expires_at: int | None = Field(description="Unix seconds; then it is deleted")
    metadata: Mapping[str, str]

    model_config = {
        "json_schema_extra": {
            "example": {
                "id": EXAMPLE_ID,
                "object": "adapter",
                "kind": "document",
                "status": "ready",
                "progress": {"done": 3, "total": 3},
                "error": None,
                "name": "handbook",
                "version": 1,
                "base_model": "doclora-tiny",
                "generator": "doclora-tiny-doc@0123456789ab",
                "source_name": "handbook.md",
                "source_bytes": 1834,
                "tokens": 421,
                "chunks": 3,
                "rank": 32,
                "bytes": 655360,
                "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                "compression_error": None,
                "timings_ms": {"extract": 2.1, "generate": 180.4, "store": 6.0, "register": 9.2},
                "resident": True,
                "created_at": 1790000000,
                "last_used_at": None,
                "expires_at": None,
                "metadata": {"team": "people"},
            }
        }
    }

    @classmethod
    def of(cls, adapter: Adapter, resident: frozenset[str]) -> "AdapterObject":
        """The adapter as the API shows it; `resident` are the adapters loaded in the engine."""
        progress = adapter.progress
        if adapter.status is AdapterStatus.READY and adapter.chunks:
            done = total = adapter.chunks
        else:
            done, total = progress.done, progress.total
        error = adapter.error
        timings = adapter.timings_ms
        return cls(
            id=adapter.id,
            kind=adapter.kind,
            status=adapter.status,
            progress=ProgressObject(done=done, total=total),
            error=FailureObject(code=error.code, message=error.message) if error else None,
            name=adapter.name,
            version=adapter.version,
            base_model=adapter.base_model,
            generator=adapter.generator,
            source_name=adapter.source_name,
            source_bytes=adapter.source_bytes,
            tokens=adapter.tokens,
            chunks=adapter.chunks,
            rank=adapter.rank,
            bytes=adapter.bytes,
            sha256=adapter.sha256,
            compression_error=adapter.compression_error,
            timings_ms=TimingsObject(
                extract=timings.get("extract"),
                generate=timings.get("generate"),
                store=timings.get("store"),
                registered=timings.get("register"),
            ),
            resident=adapter.id in resident,
            created_at=int(adapter.created_at),
            last_used_at=_seconds(adapter.last_used_at),
            expires_at=_seconds(adapter.expires_at),
            metadata=adapter.metadata,
        )


class AdapterList(BaseModel):
    """A page of adapters; pass `last_id` as `after` for the next."""

    object: Literal["list"] = "list"
    data: list[AdapterObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class DeletedAdapter(BaseModel):
    id: str
    object: Literal["adapter.deleted"] = "adapter.deleted"
    deleted: Literal[True] = True


class ModelObject(BaseModel):
    """Something that can be named as `model`: the base model or a ready adapter."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="Unix seconds")
    owned_by: Literal["doclora"] = "doclora"
    parent: str | None = Field(default=None, description="The base model of an adapter")
    name: str | None = Field(default=None, description="The adapter's name")

    model_config = {
        "json_schema_extra": {
            "example": {
                "id": EXAMPLE_ID,
                "object": "model",
                "created": 1790000000,
                "owned_by": "doclora",
                "parent": "doclora-tiny",
                "name": "handbook",
            }
        }
    }


class ModelList(BaseModel):
    """The base model, then the caller's ready adapters, newest first."""

    object: Literal["list"] = "list"
    data: list[ModelObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
