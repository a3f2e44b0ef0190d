"""The words that invented documents are made of, and the split between training and evaluation.

A value or name belongs to exactly one split, decided by a checksum of its text, so evaluation only
ever asks for names and values that training never drew. Single words are few and come as values of
several attributes: there the pair of attribute and word decides.
"""

import zlib
from collections.abc import Callable
from enum import StrEnum
from random import Random

HELD_OUT_SHARE = 8  # one text in eight is kept for evaluation


class Split(StrEnum):
    """Which side of the wall a sampled text is on."""

    TRAIN = "train"
    HELD_OUT = "held_out"


def split_of(text: str) -> Split:
    """The split a name or value belongs to."""
    held_out = zlib.crc32(text.lower().encode()) % HELD_OUT_SHARE == 0
    return Split.HELD_OUT if held_out else Split.TRAIN


def draw(make: Callable[[Random], str], rng: Random, split: Split, *, of: str = "") -> str:
    """A text from ``make`` that belongs to ``split``, together with what it is a value ``of``."""
    while split_of(of + (text := make(rng))) is not split:
        pass
    return text


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


SYLLABLES = words(
    "ba bel bo bran cal cor da den dor dra el fa fen fi gal gor ha hal il jo ka kel ki kor "
    "la len li lo lum ma mar mel mi mir mo na nel no nor os pa pel per qua ra ren ri ro sa sel "
    "shi so ta tal ter ti tor tra tu ul va vel ven vi vo vor wen xa yor za zel zi zo lux gan "
    "bri del fos gri hul jin kas lom nim pol rus sto tev ust wik"
)
FIRST_NAMES = words(
    "Anna Ben Clara David Emma Felix Grace Hugo Irene Jonas Karen Leo Maria Nora Oscar Paula "
    "Quinn Rosa Simon Tina Ursula Victor Wendy Xavier Yara Zoe Adam Bella Carl Diana Eric Fiona "
    "George Helen Ivan Julia Kevin Laura Martin Nina Oliver Petra Ralph Sara Tom Vera Walter "
    "Alice Bruno Cora Dennis Elena Frank Gloria Henry Ida Jack Kate Lucas Mona Nathan Olga "
    "Peter Rita Stefan Thea Uma Vincent Wanda Yusuf Amir Bianca Cesar Dora Edgar Farah"
)
LAST_NAMES = words(
    "Adams Baker Carter Dixon Ellis Fisher Graham Harris Irwin Jensen Keller Lambert Mason "
    "Norton Owens Parker Quill Reed Schmidt Turner Ulrich Vargas Walsh Young Zimmer Archer "
    "Barnes Cole Drake Evans Fox Gibson Hayes Ingram James Knight Lowe Moreno Nash Ortega "
    "Pierce Ramos Silva Tanner Underwood Vaughn Weber Abbott Bishop Chavez Dalton Emery Ford "
    "Gomez Holt Ives Joyce Kemp Lang Meyer Novak Olsen Price Rossi Stone Tate Voss West York"
)
CITIES = words(
    "London Paris Tokyo Berlin Madrid Rome Oslo Lima Cairo Delhi Seoul Vienna Prague Dublin "
    "Lisbon Athens Warsaw Quito Hanoi Nairobi Boston Denver Dallas Toronto Montreal Sydney Perth "
    "Zurich Geneva Munich Hamburg Milan Naples Turin Lyon Bordeaux Ghent Antwerp Porto Seville "
    "Krakow Riga Tallinn Vilnius Helsinki Bergen Malmo Aarhus Osaka Kyoto Manila Jakarta Bogota "
    "Santiago Accra Lagos Tunis Dakar Havana Panama"
)
COLOURS = words(
    "red blue green black white silver orange purple yellow grey brown pink teal violet beige "
    "golden crimson turquoise ivory navy maroon olive amber indigo"
)
MATERIALS = words(
    "steel aluminium wood glass carbon rubber copper leather ceramic plastic cotton wool granite "
    "marble bamboo titanium brass paper linen silk cork concrete nylon bronze"
)
WEEKDAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = words(
    "January February March April May June July August September October November December"
)
DEPARTMENTS = words(
    "Finance Logistics Legal Research Marketing Sales Security Procurement Training Quality "
    "Engineering Operations Payroll Design Support Planning Archives Facilities Compliance Audit"
)
ANIMALS = words(
    "falcon otter badger heron lynx raven bison dolphin beaver eagle fox gecko hare ibex jaguar "
    "koala lion moose newt owl panda quail rabbit seal tiger viper walrus yak zebra wolf"
)
CONTAINERS = words(
    "drawer cabinet locker freezer box shelf safe bucket tray folder crate jar flask bottle "
    "cooler basket trunk tank barrel envelope"
)
ADJECTIVES = words(
    "blue red green black white yellow large small heavy light sealed open signed printed frozen "
    "dry clean old new spare double single plain padded locked empty full metal wooden plastic "
    "round square main upper lower left right north south east west inner outer"
)
OBJECTS = words(
    "gloves goggles helmet mask apron boots key card form label badge map manual lamp cable "
    "battery filter valve pump ladder rope gate door stairs hall desk bench corridor ramp yard "
    "roof window counter shelf drawer cabinet box bottle tray folder"
)
ROLES = words(
    "manager director clerk engineer nurse auditor driver guard planner analyst trainer buyer "
    "technician officer coordinator assistant supervisor chemist editor inspector"
)
RANKS = words("senior deputy chief regional junior night site lead safety project")
CODE_PREFIXES = words(
    "KR HX TB QV MZ PL DN RS WF GJ BX CK VT NH LZ SQ FM JP XD YA ZE AK EO IR UT OB HC KG MD PN"
)


def syllable_name(rng: Random) -> str:
    """An invented proper name of two or three syllables."""
    return "".join(rng.choice(SYLLABLES) for _ in range(rng.choice((2, 2, 2, 3)))).capitalize()


def person(rng: Random) -> str:
    """First and last name; the last one common or invented."""
    last = rng.choice(LAST_NAMES) if rng.random() < 0.6 else syllable_name(rng)
    return f"{rng.choice(FIRST_NAMES)} {last}"
