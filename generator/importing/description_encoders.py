"""How the published code of Text-to-LoRA reads descriptions, one entry for each kind of encoder."""

from dataclasses import dataclass

from generator.config import Pooling


@dataclass(frozen=True, slots=True)
class PublishedEncoder:
    """Encoders with ``mark`` in their names."""

    mark: str
    pooling: Pooling
    prefix: str = ""


ENCODERS = (
    PublishedEncoder(mark="gte", pooling="cls"),
    PublishedEncoder(
        mark="SFR",
        pooling="last_token",
        prefix="Instruct: Retrieve semantically similar text.\nQuery: ",
    ),
)
THE_BASE_MODEL = PublishedEncoder(mark="", pooling="last_token")


def encoder_of(name: str | None) -> PublishedEncoder | None:
    """The entry of an encoder by its hub ID or folder, None for the base model's; None if its
    authors say nothing of it."""
    if name is None:
        return THE_BASE_MODEL
    return next((encoder for encoder in ENCODERS if encoder.mark in name), None)
