import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from generator.training.cli import PRETRAINED


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded model's tokenizer."""
    return AutoTokenizer.from_pretrained(PRETRAINED / "base")
