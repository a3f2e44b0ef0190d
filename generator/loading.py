"""A generator of whichever kind a folder holds."""

from pathlib import Path

from generator.config import DocGeneratorConfig, read_config
from generator.description import TextGenerator
from generator.document import DocumentGenerator, Mode

Generator = DocumentGenerator | TextGenerator


def load_generator(folder: Path, *, device: str, mode: Mode) -> Generator:
    """Loads the generator. ``mode`` is for those that read documents. Raises as its ``load``."""
    if isinstance(read_config(folder), DocGeneratorConfig):
        return DocumentGenerator.load(folder, device=device, mode=mode)
    return TextGenerator.load(folder, device=device)
