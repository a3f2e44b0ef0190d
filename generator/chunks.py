"""Documents to chunks of token IDs: evenly, as published, or at the ends of passages."""

import re
from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from generator.config import Chunking, InvalidGenerator, read_doc_config
from generator.hub import load_tokenizer
from generator.prompt import PromptFormat

Chunk = tuple[int, ...]
# where a passage ends, the best first: a paragraph, a line, a sentence
PASSAGE_ENDS = tuple(re.compile(p) for p in (r"\n\s*\n\s*", r"\n\s*", r"[.!?]\s+"))
# how much of a chunk a cut at a passage's end must fill at the least: fuller ones need fewer chunks
FILLINGS = (0.3, 0.5, 0.7, 0.85)


class EmptyDocument(ValueError):
    """A document without any text."""

    def __init__(self) -> None:
        super().__init__("the document is empty or holds only white space")


class DocumentTooLong(ValueError):
    """A document of more tokens than the generator's chunks can hold."""

    def __init__(self, *, tokens: int, max_tokens: int, chunks: int, max_chunks: int) -> None:
        super().__init__(
            f"the document has {tokens} tokens ({chunks} chunks), "
            f"the limit is {max_tokens} tokens ({max_chunks} chunks)"
        )
        self.tokens = tokens
        self.max_tokens = max_tokens
        self.chunks = chunks
        self.max_chunks = max_chunks


class Chunker:
    """Cuts the text of a document into the chunks that one generator reads.

    Needs the tokenizer only, no model. Tokenising a long document takes a while and may run in a
    thread. Token counts include the prompt around the document.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: PromptFormat,
        *,
        max_chunk_tokens: int,
        max_chunks: int,
        chunking: Chunking = "even",
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self.max_chunk_tokens = max_chunk_tokens
        self.max_chunks = max_chunks
        self._chunking = chunking

    @classmethod
    def from_folder(cls, folder: Path, max_chunk_tokens: int | None = None) -> "Chunker":
        """The chunker of a native generator folder, with its context encoder's tokenizer.

        ``max_chunk_tokens`` may shorten or lengthen the chunks. Raises InvalidGenerator.
        """
        config = read_doc_config(folder)
        path = config.encoder_path
        try:
            chunker = cls(
                load_tokenizer(path),
                config.prompt,
                max_chunk_tokens=max_chunk_tokens or config.max_chunk_tokens,
                max_chunks=config.max_chunks,
                chunking=config.chunking,
            )
            tokens = chunker._encoded(chunker._rendered("text"))["input_ids"]
        except Exception as error:  # broken files raise whatever they happen to break
            reason = str(error).strip().partition("\n")[0]
            raise InvalidGenerator(
                f"the tokenizer of the context encoder {path} does not work: "
                f"{type(error).__name__}: {reason}"
            ) from error
        if not tokens:  # without its files, some kinds of tokenizer are made empty
            raise InvalidGenerator(f"the context encoder {path} has no tokenizer")
        return chunker

    @property
    def max_tokens(self) -> int:
        """Longest document, in tokens."""
        return self.max_chunk_tokens * self.max_chunks

    def split(self, text: str) -> tuple[Chunk, ...]:
        """Token IDs of each chunk, the prompt's affixes included.

        Raises EmptyDocument, DocumentTooLong.
        """
        text = text.strip()
        if not text:
            raise EmptyDocument
        rendered = self._rendered(text)
        encoded = self._encoded(rendered)
        ids: list[int] = encoded["input_ids"]
        if len(ids) > self.max_tokens:
            raise DocumentTooLong(
                tokens=len(ids),
                max_tokens=self.max_tokens,
                chunks=-(-len(ids) // self.max_chunk_tokens),
                max_chunks=self.max_chunks,
            )
        cuts = even_cuts(len(ids), self.max_chunk_tokens)
        if self._chunking == "passages":
            starts = [start for start, _ in encoded["offset_mapping"]]
            found = passage_cuts(rendered, starts, self.max_chunk_tokens, self.max_chunks)
            cuts = cuts if found is None else found
        return cut_ids(ids, cuts, self._prompt)

    def _rendered(self, text: str) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            [{"role": "system", "content": ""}, {"role": "user", "content": text}],
            chat_template=self._prompt.document_template,
            add_generation_prompt=True,
            tokenize=False,
        )
        return rendered

    def _encoded(self, rendered: str) -> Any:
        # verbose off: a document longer than the model's window is what chunks are for
        return self._tokenizer(
            rendered,
            add_special_tokens=False,
            return_offsets_mapping=self._chunking == "passages",
            verbose=False,
        )


def even_cuts(tokens: int, max_chunk_tokens: int) -> list[int]:
    """Where chunks after the first begin: nearly equal chunks of at most ``max_chunk_tokens``, as
    few as possible. As published."""
    count = -(-tokens // max_chunk_tokens)
    return list(range(-(-tokens // count), tokens, -(-tokens // count)))


def passage_cuts(
    text: str, starts: Sequence[int], max_chunk_tokens: int, max_chunks: int
) -> list[int] | None:
    """Where chunks after the first begin: at the ends of paragraphs, lines or sentences.

    ``starts`` holds each token's first character in ``text``. A statement that is cut in two is
    lost to both chunks, and one that is torn from the name it is about nearly so. None when that
    takes more than ``max_chunks``.
    """
    ends = [_tokens_after(pattern, text, starts) for pattern in PASSAGE_ENDS]
    for filling in FILLINGS:
        cuts = _greedy_cuts(ends, len(starts), max_chunk_tokens, filling)
        if len(cuts) < max_chunks:
            return cuts
    return None


def _tokens_after(pattern: re.Pattern[str], text: str, starts: Sequence[int]) -> list[int]:
    """Indices of the last token that starts in the white space of each match, or right behind it.
    (Of many tokenizers a word's token begins with the space before it.)"""
    last = ((match, bisect_right(starts, match.end()) - 1) for match in pattern.finditer(text))
    return sorted({index for match, index in last if starts[index] > match.start()})


def _greedy_cuts(
    ends: Sequence[Sequence[int]], tokens: int, max_chunk_tokens: int, filling: float
) -> list[int]:
    cuts: list[int] = []
    start = 0
    while tokens - start > max_chunk_tokens:
        last = start + max_chunk_tokens
        first = start + max(1, round(filling * max_chunk_tokens))
        start = next((cut for of in ends if (cut := _last_within(of, first, last))), last)
        cuts.append(start)
    return cuts


def _last_within(ordered: Sequence[int], first: int, last: int) -> int | None:
    index = bisect_right(ordered, last) - 1
    return ordered[index] if index >= 0 and ordered[index] >= first else None


def cut_ids(ids: Sequence[int], cuts: Sequence[int], prompt: PromptFormat) -> tuple[Chunk, ...]:
    """The chunks of a rendered document that begin at its start and at each of ``cuts``.

    Chunks do not overlap. Where the cut takes a chunk's prompt away, the affix is put back, so a
    chunk may be longer than its piece by the affixes.
    """
    pieces = [tuple(ids[start:stop]) for start, stop in pairwise((0, *cuts, len(ids)))]
    last = len(pieces) - 1
    return tuple(
        (prompt.context_prefix_ids if index > 0 else ())
        + piece
        + (prompt.context_suffix_ids if index < last else ())
        for index, piece in enumerate(pieces)
    )
