import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generator.chunks import Chunk, Chunker, DocumentTooLong, EmptyDocument, cut_ids, even_cuts
from generator.importing.families import family_of
from generator.prompt import PromptFormat
from tests.generator import models
from tests.generator.models import ASSISTANT, END, PROMPT, SYSTEM, USER


def chunker(*, max_chunk_tokens: int = 24, max_chunks: int = 5) -> Chunker:
    return Chunker(
        models.tokenizer(), PROMPT, max_chunk_tokens=max_chunk_tokens, max_chunks=max_chunks
    )


def even_chunks(ids: Sequence[int], limit: int, prompt: PromptFormat) -> tuple[Chunk, ...]:
    return cut_ids(ids, even_cuts(len(ids), limit), prompt)


@given(st.integers(1, 500), st.integers(1, 60))
def test_every_token_is_in_exactly_one_chunk_and_in_order(tokens: int, limit: int) -> None:
    ids = range(1000, 1000 + tokens)
    chunks = even_chunks(ids, limit, PROMPT)
    assert [token for chunk in chunks for token in chunk if token >= 1000] == list(ids)


@given(st.integers(1, 500), st.integers(1, 60))
def test_chunks_are_of_nearly_equal_length_within_the_limit(tokens: int, limit: int) -> None:
    chunks = even_chunks(range(1000, 1000 + tokens), limit, PROMPT)
    lengths = [sum(token >= 1000 for token in chunk) for chunk in chunks]
    assert max(lengths) <= limit
    assert len(set(lengths[:-1])) <= 1
    assert lengths[-1] <= lengths[0]


@given(st.integers(1, 500), st.integers(1, 60))
def test_every_cut_puts_the_prompt_back_around_the_chunk(tokens: int, limit: int) -> None:
    chunks = even_chunks(range(1000, 1000 + tokens), limit, PROMPT)
    for index, chunk in enumerate(chunks):
        opened = chunk[: len(PROMPT.context_prefix_ids)] == PROMPT.context_prefix_ids
        closed = chunk[-len(PROMPT.context_suffix_ids) :] == PROMPT.context_suffix_ids
        assert (opened, closed) == (index > 0, index < len(chunks) - 1)


def test_a_document_is_put_to_the_encoder_as_a_user_turn_after_an_empty_system_turn() -> None:
    (chunk,) = chunker().split("  abc\n")
    text = models.tokenizer()("abc").input_ids
    assert chunk == (SYSTEM, END, USER, *text, END, ASSISTANT)


def test_the_generators_own_template_comes_before_the_tokenizers() -> None:
    prompt = PromptFormat(
        context_prefix_ids=(),
        context_suffix_ids=(),
        chat_template="<user>{{ messages[-1].content }}",
    )
    own = Chunker(models.tokenizer(), prompt, max_chunk_tokens=24, max_chunks=5)
    assert own.split("abc") == ((USER, *models.tokenizer()("abc").input_ids),)


@pytest.mark.parametrize("text", ["", " ", "\n\t \r\n"])
def test_a_document_without_text_is_refused(text: str) -> None:
    with pytest.raises(EmptyDocument, match="empty or holds only white space"):
        chunker().split(text)


def test_the_longest_document_fits_and_one_token_more_is_refused_with_both_sizes() -> None:
    around = 5  # tokens of the prompt
    longest = "x" * (chunker().max_tokens - around)
    assert len(chunker().split(longest)) == 5
    with pytest.raises(DocumentTooLong, match=r"has 121 tokens \(6 .* limit is 120 .*\(5 chunks"):
        chunker().split(longest + "x")


def test_the_refusal_carries_its_numbers() -> None:
    with pytest.raises(DocumentTooLong) as caught:
        chunker(max_chunks=1).split("x" * 95)
    error = caught.value
    assert (error.tokens, error.max_tokens, error.chunks, error.max_chunks) == (100, 24, 5, 1)


def test_a_native_folder_says_how_to_chunk(generator_folder: Path) -> None:
    assert Chunker.from_folder(generator_folder).split("x" * 60) == chunker().split("x" * 60)
    longer = Chunker.from_folder(generator_folder, max_chunk_tokens=100)
    assert len(longer.split("x" * 60)) == 1


def test_it_cuts_as_the_published_code_does(reference_dir: Path) -> None:
    published = json.loads((reference_dir / "d2l_chunking.json").read_text())
    cases = [case for case in published["split"] if case["max_ctx_chunk_len"] > 0]
    for case in cases:
        family = family_of(case["model"])
        assert family is not None
        ids = range(10000, 10000 + case["n_tokens"])
        chunks = even_chunks(ids, case["max_ctx_chunk_len"], family.prompt)
        assert [len(chunk) for chunk in chunks] == case["chunk_lens"]
        if "chunks" in case:  # left out of the longer cases
            assert [list(chunk) for chunk in chunks] == case["chunks"]
    assert len(cases) > 30


def passages(text: str, *, max_chunk_tokens: int = 24, max_chunks: int = 5) -> list[str]:
    """The texts of a document's chunks, cut where passages end; one token is one byte here."""
    prompt = PromptFormat(
        context_prefix_ids=(), context_suffix_ids=(), chat_template="{{ messages[-1].content }}"
    )
    cutter = Chunker(
        models.tokenizer(),
        prompt,
        max_chunk_tokens=max_chunk_tokens,
        max_chunks=max_chunks,
        chunking="passages",
    )
    decode = models.tokenizer().decode
    return [decode(chunk, clean_up_tokenization_spaces=False) for chunk in cutter.split(text)]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("short.", ["short."]),
        # a paragraph's end comes before a later line's and sentence's
        ("One two.\n\nSix.\nTen. Eleven twelve.", ["One two.\n\n", "Six.\nTen. Eleven twelve."]),
        ("One two.\nSix. Ten. Eleven twelve.", ["One two.\n", "Six. Ten. Eleven twelve."]),
        ("One two? Six. Ten! Eleven twelve.", ["One two? Six. Ten! ", "Eleven twelve."]),
        # nothing ends there: at the limit
        ("x" * 30, ["x" * 24, "x" * 6]),
        # 1.5 is no sentence's end, and one right at the start would leave the chunk empty
        ("A. 1.5 and 1.6 and 1.7 and 1.8", ["A. 1.5 and 1.6 and 1.7 a", "nd 1.8"]),
    ],
)
def test_documents_are_cut_where_passages_end(text: str, chunks: list[str]) -> None:
    assert passages(text) == chunks


def test_cuts_that_would_take_too_many_chunks_fill_them_better_or_ignore_passages() -> None:
    # paragraphs of 13 and 24 tokens by turns: at every paragraph's end it takes six chunks
    text = ("p" * 11 + "\n\n" + "q" * 11 + ". " + "r" * 9 + "\n\n") * 3
    assert len(passages(text, max_chunks=6)) == 6
    assert len(passages(text, max_chunks=5)) == 5
    assert passages("ab. " * 30, max_chunks=5) == [*["ab. " * 6] * 4, ("ab. " * 6).strip()]


@given(st.text(alphabet="ab. \n", min_size=1, max_size=120).filter(str.strip))
def test_passages_lose_nothing_and_keep_the_limits(text: str) -> None:
    chunks = passages(text)
    assert "".join(chunks) == text.strip()
    assert len(chunks) <= 5
    assert max(map(len, chunks)) <= 24
