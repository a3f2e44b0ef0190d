"""What an upload's bytes must be to count as a document."""

import pytest

from server.errors import UnsupportedMediaType
from server.reading.text import (
    BinarySource,
    EmptySource,
    InvalidEncoding,
    read_text,
    require_text_type,
)


def test_utf8_text_is_read_as_it_is() -> None:
    assert read_text("Öl: 3 €\n\tfin\f".encode(), param="file") == "Öl: 3 €\n\tfin\f"


def test_a_byte_order_mark_is_dropped_and_line_ends_become_newlines() -> None:
    assert read_text(b"\xef\xbb\xbfone\r\ntwo\rthree", param="file") == "one\ntwo\nthree"


@pytest.mark.parametrize("data", [b"", b" \r\n\t", b"\xef\xbb\xbf\n", "\u2003\u00a0\n".encode()])
def test_a_document_without_anything_but_white_space_is_refused(data: bytes) -> None:
    with pytest.raises(EmptySource) as refusal:
        read_text(data, param="file")
    assert refusal.value.param == "file"


@pytest.mark.parametrize(
    ("data", "clue"),
    [
        (b"plain\0text", "NUL"),
        (b"\x01\x02\x03 and a few letters", "control"),
        (b"%PDF-1.7 only letters follow", "PDF"),
        (b"PK\x03\x04", "DOCX"),
        ("text as UTF-16".encode("utf-16"), "UTF-16"),
        ("\ufffd\ufffd\ufffdab".encode(), "replacement"),
    ],
)
def test_binary_data_is_refused_with_a_guess_at_what_it_is(data: bytes, clue: str) -> None:
    with pytest.raises(BinarySource, match=clue):
        read_text(data, param="text")


def test_a_few_control_characters_are_tolerated() -> None:
    assert read_text(b"\x1b[1m" + b"x" * 100 + b"\x07", param="file").endswith("\x07")


def test_invalid_utf8_is_refused_with_the_offset_of_the_bad_byte() -> None:
    with pytest.raises(InvalidEncoding, match="0xe9 at offset 1,003"):
        read_text(b"a" * 1003 + "é".encode("latin-1") + b"z", param="file")
    with pytest.raises(InvalidEncoding, match="0xff at offset 5"):
        read_text(b"\xef\xbb\xbfab\xff", param="file")


@pytest.mark.parametrize(
    ("filename", "content_type"),
    [
        ("handbook.md", "text/markdown"),
        ("NOTES.TXT", "text/plain; charset=utf-8"),
        ("README", "application/octet-stream"),
        (None, None),
    ],
)
def test_text_and_markdown_are_accepted(filename: str | None, content_type: str | None) -> None:
    require_text_type(filename, content_type)


@pytest.mark.parametrize(
    ("filename", "content_type", "offence"),
    [("a.pdf", "application/pdf", r"'\.pdf'"), ("page", "text/html", "'text/html'")],
)
def test_other_types_are_refused_with_those_that_work(
    filename: str, content_type: str, offence: str
) -> None:
    with pytest.raises(UnsupportedMediaType, match=rf"{offence}.*Markdown"):
        require_text_type(filename, content_type)
