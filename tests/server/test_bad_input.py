"""Whatever a caller sends wrongly: a clear error in OpenAI's shape, and nothing left behind."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from adapters_store import new_adapter_id
from tests.server.running import MAX_UPLOAD_BYTES, MAX_WAIT, Running, document

pytestmark = pytest.mark.engine


@pytest.fixture(autouse=True)
def nothing_is_left_behind(http: httpx.Client, server: Running) -> Iterator[None]:
    """No row, no file and no half-written upload, whatever a test sends."""
    newest = http.get("/v1/adapters").json()["first_id"]
    files = server.files()
    yield
    assert http.get("/v1/adapters").json()["first_id"] == newest
    assert server.files() == files


def refused(answer: httpx.Response, status: int, code: str, param: str | None, *said: str) -> None:
    """The answer is this error, whole and in OpenAI's shape."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert answer.json().keys() == {"error"}
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert (error["code"], error["param"]) == (code, param), error
    for clue in said:
        assert clue in error["message"]
    assert answer.headers["x-request-id"].startswith("req_")
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize(
    ("filename", "content", "status", "code", "clue"),
    [
        ("a.md", b"", 400, "document_empty", "empty"),
        ("a.md", b" \n\t\r\n ", 400, "document_empty", "white space"),
        ("a.txt", b"text\0with NUL", 400, "document_binary", "NUL"),
        ("a.txt", bytes(range(1, 32)) * 10, 400, "document_binary", "control"),
        ("a.txt", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3", 400, "document_binary", "PDF"),
        ("a.txt", b"caf\xe9 in Latin-1", 400, "document_not_utf8", "offset 3"),
        ("a.txt", b"word " * 50_000, 400, "document_too_long", "tokens"),
        ("a.pdf", b"%PDF-1.7", 415, "unsupported_media_type", ".md"),
    ],
)
def test_a_file_that_is_no_document_is_refused(
    http: httpx.Client, filename: str, content: bytes, status: int, code: str, clue: str
) -> None:
    answer = http.post("/v1/adapters", files={"file": (filename, content)})
    refused(answer, status, code, "file", clue)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "document_empty"),
        ("\u2003\n", "document_empty"),
        ("a\0b", "document_binary"),
        ("word " * 50_000, "document_too_long"),
    ],
)
def test_a_text_that_is_no_document_is_refused(http: httpx.Client, text: str, code: str) -> None:
    refused(http.post("/v1/adapters", json={"text": text}), 400, code, "text")


