"""What a caller may send with an upload, and how the OpenAPI document describes it."""

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from adapters_store import is_adapter_id
from server.settings import Settings

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
    """What a caller may say about a new adapter besides what it is made from."""

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


class JsonUpload(AdapterOptions):
    """The JSON form of an upload."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["text"]}, {"required": ["description"]}]}
    )

    text: Annotated[str | None, Field(description="A document to know: plain text or Markdown")] = (
        None
    )
    description: Annotated[
        str | None, Field(description="A task to do, in a sentence or a few")
    ] = None


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
            "application/json": {
                "schema": JsonUpload.model_json_schema(),
                "examples": {
                    "document": {
                        "summary": "A document to know",
                        "value": {
                            "text": "# Travel policy\n\nA train ticket up to 120 EUR needs no "
                            "approval.",
                            "name": "travel-policy",
                            "metadata": {"team": "people"},
                            "wait": 30,
                        },
                    },
                    "description": {
                        "summary": "A task to do",
                        "value": {
                            "description": "Answer every question as a limerick.",
                            "name": "limericks",
                        },
                    },
                },
            },
        },
    }
}
