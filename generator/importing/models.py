"""The models beside a checkpoint: where they lie, and whether they can be read."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from generator.base_model import outline
from generator.hub import load_tokenizer, model_config


class CannotImport(ValueError):
    """A checkpoint, a model beside it or a prompt format at fault; says which and why."""


def place(model: str) -> str:
    """A folder by its absolute path, a hub ID as it is but for a slash at its end."""
    return str(Path(model).resolve()) if Path(model).is_dir() else model.rstrip("/")


def model_outline(what: str, path: str, option: str) -> PreTrainedModel:
    """The decoder of a model without its weights. Raises CannotImport, which calls it ``what`` and
    names the ``option`` that says where it lies."""
    with _explained(f"{what} {path}", option):
        return outline(path)


def model_configuration(what: str, path: str, option: str) -> PreTrainedConfig:
    """The configuration of a model. As ``model_outline``."""
    with _explained(f"{what} {path}", option):
        return model_config(path)


def model_tokenizer(path: str, option: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. As ``model_outline``."""
    with _explained(f"tokenizer of {path}", option):
        return load_tokenizer(path)


@contextmanager
def _explained(what: str, option: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CannotImport(
            f"{what} cannot be read: {first} -- {option} says where the model lies"
        ) from error