def test_too_long_a_document_is_told_its_size_and_the_limit(http: httpx.Client) -> None:
    answer = http.post("/v1/adapters", json={"text": "word " * 50_000})
    refused(answer, 400, "document_too_long", "text", "250,000 characters", "at most", "chunks")


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"wait": -1}, "wait"),
        ({"wait": MAX_WAIT + 1}, "wait"),
        ({"wait": "soon"}, "wait"),
        ({"wait": True}, "wait"),
        ({"ttl_seconds": 0}, "ttl_seconds"),
        ({"ttl_seconds": -5}, "ttl_seconds"),
        ({"ttl_seconds": [1]}, "ttl_seconds"),
        ({"name": ""}, "name"),
        ({"name": "two words"}, "name"),
        ({"name": "../etc"}, "name"),
        ({"name": "n" * 129}, "name"),
        ({"name": 7}, "name"),
        ({"name": new_adapter_id()}, "name"),
        ({"metadata": "team"}, "metadata"),
        ({"metadata": {"team": 5}}, "metadata.team"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"text": ["a"]}, "text"),
        ({"text": None}, "text"),
        ({"temperature": 1}, "temperature"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(
    http: httpx.Client, fields: dict[str, Any], param: str
) -> None:
    answer = http.post("/v1/adapters", json={"text": document(), **fields})
    refused(answer, 400, "invalid_request", param, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"wait": "-1"}, "wait"),
        ({"wait": str(MAX_WAIT + 1)}, "wait"),
        ({"wait": "nan"}, "wait"),
        ({"ttl_seconds": "-1"}, "ttl_seconds"),
        ({"metadata": "{"}, "metadata"),
        ({"metadata": '{"team": 5}'}, "metadata.team"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_form_field_of_the_wrong_kind_is_named(
    http: httpx.Client, fields: dict[str, str], param: str
) -> None:
    answer = http.post("/v1/adapters", files={"file": ("a.md", b"text")}, data=fields)
    refused(answer, 400, "invalid_request", param, param)


def test_the_name_of_the_base_model_is_not_free(http: httpx.Client) -> None:
    base = http.get("/v1/models").json()["data"][0]["id"]
    answer = http.post("/v1/adapters", json={"text": document(), "name": base})
    refused(answer, 400, "invalid_request", "name", "base model")


@pytest.mark.parametrize(
    ("content_type", "body", "status", "code"),
    [
        ("application/json", b'{"text": "cut', 400, "malformed_body"),
        ("application/json", b"", 400, "malformed_body"),
        ("application/json", b"[1]", 400, "invalid_request"),
        ("application/json", b'{"text": "\\ud800"}', 400, "malformed_body"),
        ("application/json", b"\xff\xfe{}", 400, "malformed_body"),
        ("multipart/form-data; boundary=b", b"--b\r\ncut", 400, "malformed_body"),
        ("multipart/form-data", b"--b--", 400, "malformed_body"),
        ("text/plain", b"a document", 415, "unsupported_media_type"),
        ("application/x-www-form-urlencoded", b"text=a", 415, "unsupported_media_type"),
    ],
)
def test_a_malformed_body_is_refused(
    http: httpx.Client, content_type: str, body: bytes, status: int, code: str
) -> None:
    answer = http.post("/v1/adapters", content=body, headers={"content-type": content_type})
    refused(answer, status, code, None)


@pytest.mark.parametrize(
    "files",
    [
        {"document": ("a.md", b"text")},
        [("file", ("a.md", b"one")), ("file", ("b.md", b"two"))],
    ],
)
def test_a_form_needs_exactly_one_file(http: httpx.Client, files: Any) -> None:
    answer = http.post("/v1/adapters", files=files)
    refused(answer, 400, "invalid_request", "file", "exactly one file")


def test_a_body_declared_too_large_is_refused_before_it_is_sent(server: Running) -> None:
    head = (
        "POST /v1/adapters HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
        f"Content-Length: {MAX_UPLOAD_BYTES + 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())
        answer = _until_closed(connection)
    assert answer.startswith("HTTP/1.1 413 ")
    assert f"{MAX_UPLOAD_BYTES:,} bytes" in answer


def test_a_body_that_grows_too_large_is_refused_and_read_no_further(server: Running) -> None:
    head = (
        "POST /v1/adapters HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    )
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.md"\r\n\r\n'
    sent = 0
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode() + _http_chunk(part))
        try:
            while sent < 100 * MAX_UPLOAD_BYTES:
                connection.sendall(_http_chunk(b"x" * 10_000))
                sent += 10_000
        except OSError:  # the server has hung up
            pass
        answer = _until_closed(connection)
    assert sent < 100 * MAX_UPLOAD_BYTES
    assert answer.startswith("HTTP/1.1 413 ")
    assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "body_too_large"


def test_a_client_that_sends_too_much_reads_the_reason(http: httpx.Client) -> None:
    answer = http.post("/v1/adapters", files={"file": ("a.md", b"x" * (20 * MAX_UPLOAD_BYTES))})
    refused(answer, 413, "body_too_large", None, f"{MAX_UPLOAD_BYTES:,} bytes")


def test_a_client_that_goes_away_in_the_middle_leaves_nothing(server: Running) -> None:
    head = (
        "POST /v1/adapters HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n"
        "Content-Type: multipart/form-data; boundary=b\r\n\r\n"
        '--b\r\nContent-Disposition: form-data; name="file"; filename="a.md"\r\n\r\nhalf'
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=60) as connection:
        connection.sendall(head.encode())


@pytest.mark.parametrize("method", ["GET", "DELETE"])
@pytest.mark.parametrize("adapter", [new_adapter_id(), "no-such-name", "adp_", "%2e%2e%2fetc"])
def test_an_unknown_adapter_is_not_found(http: httpx.Client, method: str, adapter: str) -> None:
    answer = http.request(method, f"/v1/adapters/{adapter}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] in {"adapter_not_found", "not_found"}


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": 101}, "limit"),
        ({"limit": "many"}, "limit"),
        ({"order": "up"}, "order"),
        ({"status": "done"}, "status"),
        ({"kind": "image"}, "kind"),
        ({"after": "page2"}, "after"),
    ],
)
def test_a_wrong_listing_is_refused(http: httpx.Client, params: dict[str, Any], param: str) -> None:
    refused(http.get("/v1/adapters", params=params), 400, "invalid_request", param, param)


def test_unknown_routes_and_methods_are_refused_in_the_same_shape(http: httpx.Client) -> None:
    refused(http.get("/v1/files"), 404, "not_found", None, "/docs")
    refused(http.put("/v1/adapters"), 405, "method_not_allowed", None, "GET, POST")
    refused(http.post("/v1/load_lora_adapter", json={}), 404, "not_found", None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": []}, "model"),
        ({"model": 5, "messages": []}, "model"),
        ({"model": "", "messages": []}, "model"),
    ],
)
def test_a_chat_without_a_model_is_refused(
    http: httpx.Client, body: dict[str, Any], param: str
) -> None:
    refused(http.post("/v1/chat/completions", json=body), 400, "invalid_request", param)


def test_a_chat_with_an_unknown_model_says_so(http: httpx.Client) -> None:
    for model in ("gpt-4", new_adapter_id(), "../../etc"):
        answer = http.post("/v1/chat/completions", json={"model": model, "messages": []})
        refused(answer, 404, "model_not_found", "model", model)


def test_a_chat_with_fields_of_the_wrong_kind_is_refused(http: httpx.Client) -> None:
    base = http.get("/v1/models").json()["data"][0]["id"]
    answer = http.post("/v1/chat/completions", json={"model": base, "messages": "hello"})
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]
    assert answer.headers["x-request-id"].startswith("req_")
    answer = http.post(
        "/v1/chat/completions", content=b"{", headers={"content-type": "application/json"}
    )
    refused(answer, 400, "malformed_body", None)


def _http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _until_closed(connection: socket.socket) -> str:
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received.decode()
