"""A body is read piece by piece, files go to disk, and nothing is read beyond the limit."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request

from server import errors
from server.uploads import MAX_FIELD_BYTES, limited_body, receive_form

pytestmark = pytest.mark.anyio
LIMIT = 100_000


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    app = FastAPI()
    errors.install(app)

    @app.post("/form", response_model=None)
    async def form(request: Request) -> dict[str, object]:
        form = await receive_form(request, LIMIT, tmp_path)
        files = [
            (file.field, file.filename, file.content_type, file.path.read_bytes().decode())
            for file in form.files
        ]
        return {"fields": form.fields, "files": files}

    @app.post("/raw")
    async def raw(request: Request) -> int:
        return sum([len(piece) async for piece in limited_body(request, LIMIT)])

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_files_go_to_the_folder_and_fields_stay_in_memory(
    client: httpx.AsyncClient, tmp_path: Path
) -> None:
    text = "line\r\n" * 10_000
    answer = await client.post(
        "/form",
        files={"file": ("Überblick.md", text.encode(), "text/markdown")},
        data={"name": "übersicht"},
    )
    assert answer.json() == {
        "fields": {"name": "übersicht"},
        "files": [["file", "Überblick.md", "text/markdown", text]],
    }
    assert len(list(tmp_path.iterdir())) == 1


class Body(httpx.AsyncByteStream):
    """A body without a declared length that counts how much of it was taken."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.taken = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self.pieces:
            self.taken += 1
            yield piece


async def test_a_body_over_the_limit_is_refused_with_the_piece_that_exceeds_it(
    client: httpx.AsyncClient,
) -> None:
    body = Body([b"x" * 30_000] * 1_000)
    answer = await client.send(client.build_request("POST", "/raw", content=body))
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "body_too_large"
    assert "100,000" in answer.json()["error"]["message"]
    assert answer.headers["connection"] == "close"
    assert body.taken <= 5


async def test_a_body_declared_over_the_limit_is_refused_before_it_is_read(
    client: httpx.AsyncClient,
) -> None:
    body = Body([b"x"])
    answer = await client.send(
        client.build_request(
            "POST", "/raw", content=body, headers={"content-length": str(LIMIT + 1)}
        )
    )
    assert answer.status_code == 413
    assert body.taken == 0


async def test_a_body_of_exactly_the_limit_is_taken(client: httpx.AsyncClient) -> None:
    assert (await client.post("/raw", content=b"x" * LIMIT)).json() == LIMIT


FORM = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\nvalue\r\n'


@pytest.mark.parametrize(
    ("headers", "body", "clue"),
    [
        ({"content-type": "multipart/form-data"}, PART, "boundary"),
        (FORM, PART, "closing boundary"),
        (FORM, PART + PART + b"--b--", "twice"),
        (FORM, b"not a form at all", "malformed"),
        (FORM, b"--b\r\nContent-Type: text/plain\r\n\r\nvalue\r\n--b--", "name"),
        (FORM, PART.replace(b"value", b"v" * (MAX_FIELD_BYTES + 1)) + b"--b--", "file part"),
        (FORM, b"", "closing boundary"),
    ],
)
async def test_a_malformed_form_is_refused_with_its_fault(
    client: httpx.AsyncClient, headers: dict[str, str], body: bytes, clue: str
) -> None:
    answer = await client.post("/form", content=body, headers=headers)
    assert answer.status_code == 400
    assert clue in answer.json()["error"]["message"]
