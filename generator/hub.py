"""Models and tokenizers by folder or hub ID.

Code that lies beside them is never run, nor is anybody asked whether it should be.
"""

from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from generator.gte import is_published_gte, native_gte


class NeedsItsOwnCode(ValueError):
    """A model that transformers has no implementation of."""

    def __init__(self, path: str, kind: object) -> None:
        super().__init__(
            f"{path} is of the kind {kind!r}, which transformers does not have: it would need code "
            "from its hub, which is never run here; what will do is a model in transformers' own "
            "format"
        )


def model_config(path: str) -> PreTrainedConfig:
    """The configuration of a model. Raises NeedsItsOwnCode, UnknownGte, or OSError where there is
    none."""
    published, _ = PreTrainedConfig.get_config_dict(path)
    if is_published_gte(published):
        return native_gte(published)
    kind = published.get("model_type")
    if kind not in CONFIG_MAPPING and published.get("auto_map"):
        raise NeedsItsOwnCode(path, kind)
    return AutoConfig.from_pretrained(path, trust_remote_code=False)


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model. Raises OSError, ValueError where it has none that works."""
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        path, trust_remote_code=False
    )
    return tokenizer
