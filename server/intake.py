"""A request to make an adapter, read and checked before anything is kept of it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from anyio import to_thread
from fastapi import Request
from pydantic import ValidationError

from adapters_store import AdapterKind
from generator.chunks import DocumentTooLong
from generator.description import DescriptionTooLong, EmptyDescription
from server.errors import (
    InvalidRequest,
    Source,
    SourceTooLong,
    UnsupportedMediaType,
    invalid_fields,
)
from server.generators import Splitter
from server.reading.text import EmptySource, read_text, require_text_type
from server.upload_fields import DEFAULT_WAIT_SECONDS, AdapterOptions, JsonUpload
from server.uploads import Form, UploadedFile, limited_body, receive_form

CERTAINLY_TOO_LONG = 16  # characters a token: no prose has so many
TITLE_CHARACTERS = 60

Param = Literal["file", "text", "description"]
SOURCES: Mapping[Param, Source] = {
    "file": "document",
    "text": "document",
    "description": "description",
}


@dataclass(frozen=True, slots=True)
class Upload:
    """A readable document or description and what its caller said about it."""

    param: Param  # where it was
    text: str
    options: AdapterOptions
    wait: float  # seconds
    source_name: str | None
    source_sha256: str  # of the bytes that came in
    source_bytes: int

    @property
    def source(self) -> Source:
        return SOURCES[self.param]

    @property
    def kind(self) -> AdapterKind:
        """Of the adapter that it becomes."""
        return AdapterKind.DOCUMENT if self.source == "document" else AdapterKind.TEXT


async def receive(request: Request, folder: Path, *, max_bytes: int, max_wait: float) -> Upload:
    """Read an upload of at most `max_bytes`; a file is streamed into `folder` first.

    Raises errors of the API: BodyTooLarge, MalformedBody, InvalidRequest, UnsupportedMediaType,
    SourceRejected.
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
        "multipart/form-data with a part `file`, or application/json with a field `text` or "
        "`description`."
    )


def split(splitter: Splitter, upload: Upload) -> Sequence[Sequence[int]]:
    """The chunks of what was uploaded; raises SourceTooLong, EmptySource.

    Of a text far beyond the limit only the beginning is tokenised, so that refusing it is cheap.
    """
    text = upload.text.strip()  # the beginning must not be all white space
    beginning = text[: splitter.max_tokens * CERTAINLY_TOO_LONG]
    try:
        chunks = splitter.split(beginning)
        return chunks if len(beginning) == len(text) else splitter.split(text)
    except DocumentTooLong as error:
        limit = f" ({error.max_chunks} chunks). Split it into several documents."
        raise _too_long(upload, error, limit) from error
    except DescriptionTooLong as error:
        raise _too_long(upload, error, ". Say it in fewer words.") from error
    except EmptyDescription as error:  # of characters that its tokenizer leaves out
        message = f"T{str(error)[1:]}."
        raise EmptySource(message, source=upload.source, param=upload.param) from error


def _too_long(
    upload: Upload, error: DocumentTooLong | DescriptionTooLong, advice: str
) -> SourceTooLong:
    return SourceTooLong(
        f"The {upload.source} has {error.tokens:,} tokens or more ({len(upload.text):,} "
        f"characters); this generator takes at most {error.max_tokens:,} tokens{advice}",
        source=upload.source,
        param=upload.param,
    )


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
    """The file's name without folders."""
    return _printable(Path(file.filename).name) or None


def _printable(text: str) -> str:
    """Without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def _read_json(body: bytes, max_wait: float) -> Upload:
    try:
        upload = JsonUpload.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise invalid_fields(error.errors()) from error
    wait = _wait(upload, max_wait)
    param, sent = _one_of(upload)
    data = sent.encode("utf-8", "surrogatepass")
    text = read_text(data, param=param, source=SOURCES[param])
    title = _title(text) if param == "description" else None
    return Upload(param, text, upload, wait, title, hashlib.sha256(data).hexdigest(), len(data))


def _one_of(upload: JsonUpload) -> tuple[Param, str]:
    """What the adapter is to be made from."""
    match upload.text, upload.description:
        case str(text), None:
            return "text", text
        case None, str(description):
            return "description", description
        case None, None:
            found, param = "neither came", "text"
        case _:
            found, param = "both came", "description"
    raise InvalidRequest(
        "An adapter is made from exactly one of `text`, a document to know, and `description`, a "
        f"task to do; {found}.",
        param=param,
    )


def _title(description: str) -> str:
    """A description's beginning, on one line."""
    line = " ".join(description.split())
    if len(line) > TITLE_CHARACTERS:
        line = f"{line[: TITLE_CHARACTERS - 1]}…"
    return _printable(line)


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
