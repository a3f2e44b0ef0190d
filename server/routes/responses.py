"""How the OpenAPI document describes a route's answers."""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel

from server.errors import ErrorBody

Responses = dict[int | str, dict[str, Any]]


def answers(
    successes: Mapping[int, str] | None = None,
    *,
    model: type[BaseModel] | None = None,
    media_type: str | None = None,
    errors: Sequence[int] = (),
) -> Responses:
    """FastAPI's `responses`: successes with their meanings, and errors in OpenAI's shape."""
    described: Responses = {}
    for status, meaning in (successes or {}).items():
        described[status] = {"description": meaning}
        if model is not None:
            described[status]["model"] = model
        if media_type is not None:
            described[status]["content"] = {
                media_type: {"schema": {"type": "string", "format": "binary"}}
            }
    for status in errors:
        described[status] = {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    return described
