"""Tasks described in words: ways of answering that a system message can ask for.

The tasks of a family are asked for in the same wordings. One task in five and about a third of the
phrasings of every task are never used in training.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from generator.training.corpus import inventory as inv
from generator.training.corpus import requests
from generator.training.corpus import transforms as tf
from generator.training.corpus.facts import Fact
from generator.training.corpus.inventory import Split
from generator.training.corpus.transforms import Transform
from generator.training.corpus.values import Kind


@dataclass(frozen=True, slots=True)
class Task:
    """A way of answering, asked for in any of ``requests``, the last of them held out of training.

    ``transform(value, kind)`` is the answer in the asked form, None when the task says nothing about
    such a value.
    """

    name: str
    family: str
    requests: tuple[str, ...]
    transform: Transform
    split: Split

    def requests_of(self, split: Split) -> tuple[str, ...]:
        if split is Split.HELD_OUT:
            return self.requests[-requests.HELD_OUT_REQUESTS :]
        return self.requests[: -requests.HELD_OUT_REQUESTS]

    def wordings(self, split: Split) -> tuple[str, ...]:
        """Every phrasing of the split: its requests in its frames."""
        return tuple(
            requests.framed(frame, request)
            for request in self.requests_of(split)
            for frame in requests.FRAMES[split]
        )

    def description(self, rng: Random, split: Split) -> str:
        """The task in a phrasing of the split."""
        request = rng.choice(self.requests_of(split))
        return requests.framed(rng.choice(requests.FRAMES[split]), request)

    def answer(self, fact: Fact) -> str | None:
        return self.transform(fact.value, fact.kind)


# by name: a new task must not move the others across the wall
HELD_OUT_TASKS = frozenset({
    "opening Gladly", "opening Noted", "opening Indeed", "closing Best regards", "closing Take care",
    "closing Goodbye", "json data", "json content", "wrap double stars", "wrap hash signs",
    "wrap vertical bars", "prefix a greater sign", "prefix the word Result and a colon",
    "sentence the words you will find", "sentence the words my reply is", "ending the word madam",
    "ending a semicolon", "refuse rules", "refuse animals", "first word", "underscores",
    "upper case and exclamation mark", "three times",
})  # fmt: skip

OPENINGS = ("Sure", "Well", "Of course", "Good question", "Gladly", "Listen", "Dear guest", "Hello",
            "As requested", "Noted", "My friend", "Certainly", "Right", "Indeed", "Dear customer",
            "Absolutely")  # fmt: skip
CLOSINGS = ("Thank you", "Good luck", "Have a nice day", "Over", "Best regards", "That is all",
            "Stay safe", "Cheers", "See you soon", "Take care", "Goodbye", "Yours truly",
            "All the best")  # fmt: skip
JSON_KEYS = ("answer", "value", "result", "reply", "data", "output", "fact", "info", "text", "content",
             "message", "entry")  # fmt: skip
WRAPPERS = {
    "double quotes": ('"', '"'), "square brackets": ("[", "]"), "round brackets": ("(", ")"),
    "stars": ("*", "*"), "double stars": ("**", "**"), "angle brackets": ("<", ">"),
    "curly brackets": ("{", "}"), "backticks": ("`", "`"), "slashes": ("/", "/"), "hash signs": ("#", "#"),
    "underscores": ("_", "_"), "vertical bars": ("|", "|"), "single quotes": ("'", "'"),
    "percent signs": ("%", "%"), "two pairs of double quotes": ('""', '""'),
}  # fmt: skip
PREFIXES = {
    "the letter A and a colon": "A:", "a dash": "-", "the number one and a dot": "1.",
    "an arrow": "=>", "a greater sign": ">", "the word Answer and a colon": "Answer:",
    "a plus sign": "+", "a star": "*", "the word Result and a colon": "Result:",
    "the word Note and a colon": "Note:",
}  # fmt: skip
SENTENCES = {
    "the words the answer is": "The answer is",
    "the words it is": "It is",
    "the words I believe it is": "I believe it is",
    "the words the document says": "The document says",
    "the words I think it is": "I think it is",
    "the words you will find": "You will find",
    "the words the text gives": "The text gives",
    "the words my reply is": "My reply is",
}
ENDINGS = {
    "an exclamation mark": "!", "a question mark": "?", "three dots": "...", "the word sir": ", sir",
    "the word madam": ", madam", "a full stop": ".", "a semicolon": ";", "the word friend": ", friend",
    "two exclamation marks": "!!",
}  # fmt: skip
TOPICS = {
    "numbers": tf.refuse_kind(Kind.NUMBER), "dates and long numbers": tf.refuse_kind(Kind.LONG),
    "people and companies": tf.refuse_kind(Kind.NAME), "codes": tf.refuse_kind(Kind.CODE),
    "rules": tf.refuse_kind(Kind.YES_NO), "colours": tf.refuse_words(inv.COLOURS),
    "cities": tf.refuse_words(inv.CITIES), "animals": tf.refuse_words(inv.ANIMALS),
    "materials": tf.refuse_words(inv.MATERIALS),
}  # fmt: skip
TRANSFORMS: dict[str, Transform] = {
    "upper case": tf.upper, "lower case": tf.lower, "no unit": tf.without_unit, "last word": tf.last_word,
    "first word": tf.first_word, "twice": tf.twice, "reversed list": tf.reversed_list, "digits": tf.digits,
    "hyphens": tf.instead_of_spaces("-"), "underscores": tf.instead_of_spaces("_"),
    "no spaces": tf.instead_of_spaces(""), "first letter": tf.first_letter, "initials": tf.initials,
    "last name first": tf.last_name_first, "no article": tf.without_article, "unit only": tf.unit,
    "lower case and full stop": tf.lower_stopped,
    "upper case and exclamation mark": tf.upper_exclaimed, "three times": tf.three_times,
}  # fmt: skip


def _task(name: str, family: str, asked: tuple[str, ...], transform: Transform) -> Task:
    split = Split.HELD_OUT if name in HELD_OUT_TASKS else Split.TRAIN
    return Task(name, family, asked, transform, split)


def _member(name: str, family: str, transform: Transform, **fields: str) -> Task:
    """A task in the wordings of its family."""
    asked = tuple(request.format(**fields) for request in requests.FAMILIES[family])
    return _task(name, family, asked, transform)


def _tasks() -> Iterator[Task]:
    for p in OPENINGS:
        yield _member(f"opening {p}", "opening", tf.fill(f"{p}: {{v}}"), p=p)
    for p in CLOSINGS:
        yield _member(f"closing {p}", "closing", tf.fill(f"{{v}}. {p}"), p=p)
    for k in JSON_KEYS:
        yield _member(f"json {k}", "json", tf.fill(f'{{"{k}": "{{v}}"}}'), k=k)
    for w, (a, b) in WRAPPERS.items():
        yield _member(f"wrap {w}", "wrapper", tf.fill(f"{a}{{v}}{b}"), w=w, a=a, b=b)
    for w, s in PREFIXES.items():
        yield _member(f"prefix {w}", "prefix", tf.fill(f"{s} {{v}}"), w=w, s=s)
    for w, s in SENTENCES.items():
        yield _member(f"sentence {w}", "sentence", tf.fill(f"{s} {{v}}."), w=w, s=s)
    for w, s in ENDINGS.items():
        yield _member(f"ending {w}", "ending", tf.fill(f"{{v}}{s}"), w=w, s=s)
    for t, transform in TOPICS.items():
        yield _member(f"refuse {t}", "refuse", transform, t=t)
    for t in tf.DAY_NAMES:
        yield _member(f"language {t}", "language", tf.translate(t), t=t)
    for name, transform in TRANSFORMS.items():
        yield _task(name, "transform", requests.TRANSFORMS[name], transform)


TASKS = tuple(_tasks())
