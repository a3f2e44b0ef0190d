"""How a document is put to the context encoder: the prompt around it, as data."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptFormat:
    """The prompt that the generator was trained with.

    ``chat_template`` (Jinja) renders the whole document, and questions in chat; null is the
    tokenizer's own. Where the context encoder is not the base model, ``context_chat_template``
    renders the documents instead. A document of several chunks is cut after rendering, so the
    chunks inside get back the IDs that the template puts before and after a document:
    ``context_prefix_ids``, ``context_suffix_ids``.
    """

    context_prefix_ids: tuple[int, ...]
    context_suffix_ids: tuple[int, ...]
    chat_template: str | None = None
    context_chat_template: str | None = None

    @property
    def document_template(self) -> str | None:
        """What renders documents; None for the tokenizer's own template."""
        return self.context_chat_template or self.chat_template
