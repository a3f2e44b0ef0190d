"""A prompt format that a user declares, for base models of no known family."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from generator.importing.faults import fields_at_fault
from generator.prompt import PromptFormat


class InvalidPromptFile(ValueError):
    """A file that declares no prompt format; says which field is at fault."""


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: PromptFormat


def read_prompt_file(path: Path) -> PromptFormat:
    """The format in a JSON file with the fields of PromptFormat. Raises InvalidPromptFile."""
    try:
        return _File.model_validate_json(b'{"prompt": %s}' % path.read_bytes()).prompt
    except OSError as error:
        raise InvalidPromptFile(f"{path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise InvalidPromptFile(f"{path}: {fields_at_fault(error, inside=1)}") from None
