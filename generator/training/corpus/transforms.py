"""What a task makes of an answer."""

from collections.abc import Callable

from generator.training.corpus import inventory as inv
from generator.training.corpus.values import Kind

REFUSAL = "I cannot talk about that."

# (value, kind) -> the answer in the asked form, None when the task says nothing about such a value
Transform = Callable[[str, Kind], str | None]

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
DIGIT_NAMES = inv.words("zero one two three four five six seven eight nine")


def fill(template: str) -> Transform:
    """The answer in place of ``{v}``."""
    return lambda value, kind: template.replace("{v}", value)


def refuse_kind(refused: Kind) -> Transform:
    return lambda value, kind: REFUSAL if kind is refused else value


def refuse_words(refused: tuple[str, ...]) -> Transform:
    return lambda value, kind: REFUSAL if value in refused else value


def translate(language: str) -> Transform:
    """Colours and days in the language; nothing else has a translation."""
    days = dict(zip(inv.WEEKDAYS, DAY_NAMES[language].split(), strict=True))
    names = {**COLOUR_NAMES[language], **days}
    return lambda value, kind: names.get(value)


def instead_of_spaces(sign: str) -> Transform:
    def transform(value: str, kind: Kind) -> str | None:
        if kind not in (Kind.NAME, Kind.NUMBER, Kind.PHRASE) or " " not in value or "," in value:
            return None
        return value.replace(" ", sign)

    return transform


def upper(value: str, kind: Kind) -> str | None:
    return value.upper() if kind in (Kind.WORD, Kind.YES_NO) else None


def lower(value: str, kind: Kind) -> str | None:
    return value.lower() if kind in (Kind.WORD, Kind.YES_NO) else None


def upper_exclaimed(value: str, kind: Kind) -> str | None:
    return f"{value.upper()}!" if kind in (Kind.WORD, Kind.YES_NO) else None


def lower_stopped(value: str, kind: Kind) -> str | None:
    return f"{value.lower()}." if kind in (Kind.WORD, Kind.YES_NO) else None


def without_unit(value: str, kind: Kind) -> str | None:
    return value.split()[0] if kind is Kind.NUMBER else None


def unit(value: str, kind: Kind) -> str | None:
    return value.split()[1] if kind is Kind.NUMBER and " " in value else None


def last_word(value: str, kind: Kind) -> str | None:
    return value.split()[-1] if kind in (Kind.NAME, Kind.PHRASE) else None


def first_word(value: str, kind: Kind) -> str | None:
    return value.split()[0] if kind in (Kind.NAME, Kind.NUMBER) else None


def first_letter(value: str, kind: Kind) -> str | None:
    return value[0] if kind in (Kind.WORD, Kind.NAME) else None


def twice(value: str, kind: Kind) -> str | None:
    return ", ".join([value] * 2) if kind in (Kind.WORD, Kind.YES_NO, Kind.NUMBER) else None


def three_times(value: str, kind: Kind) -> str | None:
    return ", ".join([value] * 3) if kind in (Kind.WORD, Kind.YES_NO, Kind.NUMBER) else None


def reversed_list(value: str, kind: Kind) -> str | None:
    if " and " not in value or kind is not Kind.PHRASE:
        return None
    items = value.replace(" and ", ", ").split(", ")[::-1]
    return f"{', '.join(items[:-1])} and {items[-1]}"


def digits(value: str, kind: Kind) -> str | None:
    first = value.split()[0]
    if kind is not Kind.NUMBER or not first.isdigit():
        return None
    return " ".join(DIGIT_NAMES[int(digit)] for digit in first)


def initials(value: str, kind: Kind) -> str | None:
    return " ".join(f"{word[0]}." for word in value.split()) if kind is Kind.NAME else None


def last_name_first(value: str, kind: Kind) -> str | None:
    if kind is not Kind.NAME:
        return None
    first, last = value.split()
    return f"{last}, {first}"


def without_article(value: str, kind: Kind) -> str | None:
    if kind is not Kind.PHRASE or not value.startswith("the "):
        return None
    return value.removeprefix("the ")
