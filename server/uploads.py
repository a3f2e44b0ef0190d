"""Reading a request's body under a size limit, without holding an uploaded file in memory."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread
from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from server.errors import BodyTooLarge, InvalidRequest, MalformedBody

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_FIELD_BYTES = 64 * 1024
MAX_FIELDS = 32


async def limited_body(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body's pieces; raises BodyTooLarge at once when it is declared longer than `limit`
    bytes, otherwise with the piece that exceeds it, and reads no further."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise BodyTooLarge(limit)
    received = 0
    async for piece in request.stream():
        received += len(piece)
        if received > limit:
            raise BodyTooLarge(limit)
        if piece:
            yield piece


@dataclass(slots=True)
class UploadedFile:
    """A file part of a form: its bytes lie at `path`."""

    field: str
    filename: str
    content_type: str | None
    path: Path


@dataclass(slots=True)
class Form:
    """A multipart form: plain fields in memory, files on disk."""

    fields: dict[str, str] = field(default_factory=dict)
    files: list[UploadedFile] = field(default_factory=list)


async def receive_form(request: Request, limit: int, folder: Path) -> Form:
    """Stream a multipart body of at most `limit` bytes, its files into `folder`.

    Raises BodyTooLarge, MalformedBody, InvalidRequest.
    """
    _, options = parse_options_header(request.headers["content-type"])
    boundary = options.get(b"boundary")
    if not boundary:
        raise MalformedBody("The content-type multipart/form-data lacks its boundary.")
    try:
        reader = _FormReader(boundary, folder)
        try:
            async for piece in limited_body(request, limit):
                await to_thread.run_sync(reader.write, piece)
            await to_thread.run_sync(reader.finish)
        finally:
            reader.close()
    except FormParserError as error:
        raise MalformedBody(f"The multipart form is malformed: {error}") from error
    return reader.form


class _FormReader:
    """Callbacks of the multipart parser; runs in a worker thread because it writes files."""

    def __init__(self, boundary: bytes, folder: Path) -> None:
        self.form = Form()
        self._folder = folder
        self._headers: dict[bytes, bytes] = {}
        self._header = (bytearray(), bytearray())
        self._name = ""
        self._value = bytearray()
        self._file: BinaryIO | None = None
        self._complete = False
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._headers.clear,
            "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
            "on_header_end": self._header_end,
            "on_headers_finished": self._part_start,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def write(self, piece: bytes) -> None:
        self._parser.write(piece)

    def finish(self) -> None:
        self._parser.finalize()
        if not self._complete:
            raise MalformedBody("The multipart form ends before its closing boundary.")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _header_end(self) -> None:
        name, value = self._header
        self._headers[bytes(name).lower()] = bytes(value)
        self._header = (bytearray(), bytearray())

    def _part_start(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        if b"name" not in options:
            raise MalformedBody("A part of the multipart form lacks its name.")
        self._name = options[b"name"].decode("utf-8", "replace")
        self._value = bytearray()
        if len(self.form.fields) + len(self.form.files) >= MAX_FIELDS:
            raise MalformedBody(f"The multipart form has more than {MAX_FIELDS} parts.")
        if b"filename" in options:
            self._open_file(options[b"filename"].decode("utf-8", "replace"))

    def _open_file(self, filename: str) -> None:
        content_type = self._headers.get(b"content-type", b"").decode("latin-1")
        path = self._folder / f"part-{len(self.form.files)}"
        self._file = path.open("xb")
        self.form.files.append(UploadedFile(self._name, filename, content_type or None, path))

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise InvalidRequest(
                f"The form field {self._name!r} is longer than {MAX_FIELD_BYTES:,} bytes; "
                "send a document as a file part.",
                param=self._name,
            )

    def _part_end(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        elif self._name in self.form.fields:
            raise InvalidRequest(f"The form field {self._name!r} is given twice.", param=self._name)
        else:
            self.form.fields[self._name] = self._value.decode("utf-8", "replace")

    def _end(self) -> None:
        self._complete = True
