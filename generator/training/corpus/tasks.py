"""Tasks described in words: ways of answering that a system message can ask for.

A task belongs to a family that shares its wordings; the last ``HELD_OUT_WORDINGS`` of a family and
one task in five are never used in training.
"""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from generator.training.corpus import inventory as inv
from generator.training.corpus.facts import Fact
from generator.training.corpus.inventory import Split
from generator.training.corpus.values import Kind

HELD_OUT_WORDINGS = 6
HELD_OUT_TASKS = 5  # every fifth task of a family
REFUSAL = "I cannot talk about that."

Transform = Callable[[str, Kind], str | None]


@dataclass(frozen=True, slots=True)
class Task:
    """A way of answering.

    ``transform(value, kind)`` is the answer in the asked form, None when the task says nothing about
    such a value.
    """

    name: str
    wordings: tuple[str, ...]
    transform: Transform
    split: Split

    def description(self, rng: Random, split: Split) -> str:
        """The task in a wording of the split."""
        if split is Split.HELD_OUT:
            return rng.choice(self.wordings[-HELD_OUT_WORDINGS:])
        return rng.choice(self.wordings[:-HELD_OUT_WORDINGS])

    def answer(self, fact: Fact) -> str | None:
        return self.transform(fact.value, fact.kind)


def _parametric(what: str) -> tuple[str, ...]:
    """Wordings of one request: 14 for training and 6 held out."""
    frames = (
        "{w}.", "Always {w0}.", "Please {w0}.", "You must {w0}.", "From now on, {w0}.",
        "Your task: {w0}.", "In every answer, {w0}.", "{w}, always.", "I want you to {w0}.",
        "Make sure to {w0}.", "Your job is to {w0}.", "{w}, please.", "Never forget to {w0}.",
        "When you answer, {w0}.",
        # held out
        "Remember to {w0}.", "Whenever you answer, {w0}.", "Please always {w0}.",
        "You must always {w0}.", "For every question, {w0}.", "I want you to always {w0}.",
    )  # fmt: skip
    return tuple(frame.format(w=what[0].upper() + what[1:], w0=what) for frame in frames)


OPENINGS = ("Sure", "Well", "Of course", "Good question", "Gladly", "Listen", "Dear guest", "Hello",
            "As requested", "Noted", "My friend", "Certainly")  # fmt: skip
CLOSINGS = ("Thank you", "Good luck", "Have a nice day", "Over", "Best regards", "That is all",
            "Stay safe", "Cheers", "See you soon", "Take care")  # fmt: skip
JSON_KEYS = ("answer", "value", "result", "reply", "data", "output", "fact", "info")
WRAPPERS = {
    "double quotes": ('"', '"'), "square brackets": ("[", "]"), "round brackets": ("(", ")"),
    "stars": ("*", "*"), "double stars": ("**", "**"), "angle brackets": ("<", ">"),
    "curly brackets": ("{", "}"), "backticks": ("`", "`"), "slashes": ("/", "/"), "hash signs": ("#", "#"),
}  # fmt: skip
PREFIXES = {
    "the letter A and a colon": "A: ", "a dash": "- ", "the number one and a dot": "1. ",
    "an arrow": "=> ", "a greater sign": "> ", "the word Answer and a colon": "Answer: ",
}  # fmt: skip
SENTENCES = {
    "the words the answer is": "The answer is {v}.",
    "the words it is": "It is {v}.",
    "the words I believe it is": "I believe it is {v}.",
    "the words the document says": "The document says {v}.",
}
ENDINGS = {
    "an exclamation mark": "{v}!", "a question mark": "{v}?", "three dots": "{v}...",
    "the word sir": "{v}, sir", "the word madam": "{v}, madam",
}  # fmt: skip
TOPICS = {
    "numbers": Kind.NUMBER, "dates and long numbers": Kind.LONG, "people and companies": Kind.NAME,
    "codes": Kind.CODE, "rules": Kind.YES_NO,
}  # fmt: skip
COLOUR_NAMES = {
    "Spanish": dict(red="rojo", blue="azul", green="verde", black="negro", white="blanco", yellow="amarillo",
                    grey="gris", brown="marrón", pink="rosa", orange="naranja"),
    "German": dict(red="rot", blue="blau", green="grün", black="schwarz", white="weiß", yellow="gelb",
                   grey="grau", brown="braun", pink="rosa", orange="orange"),
    "French": dict(red="rouge", blue="bleu", green="vert", black="noir", white="blanc", yellow="jaune",
                   grey="gris", brown="brun", pink="rose", orange="orange"),
    "Italian": dict(red="rosso", blue="blu", green="verde", black="nero", white="bianco", yellow="giallo",
                    grey="grigio", brown="marrone", pink="rosa", orange="arancione"),
}  # fmt: skip
DAY_NAMES = {
    "Spanish": "lunes martes miércoles jueves viernes sábado domingo",
    "German": "Montag Dienstag Mittwoch Donnerstag Freitag Samstag Sonntag",
    "French": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "Italian": "lunedì martedì mercoledì giovedì venerdì sabato domenica",
}


