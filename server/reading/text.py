"""Plain text and Markdown: UTF-8 bytes to text, refusing what is not text."""

from pathlib import PurePath

from server.errors import Source, SourceRejected, UnsupportedMediaType

ACCEPTED_SUFFIXES = ("", ".txt", ".text", ".md", ".markdown")
ACCEPTED_TYPES = ("text/plain", "text/markdown", "text/x-markdown", "application/octet-stream")
# C0 and DEL, without tab, newline, vertical tab, form feed, carriage return and escape,
# which real text files contain
CONTROLS = bytes({*range(32), 127} - {*b"\t\n\v\f\r\x1b"})
REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()  # left by an earlier, failed conversion
MAX_CONTROL_SHARE = 0.05
SIGNATURES = {
    b"%PDF": "a PDF",
    b"PK\x03\x04": "a ZIP archive (DOCX, XLSX, PPTX and EPUB are such)",
    b"\xd0\xcf\x11\xe0": "an old Microsoft Office file",
    b"\x1f\x8b": "gzip data",
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
}


class EmptySource(SourceRejected):
    reason = "empty"


class BinarySource(SourceRejected):
    reason = "binary"


class InvalidEncoding(SourceRejected):
    reason = "not_utf8"


def require_text_type(filename: str | None, content_type: str | None) -> None:
    """Refuse a file whose name or declared type is not that of plain text or Markdown.

    Raises UnsupportedMediaType.
    """
    suffix = PurePath(filename or "").suffix.lower()
    declared = (content_type or "").partition(";")[0].strip().lower()
    if suffix not in ACCEPTED_SUFFIXES:
        offence = f"Files ending in {suffix!r}"
    elif declared and declared not in ACCEPTED_TYPES:
        offence = f"Files of type {declared!r}"
    else:
        return
    raise UnsupportedMediaType(
        f"{offence} cannot be read; UTF-8 text (.txt) and Markdown (.md, .markdown) can.",
        param="file",
    )


def read_text(data: bytes, *, param: str, source: Source = "document") -> str:
    """The text in `data`: UTF-8, with or without a byte order mark, line ends made `\\n`.

    `param` and `source` name the input in errors. Raises EmptySource, BinarySource,
    InvalidEncoding.
    """
    _refuse_binary(data, param, source)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # the codec counts from behind a byte order mark
        offset = error.start + len(data) - len(error.object)
        raise InvalidEncoding(
            f"The {source} is not valid UTF-8: byte 0x{data[offset]:02x} at offset {offset:,} "
            f"({error.reason}). Save it as UTF-8 and send it again.",
            source=source,
            param=param,
        ) from None
    if not text.strip():
        raise EmptySource(
            f"The {source} is empty or has nothing but white space.", source=source, param=param
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _refuse_binary(data: bytes, param: str, source: Source) -> None:
    likely = next((what for start, what in SIGNATURES.items() if data.startswith(start)), None)
    zeros = data.count(0)
    controls = len(data) - len(data.translate(None, CONTROLS)) + data.count(REPLACEMENT)
    if likely:
        found = f"it looks like {likely}"
    elif zeros:
        found = f"{zeros:,} NUL bytes"
    elif controls > MAX_CONTROL_SHARE * len(data):
        found = f"{controls / len(data):.0%} control or replacement characters"
    else:
        return
    raise BinarySource(
        f"The {source} is not text ({found}). Send UTF-8 text or Markdown.",
        source=source,
        param=param,
    )
