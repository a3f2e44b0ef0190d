"""Values that a document states and a question asks for, by kind."""

from collections.abc import Callable
from enum import StrEnum
from random import Random

from generator.training.corpus import inventory as inv


class Kind(StrEnum):
    """The kinds that evaluation reports one by one."""

    WORD = "word"
    NUMBER = "number up to three digits"
    LONG = "longer number or date"
    NAME = "name"
    CODE = "code"
    PHRASE = "short phrase"
    YES_NO = "yes or no"


Maker = Callable[[Random], str]


def one_of(*inventories: tuple[str, ...]) -> Maker:
    """One word of the inventories."""
    choices = tuple(word for inventory in inventories for word in inventory)
    return lambda rng: rng.choice(choices)


def number(low: int, high: int, unit: str = "", before: str = "") -> Maker:
    """A whole number in [low, high] with an optional unit behind or sign before it."""
    return lambda rng: f"{before}{rng.randint(low, high)}{' ' + unit if unit else ''}"


def large_number(low: int, high: int, unit: str = "", before: str = "") -> Maker:
    """A number of four to six digits, with or without a thousands separator."""

    def make(rng: Random) -> str:
        value = rng.randint(low, high)
        digits = f"{value:,}" if rng.random() < 0.6 else str(value)
        return f"{before}{digits}{' ' + unit if unit else ''}"

    return make


def date(rng: Random) -> str:
    """A day and month, with or without the year."""
    day = f"{rng.randint(1, 28)} {rng.choice(inv.MONTHS)}"
    return f"{day} {rng.randint(2018, 2039)}" if rng.random() < 0.5 else day


def year(rng: Random) -> str:
    return str(rng.randint(1900, 2039))


def clock(rng: Random) -> str:
    """A time of the day."""
    return f"{rng.randint(6, 22)}:{rng.choice(('00', '15', '30', '45'))}"


def code(rng: Random) -> str:
    """Two letters and a number of up to three digits."""
    return f"{rng.choice(inv.CODE_PREFIXES)}-{rng.randint(10, 999)}"


def thing(rng: Random) -> str:
    """An adjective or two and an object."""
    adjectives = rng.sample(inv.ADJECTIVES, rng.choice((1, 1, 2)))
    return f"the {' '.join(adjectives)} {rng.choice(inv.OBJECTS)}"


def role(rng: Random) -> str:
    """Somebody's position, as in ``deputy auditor``."""
    return f"the {rng.choice(inv.RANKS)} {rng.choice(inv.ROLES)}"


def short_list(rng: Random) -> str:
    """Two or three objects."""
    items = rng.sample(inv.OBJECTS, rng.choice((2, 3)))
    return f"{', '.join(items[:-1])} and {items[-1]}"


def company(rng: Random) -> str:
    return f"{inv.syllable_name(rng)} {rng.choice(('Ltd', 'Group', 'Works', 'Labs', 'Foods'))}"