def _format(template: str) -> Transform:
    return lambda value, kind: template.replace("{v}", value)


def _upper(value: str, kind: Kind) -> str | None:
    return value.upper() if kind in (Kind.WORD, Kind.YES_NO) else None


def _lower(value: str, kind: Kind) -> str | None:
    return value.lower() if kind in (Kind.WORD, Kind.YES_NO) else None


def _without_unit(value: str, kind: Kind) -> str | None:
    return value.split()[0] if kind is Kind.NUMBER else None


def _last_word(value: str, kind: Kind) -> str | None:
    return value.split()[-1] if kind in (Kind.NAME, Kind.PHRASE) else None


def _first_word(value: str, kind: Kind) -> str | None:
    return value.split()[0] if kind in (Kind.NAME, Kind.NUMBER) else None


def _twice(value: str, kind: Kind) -> str | None:
    return f"{value}, {value}" if kind in (Kind.WORD, Kind.YES_NO, Kind.NUMBER) else None


def _reversed_list(value: str, kind: Kind) -> str | None:
    if " and " not in value or kind is not Kind.PHRASE:
        return None
    items = value.replace(" and ", ", ").split(", ")[::-1]
    return f"{', '.join(items[:-1])} and {items[-1]}"


def _digits(value: str, kind: Kind) -> str | None:
    names = inv.words("zero one two three four five six seven eight nine")
    first = value.split()[0]
    if kind is not Kind.NUMBER or not first.isdigit():
        return None
    return " ".join(names[int(digit)] for digit in first)


def _refuse(kind_refused: Kind) -> Transform:
    return lambda value, kind: REFUSAL if kind is kind_refused else value


def _translate(language: str) -> Transform:
    days = dict(zip(inv.WEEKDAYS, DAY_NAMES[language].split(), strict=True))
    names = {**COLOUR_NAMES[language], **days}
    return lambda value, kind: names.get(value)


def _families() -> dict[str, list[tuple[str, str, Transform]]]:
    """Family -> (task name, the request in words, transform)."""
    return {
        "opening": [
            (f"opening {p}", f"begin every answer with {p} and a colon", _format(f"{p}: {{v}}"))
            for p in OPENINGS
        ],
        "closing": [
            (f"closing {p}", f"end every answer with {p}", _format(f"{{v}}. {p}")) for p in CLOSINGS
        ],
        "json": [
            (f"json {k}", f"answer in JSON with the key {k}", _format(f'{{"{k}": "{{v}}"}}'))
            for k in JSON_KEYS
        ],
        "wrapper": [
            (f"wrap {w}", f"put the answer between {w}", _format(f"{a}{{v}}{b}"))
            for w, (a, b) in WRAPPERS.items()
        ],
        "prefix": [
            (f"prefix {w}", f"write {w} before the answer", _format(f"{p}{{v}}"))
            for w, p in PREFIXES.items()
        ],
        "sentence": [
            (f"sentence {w}", f"answer in a full sentence with {w}", _format(template))
            for w, template in SENTENCES.items()
        ],
        "ending": [
            (f"ending {w}", f"close the answer with {w}", _format(template))
            for w, template in ENDINGS.items()
        ],
        "refuse": [
            (f"refuse {t}", f"refuse to talk about {t}", _refuse(kind))
            for t, kind in TOPICS.items()
        ],
        "language": [
            (f"language {t}", f"say colours and days in {t}", _translate(t)) for t in DAY_NAMES
        ],
        "transform": [
            ("upper case", "answer in upper case letters", _upper),
            ("lower case", "answer in lower case letters", _lower),
            ("no unit", "give the number without its unit", _without_unit),
            ("last word", "give only the last word of the answer", _last_word),
            ("first word", "give only the first word of the answer", _first_word),
            ("twice", "say the answer twice", _twice),
            ("reversed list", "give lists in reversed order", _reversed_list),
            ("digits", "spell the digits of numbers as words", _digits),
        ],
    }


def _tasks() -> tuple[Task, ...]:
    tasks = []
    for members in _families().values():
        for index, (name, request, transform) in enumerate(members):
            split = Split.HELD_OUT if index % HELD_OUT_TASKS == HELD_OUT_TASKS - 1 else Split.TRAIN
            tasks.append(Task(name, _parametric(request), transform, split))
    return tuple(tasks)


TASKS = _tasks()
