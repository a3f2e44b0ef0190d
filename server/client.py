"""The command line's view of a server: its HTTP API with errors as exceptions."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

CONNECT_SECONDS = 5.0
TERMINAL = frozenset({"ready", "failed", "cancelled"})

Json = dict[str, Any]


class ServerUnreachable(Exception):
    """Nothing answers at the address."""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"no doclora server answers at {url} ({reason}); start one with `doclora serve`, "
            "or name another with --url or DOCLORA_URL"
        )


class RequestRefused(Exception):
    """The server answered with an error; the message is the server's."""

    def __init__(self, status: int, message: str, code: str | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Client:
    """A connection to one server. Use as a context manager."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        # generation and answers take as long as they take; only connecting is quick or hopeless
        timeout = httpx.Timeout(None, connect=CONNECT_SECONDS)
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._http.close()

    def add(self, file: Path, name: str | None) -> Json:
        """Upload a document; returns its adapter, usually still `queued`."""
        fields = {"wait": "0"} | ({"name": name} if name else {})
        with file.open("rb") as content:
            return self._json("POST", "/v1/adapters", data=fields, files={"file": content})

    def describe(self, description: str, name: str | None) -> Json:
        """Send the description of a task; returns its adapter, usually still `queued`."""
        body = {"description": description, "name": name, "wait": 0}
        return self._json("POST", "/v1/adapters", json=body)

    def follow(self, adapter_id: str) -> Iterator[Json]:
        """The adapter as it was and at each change, until it is ready, failed or cancelled."""
        yield from self._events("GET", f"/v1/adapters/{adapter_id}/events")

    def adapters(self, limit: int) -> Json:
        """A page of the newest adapters: `data` and `has_more`."""
        return self._json("GET", "/v1/adapters", params={"limit": limit})

    def remove(self, adapter_id: str) -> None:
        self._json("DELETE", f"/v1/adapters/{adapter_id}")

    def chat(self, model: str, messages: list[Json]) -> Iterator[str]:
        """The answer's pieces, as they are made."""
        body = {"model": model, "messages": messages, "stream": True}
        for event in self._events("POST", "/v1/chat/completions", json=body):
            if error := event.get("error"):
                raise RequestRefused(200, error["message"], error.get("code"))
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    yield piece

    def _json(self, method: str, path: str, **request: Any) -> Json:
        with self._answered():
            answer = self._http.request(method, path, **request)
        _raise_for(answer)
        content: Json = answer.json()
        return content

    def _events(self, method: str, path: str, **request: Any) -> Iterator[Json]:
        with self._answered(), self._http.stream(method, path, **request) as answer:
            if answer.is_error:
                answer.read()
            _raise_for(answer)
            for line in answer.iter_lines():
                kind, _, value = line.partition(": ")
                if kind == "data" and value != "[DONE]":
                    yield json.loads(value)

    @contextmanager
    def _answered(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as error:
            raise ServerUnreachable(self.url, str(error) or type(error).__name__) from error


def _raise_for(answer: httpx.Response) -> None:
    if not answer.is_error:
        return
    try:
        error = answer.json()["error"]
        message, code = error["message"], error.get("code")
    except (ValueError, KeyError, TypeError):
        message, code = f"{answer.status_code} {answer.reason_phrase}: {answer.text[:200]}", None
    raise RequestRefused(answer.status_code, message, code)
