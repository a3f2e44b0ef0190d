"""A request to make an adapter, read and checked before anything is kept of it."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import Request
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from adapters_store import is_adapter_id
from generator.chunks import Chunker, DocumentTooLong
from server.errors import (
    DocumentTooLarge,
    InvalidRequest,
    UnsupportedMediaType,
    invalid_fields,
)
from server.reading.text import read_text, require_text_type
from server.settings import Settings
from server.uploads import Form, UploadedFile, limited_body, receive_form

CERTAINLY_TOO_LONG = 16  # characters a token: no prose has so many
DEFAULT_WAIT_SECONDS = 30.0
MAX_WAIT_SECONDS: float = Settings.model_fields["max_wait"].default
MAX_TTL_SECONDS = 10 * 365 * 86400.0


NAME = re.compile(r"\w[\w.-]{0,127}")


def _usable_name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(
            "a name has 1 to 128 letters, digits, '_', '.' and '-', and begins with none of '.-'"
        )
    if is_adapter_id(name):
        raise ValueError("a name must not look like an adapter ID")
    return name


Name = Annotated[
    str,
    AfterValidator(_usable_name),
    Field(
        description="Works as `model` like the ID. Under a taken name this is its next version",
        json_schema_extra={"pattern": f"^{NAME.pattern}$"},
    ),
]
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]


class AdapterOptions(BaseModel):
    """What a caller may say about a new adapter besides its document."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: Name | None = None
    metadata: Annotated[
        dict[MetadataKey, MetadataValue],
        Field(max_length=16, description="Up to 16 strings, kept with the adapter"),
    ] = {}
    ttl_seconds: Annotated[
        float | None,
        Field(gt=0, le=MAX_TTL_SECONDS, description="Delete the adapter after this time"),
    ] = None
    wait: Annotated[
        float | None,
        Field(
            ge=0,
            description="Seconds to wait for the adapter to be ready; 0: do not wait. At most the "
            f"server's `--max-wait`, {MAX_WAIT_SECONDS:g} unless set; by default "
            f"{DEFAULT_WAIT_SECONDS:g}, or the maximum where that is less",
        ),
    ] = None


class TextUpload(AdapterOptions):
    """The JSON form of an upload."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "text": "# Travel policy\n\nA train ticket up to 120 EUR needs no approval.",
                "name": "travel-policy",
                "metadata": {"team": "people"},
                "wait": 30,
            }
        }
    )

    text: Annotated[str, Field(description="The document: plain text or Markdown")]


@dataclass(frozen=True, slots=True)
class Upload:
    """A readable document and what its caller said about it."""

    param: Literal["file", "text"]  # where the document was
    text: str
    options: AdapterOptions
    wait: float  # seconds
    source_name: str | None
    source_sha256: str  # of the bytes that came in
    source_bytes: int


REQUEST_BODY: Mapping[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {
                        "file": {
                            "type": "string",
                            "format": "binary",
                            "description": "UTF-8 text or Markdown",
                        },
                        **AdapterOptions.model_json_schema()["properties"],
                        "metadata": {
                            "type": "string",
                            "description": "A JSON object of up to 16 strings",
                            "example": '{"team": "people"}',
                        },
                    },
                }
            },
            "application/json": {"schema": TextUpload.model_json_schema()},
        },
    }
}


async def receive(request: Request, folder: Path, *, max_bytes: int, max_wait: float) -> Upload:
    """Read an upload of at most `max_bytes`; a file is streamed into `folder` first.

    Raises errors of the API: BodyTooLarge, MalformedBody, InvalidRequest, UnsupportedMediaType,
    DocumentRejected.
    """
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    match content_type:
        case "multipart/form-data":
            form = await receive_form(request, max_bytes, folder)
            file, options = _of_form(form)
            wait = _wait(options, max_wait)
            return await to_thread.run_sync(_read_file, file, options, wait)
        case "application/json":
            body = b"".join([piece async for piece in limited_body(request, max_bytes)])
            return await to_thread.run_sync(_read_json, body, max_wait)
    raise UnsupportedMediaType(
        f"The content type {content_type or 'of the request'!r} is not taken here; send "
        "multipart/form-data with a part `file`, or application/json with a field `text`."
    )


def split(chunker: Chunker, upload: Upload) -> Sequence[Sequence[int]]:
    """The document's chunks; raises DocumentTooLarge.

    Of a text far beyond the limit only the beginning is tokenised, so that refusing it is cheap.
    """
    text = upload.text.strip()  # the beginning must not be all white space
    beginning = text[: chunker.max_tokens * CERTAINLY_TOO_LONG]
    try:
        chunks = chunker.split(beginning)
        return chunks if len(beginning) == len(text) else chunker.split(text)
    except DocumentTooLong as error:
        raise DocumentTooLarge(
            f"The document has {error.tokens:,} tokens or more ({len(upload.text):,} characters); "
            f"this generator takes at most {error.max_tokens:,} tokens "
            f"({error.max_chunks} chunks). Split it into several documents.",
            param=upload.param,
        ) from error


def _of_form(form: Form) -> tuple[UploadedFile, AdapterOptions]:
    if len(form.files) != 1 or form.files[0].field != "file":
        found = ", ".join(repr(file.field) for file in form.files) or "none"
        raise InvalidRequest(
            f"The form needs exactly one file part named 'file'; it has {found}.", param="file"
        )
    fields: dict[str, Any] = dict(form.fields)
    if "metadata" in fields:
        try:
            fields["metadata"] = json.loads(fields["metadata"])
        except (ValueError, RecursionError) as error:
            raise InvalidRequest(f"metadata: not valid JSON: {error}", param="metadata") from error
    require_text_type(form.files[0].filename, form.files[0].content_type)
    try:
        return form.files[0], AdapterOptions.model_validate(fields)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from error


def _read_file(file: UploadedFile, options: AdapterOptions, wait: float) -> Upload:
    data = file.path.read_bytes()
    text = read_text(data, param="file")
    digest = hashlib.sha256(data).hexdigest()
    return Upload("file", text, options, wait, _source_name(file), digest, len(data))


def _source_name(file: UploadedFile) -> str | None:
    """The file's name without folders, and without what would steer a terminal."""
    name = Path(file.filename).name
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in name) or None


def _read_json(body: bytes, max_wait: float) -> Upload:
    try:
        upload = TextUpload.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from error
    wait = _wait(upload, max_wait)
    data = upload.text.encode("utf-8", "surrogatepass")
    text = read_text(data, param="text")
    return Upload("text", text, upload, wait, None, hashlib.sha256(data).hexdigest(), len(data))


def _wait(options: AdapterOptions, max_wait: float) -> float:
    if options.wait is None:
        return min(DEFAULT_WAIT_SECONDS, max_wait)
    if options.wait > max_wait:
        raise InvalidRequest(
            f"wait: {options.wait:g} seconds are more than this server waits ({max_wait:g}); "
            "poll the adapter or read its events instead.",
            param="wait",
        )
    return options.wait
