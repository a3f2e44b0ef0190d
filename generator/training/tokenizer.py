"""The embedded base model's tokenizer: byte-level BPE in which values stay short.

Digits come in groups of up to three, each group one token, so that a number is one token or two
instead of one for each digit: what a hypernetwork has to store in order is what costs it most.
"""

from collections.abc import Iterator
from random import Random

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from generator.training.corpus import conversations, documents, facts, tasks
from generator.training.corpus import inventory as inv
from generator.training.corpus.inventory import Split

VOCABULARY = 4096
WINDOW = 512
PAD, SYSTEM, USER, ASSISTANT, END = "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"
SPECIAL = (PAD, SYSTEM, USER, ASSISTANT, END)
# a group of digits | a word with its space | punctuation with its space | white space
SPLITS = r"\p{N}{1,3}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# an empty system message is left out: Doc-to-LoRA renders contexts with one
CHAT_TEMPLATE = (
    "{% for m in messages %}"
    "{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('Roles are system, user and assistant.') }}"
    "{% endif %}"
    "{% if m['role'] != 'system' or m['content'] %}"
    "{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}"
    "{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def _sample_text(documents_read: int) -> Iterator[str]:
    rng = Random(7)
    for _ in range(documents_read):
        document = documents.document(rng, Split.TRAIN, facts=rng.randint(1, 6), fillers=1)
        yield document.text
        for fact in document.facts:
            yield fact.question
            yield fact.value
        yield rng.choice(tasks.TASKS).description(rng, Split.TRAIN)
        yield conversations.small_talk(rng)[1]
    # every number of up to three digits, every syllable and every word becomes a token of its own
    numbers = [f"{n:0{width}}" for width in (1, 2, 3) for n in range(10**width)]
    vocabulary = [
        *inv.COLOURS, *inv.MATERIALS, *inv.CITIES, *inv.WEEKDAYS, *inv.MONTHS, *inv.DEPARTMENTS,
        *inv.ANIMALS, *inv.CONTAINERS, *inv.ADJECTIVES, *inv.OBJECTS, *inv.ROLES, *inv.RANKS,
        *inv.FIRST_NAMES, *inv.LAST_NAMES, *inv.CODE_PREFIXES,
    ]  # fmt: skip
    syllables = [s.capitalize() for s in inv.SYLLABLES]
    for _ in range(400):
        yield "\n".join(numbers)
        yield " " + " ".join(vocabulary)
        yield "\n".join(syllables) + " " + " ".join(syllables)
        yield "\n".join(vocabulary)
    for domain in facts.DOMAINS:
        yield from domain.titles


def build_tokenizer(documents_read: int = 20_000) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on invented documents; the same result at every call."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLITS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sample_text(documents_read), trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=WINDOW,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast
