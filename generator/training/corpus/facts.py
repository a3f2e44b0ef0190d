"""What documents say about their subjects: attributes with many phrasings of statement and question.

Generic frames cross every attribute's nouns; each attribute adds wordings of its own. The last
``HELD_OUT_FRAMES`` of the frames and the last wording of every attribute are never used in training.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from generator.training.corpus import inventory as inv
from generator.training.corpus import values as val
from generator.training.corpus.inventory import Split
from generator.training.corpus.values import Kind, Maker

HELD_OUT_FRAMES = 3
STRANGE_WORDS = 0.3  # share of single words in training that come from any inventory
# shares of wordings in training that get a few words around them
OPENED_STATEMENTS = 0.25
WRAPPED_QUESTIONS = 0.15


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be said of a subject.

    ``nouns`` fit the generic frames; ``statements`` and ``questions`` are wordings of its own, the
    last of each held out of training. ``{e}`` is the subject, ``{v}`` the value.
    """

    kind: Kind
    make: Maker
    nouns: tuple[str, ...]
    statements: tuple[str, ...]
    questions: tuple[str, ...]


STATEMENT_FRAMES = (
    "The {n} of {e} is {v}.",
    "{e} has a {n} of {v}.",
    "For {e}, the {n} is {v}.",
    "{v} is the {n} of {e}.",
    "The {n} for {e} is set to {v}.",
    "{e} is listed with {v} as its {n}.",
    "As for the {n} of {e}, it is {v}.",
    "Please note that the {n} of {e} is {v}.",
    "The current {n} of {e} is {v}.",
    "Regarding {e}: the {n} is {v}.",
    "{e} has {v} as its {n}.",
    "{v}: that is the {n} of {e}.",
    "We agreed on {v} as the {n} of {e}.",
    "The {n} given for {e} is {v}.",
    "It was decided that {v} is the {n} of {e}.",
    "In the case of {e}, expect a {n} of {v}.",
    "{v} was chosen as the {n} for {e}.",
    "The {n} of {e} will be {v}.",
    "According to the latest list, {e} has a {n} of {v}.",
    "About {e}: {n} {v}.",
    # held out
    "With {e}, the {n} is {v}.",
    "Note: {v} is the current {n} for {e}.",
    "{e} is set to a {n} of {v}.",
)
STATEMENT_OPENINGS = (
    "Note that", "Remember that", "It is known that", "We confirm that", "As agreed,", "This year,",
    "Everybody knows that", "At the moment,", "By the way,", "Since last year,", "It is true that",
)  # fmt: skip
INDIRECT_QUESTIONS = tuple(
    f"{opening} {core}{end}"
    for opening, end in (
        ("Tell me", "."), ("I want to know", "."), ("I wonder", "."), ("Let me know", "."),
        ("Do you know", "?"), ("Could you say", "?"), ("I have to find out", "."),
        ("We need to know", "."), ("Check", "."), ("Somebody asked", "."),
    )
    for core in (
        "which {n} {e} has", "what {n} is given for {e}", "what was decided about the {n} of {e}",
        "what they say about the {n} of {e}",
    )
)  # fmt: skip
QUESTION_FRAMES = (
    *INDIRECT_QUESTIONS,
    "What is the {n} of {e}?",
    "What is the {n} for {e}?",
    "Tell me the {n} of {e}.",
    "Which {n} does {e} have?",
    "Can you tell me the {n} of {e}?",
    "Give me the {n} of {e}, please.",
    "I need the {n} for {e}.",
    "{e}: what is the {n}?",
    "What {n} is listed for {e}?",
    "Do you know the {n} of {e}?",
    "What does it say about the {n} of {e}?",
    "Please state the {n} of {e}.",
    "Name the {n} of {e}.",
    "what's the {n} of {e}",
    "{n} of {e}?",
    "{e}, {n}?",
    "Could you look up the {n} of {e}?",
    "I would like to know the {n} of {e}.",
    "What was the {n} of {e} again?",
    "Remind me of the {n} of {e}.",
    "Let me know the {n} for {e}.",
    "Which {n} is given for {e}?",
    "About {e}: what {n}?",
    "Is there a {n} for {e}, and what is it?",
    "The {n} of {e} is what?",
    "Find the {n} of {e} for me.",
    "What is {e}'s {n}?",
    "As for {e}, which {n} does it have?",
    "Do we know which {n} {e} has?",
    "May I ask for the {n} of {e}?",
    # held out
    "Please tell me what the {n} of {e} is.",
    "For {e}, what is the {n}?",
    "Can you give me the {n} for {e}?",
)
QUESTION_WRAPPINGS = (
    "{q} Thanks.",
    "Hi! {q}",
    "One question: {q}",
    "{q} I forgot.",
    "Quick one: {q}",
    "{q} A colleague asked me.",
    "Now tell me this: {q}",
    "{q} Be brief.",
)


def _a(kind: Kind, make: Maker, nouns: str, statements: str, questions: str) -> Attribute:
    def parts(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|"))

    return Attribute(kind, make, parts(nouns), parts(statements), parts(questions))


W, N, L, P, C, S, Y = (
    Kind.WORD,
    Kind.NUMBER,
    Kind.LONG,
    Kind.NAME,
    Kind.CODE,
    Kind.PHRASE,
    Kind.YES_NO,
)

COLOUR = _a(
    W,
    val.one_of(inv.COLOURS),
    "colour|paint colour",
    "{e} is painted {v}.|{e} comes only in {v}.|You can tell {e} by its {v} paint.|{e} comes in {v}.",
    "What colour is {e}?|Which colour does {e} come in?|In what colour is {e} painted?|{e} is painted in which colour?",
)
MATERIAL = _a(
    W,
    val.one_of(inv.MATERIALS),
    "material|main material",
    "{e} is made of {v}.|The body of {e} is {v}.|{v} is used to make {e}.|{e} is mostly made of {v}.",
    "What is {e} made of?|Which material is used for {e}?|From which material is {e} made?|{e} is made of which material?",
)
CITY = _a(
    W,
    val.one_of(inv.CITIES),
    "city|home city|location",
    "{e} is based in {v}.|You will find {e} in {v}.|{e} is located in {v}.|{e} is found in {v}.",
    "Where is {e} based?|In which city is {e}?|Where is {e} located?|In what city can I find {e}?",
)
WEEKDAY = _a(
    W,
    val.one_of(inv.WEEKDAYS),
    "day off|closing day",
    "{e} is closed on {v}.|Nothing happens at {e} on {v}.|On {v}, {e} stays closed.|Every {v}, {e} is closed.",
    "On which day is {e} closed?|When is {e} closed?|Which day is {e} not open?|Which day does {e} stay closed?",
)
DEPARTMENT = _a(
    W,
    val.one_of(inv.DEPARTMENTS),
    "department|responsible department",
    "{e} belongs to {v}.|{v} takes care of {e}.|{e} is run by {v}.|{v} is the one who runs {e}.",
    "Which department runs {e}?|Who takes care of {e}?|To which department does {e} belong?|{e} belongs to which department?",
)
MASCOT = _a(
    W,
    val.one_of(inv.ANIMALS),
    "mascot|animal on the logo",
    "The logo of {e} shows a {v}.|A {v} is the mascot of {e}.|{e} uses a {v} as its mascot.|The mascot that {e} uses is a {v}.",
    "Which animal is on the logo of {e}?|Which animal is the mascot of {e}?|What does the logo of {e} show?|Which animal does the logo of {e} show?",
)
CONTAINER = _a(
    W,
    val.one_of(inv.CONTAINERS),
    "container|storage place",
    "{e} is kept in the {v}.|Put {e} back into the {v}.|Store {e} in the {v}.|The {v} is where {e} is kept.",
    "Where is {e} kept?|Where do I store {e}?|In what is {e} stored?|Where do I put {e}?",
)
ANY_WORD = val.one_of(
    inv.COLOURS,
    inv.MATERIALS,
    inv.CITIES,
    inv.WEEKDAYS,
    inv.MONTHS,
    inv.DEPARTMENTS,
    inv.ANIMALS,
    inv.CONTAINERS,
    inv.ADJECTIVES,
    inv.OBJECTS,
    inv.ROLES,
)
PASSWORD = _a(
    W,
    ANY_WORD,
    "password|secret word",
    "Say {v} to enter {e}.|The word {v} opens {e}.|{e} opens with the word {v}.|To open {e}, say {v}.",
    "Which word opens {e}?|What do I say to enter {e}?|What is the word for {e}?|Which word do I say to open {e}?",
)
NICKNAME = _a(
    W,
    ANY_WORD,
    "short name|other name",
    "People call {e} {v}.|{e} is also called {v}.|Most people know {e} as {v}.|{v} is what people call {e}.",
    "What do people call {e}?|What is {e} also called?|As what do people know {e}?|What do most people call {e}?",
)
WEIGHT = _a(
    N,
    val.number(2, 990, "kg"),
    "weight|total weight",
    "{e} weighs {v}.|At {v}, {e} is easy to move.|On the scale, {e} comes to {v}.|On the scale, {e} weighs {v}.",
    "How much does {e} weigh?|How heavy is {e}?|What does {e} weigh?|{e} weighs how much?",
)
WARRANTY = _a(
    N,
    val.number(2, 99, "months"),
    "warranty|warranty period",
    "{e} comes with a warranty of {v}.|{e} is covered for {v}.|Defects of {e} are repaired free for {v}.|The warranty covers {e} for {v}.",
    "How long is the warranty of {e}?|For how long is {e} covered?|How many months of warranty does {e} have?|How many months is {e} covered?",
)
BATTERY = _a(
    N,
    val.number(2, 96, "hours"),
    "battery life|running time",
    "The battery of {e} lasts {v}.|{e} runs for {v} on one charge.|One charge keeps {e} running for {v}.|On one charge, the battery of {e} lasts {v}.",
    "How long does the battery of {e} last?|How long does {e} run on one charge?|How many hours does {e} run?|For how many hours does the battery of {e} last?",
)
CAPACITY = _a(
    N,
    val.number(5, 990, "people"),
    "capacity|maximum number of guests",
    "{e} holds up to {v}.|There is room for {v} in {e}.|No more than {v} may enter {e}.|There is room in {e} for up to {v}.",
    "How many people fit into {e}?|How many people may enter {e}?|How many people does {e} hold?|For how many people is there room in {e}?",
)
TEMPERATURE = _a(
    N,
    val.number(2, 240, "degrees"),
    "temperature|working temperature",
    "Keep {e} at {v}.|{e} works best at {v}.|Heat {e} to {v}.|{e} is kept at {v}.",
    "At what temperature is {e} kept?|How warm must {e} be?|To what temperature do I heat {e}?|How hot must {e} be?",
)
DURATION = _a(
    N,
    val.number(2, 240, "minutes"),
    "duration|waiting time",
    "{e} takes {v}.|Allow {v} for {e}.|{e} is finished after {v}.|After {v}, {e} is finished.",
    "How long does {e} take?|How many minutes does {e} take?|After how long is {e} finished?|How many minutes do I allow for {e}?",
)
NOTICE = _a(
    N,
    val.number(2, 180, "days"),
    "notice period|deadline",
    "{e} requires a notice of {v}.|Changes to {e} must be announced {v} ahead.|{e} can be ended with {v} of notice.|Give {v} of notice for {e}.",
    "How many days of notice does {e} require?|How long ahead must changes to {e} be announced?|How much notice does {e} require?|With how many days of notice can {e} be ended?",
)
FLOOR = _a(
    N,
    val.number(2, 99),
    "floor|floor number",
    "{e} is on floor {v}.|Take the lift to floor {v} for {e}.|You find {e} on floor {v}.|Floor {v} is where you find {e}.",
    "On which floor is {e}?|Which floor do I take for {e}?|On what floor do I find {e}?|{e} is on which floor?",
)
EXTENSION = _a(
    N,
    val.number(100, 999),
    "extension|phone extension",
    "Call extension {v} for {e}.|{e} answers on extension {v}.|Dial {v} to reach {e}.|To reach {e}, call extension {v}.",
    "Which extension reaches {e}?|What do I dial to reach {e}?|On which extension does {e} answer?|Which extension do I call for {e}?",
)
PRICE = _a(
    L,
    val.large_number(1000, 99999, before="$"),
    "price|list price",
    "{e} costs {v}.|You can buy {e} for {v}.|We sell {e} at {v}.|You pay {v} for {e}.",
    "How much does {e} cost?|What do I pay for {e}?|For how much is {e} sold?|How much do I pay for {e}?",
)
BUDGET = _a(
    L,
    val.large_number(1000, 999999, "euros"),
    "budget|spending limit",
    "{e} may spend {v}.|We set aside {v} for {e}.|The board gave {e} {v}.|{v} was set aside for {e}.",
    "How much may {e} spend?|How much was set aside for {e}?|How much money does {e} have?|How much money may {e} spend?",
)
SPEED = _a(
    L,
    val.large_number(1000, 20000, "rpm"),
    "speed|rotor speed",
    "{e} spins at {v}.|Run {e} at {v}.|The rotor of {e} turns at {v}.|{e} turns at {v}.",
    "How fast does {e} spin?|At which speed do I run {e}?|How fast does the rotor of {e} turn?|At what speed does {e} spin?",
)
YEAR = _a(
    L,
    val.year,
    "founding year|first year",
    "{e} was started in {v}.|The first {e} was seen in {v}.|{e} has been around since {v}.|It was in {v} that {e} was started.",
    "When was {e} started?|In which year was {e} started?|Since when has {e} been around?|What year was {e} started in?",
)
DATE = _a(
    L,
    val.date,
    "start date|effective date",
    "{e} starts on {v}.|{e} takes effect on {v}.|From {v} on, {e} is in force.|On {v}, {e} starts.",
    "When does {e} start?|On which date does {e} take effect?|From when is {e} in force?|On which date does {e} start?",
)
REVIEW = _a(
    L,
    val.date,
    "review date|next review",
    "{e} will be reviewed on {v}.|The next look at {e} is due on {v}.|{e} is up for review on {v}.|On {v}, {e} will be reviewed.",
    "When will {e} be reviewed?|On what day is the review of {e}?|When is {e} up for review?|On which date will {e} be reviewed?",
)
OPENING = _a(
    L,
    val.clock,
    "opening time|opening hour",
    "{e} opens at {v}.|The doors of {e} open at {v}.|From {v}, {e} is open.|At {v}, {e} opens.",
    "When does {e} open?|At what time does {e} open?|When do the doors of {e} open?|At what time do the doors of {e} open?",
)
LEADER = _a(
    P,
    inv.person,
    "manager|head|contact person",
    "{e} is led by {v}.|{v} is in charge of {e}.|Ask {v} about {e}.|The person in charge of {e} is {v}.",
    "Who leads {e}?|Who is in charge of {e}?|Whom do I ask about {e}?|Who is the person in charge of {e}?",
)
DESIGNER = _a(
    P,
    inv.person,
    "designer|author",
    "{e} was designed by {v}.|{v} designed {e}.|{v} made the first plan of {e}.|It was {v} who designed {e}.",
    "Who designed {e}?|By whom was {e} designed?|Who made the first plan of {e}?|{e} was designed by whom?",
)
SUPPLIER = _a(
    P,
    val.company,
    "supplier|vendor",
    "{v} delivers {e}.|{e} is delivered by {v}.|We buy {e} from {v}.|The company that delivers {e} is {v}.",
    "Who delivers {e}?|From whom do we buy {e}?|Which company delivers {e}?|By which company is {e} delivered?",
)
CODE = _a(
    C,
    val.code,
    "service code|reference code",
    "Quote {v} when you call about {e}.|{e} is filed under {v}.|Use the code {v} for {e}.|For {e}, use the code {v}.",
    "Which code do I quote for {e}?|Under which code is {e} filed?|Which code belongs to {e}?|Which code do I use for {e}?",
)
FORM = _a(
    C,
    val.code,
    "form|form number",
    "Fill in form {v} for {e}.|{e} requires form {v}.|Requests for {e} go on form {v}.|Form {v} is required for {e}.",
    "Which form does {e} require?|Which form do I fill in for {e}?|On which form do requests for {e} go?|Which form is required for {e}?",
)
EQUIPMENT = _a(
    S,
    val.thing,
    "equipment|required item",
    "Bring {v} for {e}.|{e} requires {v}.|Nobody starts {e} without {v}.|{v} must be brought for {e}.",
    "What do I bring for {e}?|What does {e} require?|What must everybody have for {e}?|What must be brought for {e}?",
)
EXIT = _a(
    S,
    val.thing,
    "emergency exit|way out",
    "Leave {e} by {v}.|In a fire, leave {e} through {v}.|The way out of {e} is {v}.|The way to leave {e} is {v}.",
    "How do I leave {e} in a fire?|Where is the way out of {e}?|How does one leave {e}?|By which way do I leave {e}?",
)
APPROVER = _a(
    S,
    val.role,
    "approver|approving officer",
    "{e} must be approved by {v}.|{v} signs {e}.|Only {v} can approve {e}.|{e} is signed by {v}.",
    "Who must approve {e}?|Who signs {e}?|By whom is {e} approved?|Who can approve {e}?",
)
CONTENTS = _a(
    S,
    val.short_list,
    "contents|parts",
    "{e} comes with {v}.|In the pack of {e} you find {v}.|{e} includes {v}.|The pack of {e} includes {v}.",
    "What comes with {e}?|What does {e} include?|What is in the pack of {e}?|What do I find in the pack of {e}?",
)


def _rule(kind_of: str, allowed: str, forbidden: str, question: str) -> tuple[str, str, str, str]:
    return kind_of, allowed, forbidden, question


# label, statement when yes, statement when no, question
RULES = (
    _rule("visitors", "Visitors are allowed at {e}.", "Visitors are not allowed at {e}.", "Are visitors allowed at {e}?"),
    _rule("pets", "You may bring a dog to {e}.", "You may not bring a dog to {e}.", "May I bring a dog to {e}?"),
    _rule("photos", "Photos may be taken at {e}.", "No photos may be taken at {e}.", "May photos be taken at {e}?"),
    _rule("parking", "There is free parking at {e}.", "There is no free parking at {e}.", "Is there free parking at {e}?"),
    _rule("receipts", "{e} requires receipts.", "{e} does not require receipts.", "Does {e} require receipts?"),
    _rule("remote work", "{e} permits remote work.", "{e} does not permit remote work.", "Does {e} permit remote work?"),
    _rule("overtime", "Overtime is paid under {e}.", "Overtime is not paid under {e}.", "Is overtime paid under {e}?"),
    _rule("water", "{e} can be used in water.", "{e} cannot be used in water.", "Can {e} be used in water?"),
    _rule("outdoor use", "{e} is safe to use outdoors.", "{e} is not safe to use outdoors.", "Is {e} safe to use outdoors?"),
    _rule("gloves", "Gloves must be worn for {e}.", "Gloves need not be worn for {e}.", "Must gloves be worn for {e}?"),
)  # fmt: skip
RULE_QUESTION_FRAMES = (
    "{q}",
    "Tell me: {q}",
    "{q} Yes or no?",
    "I want to know: {q}",
    "Please answer yes or no: {q}",
    # held out
    "Please tell me: {q}",
)


@dataclass(frozen=True, slots=True)
class Domain:
    """A sort of document: what its subjects are called and what is said of them."""

    name: str
    titles: tuple[str, ...]
    subjects: tuple[str, ...]
    attributes: tuple[Attribute, ...]
    rules: tuple[str, ...]


DOMAINS = (
    Domain(
        "product", ("Product sheet", "Fact sheet", "Data sheet", "Manual"),
        ("the {name}", "the {name} {number}", "the {name} pump", "the {name} lamp", "the {name} drill",
         "the {name} kettle", "model {name}"),
        (COLOUR, MATERIAL, MASCOT, CONTAINER, WEIGHT, WARRANTY, BATTERY, TEMPERATURE, PRICE, SPEED, YEAR,
         DESIGNER, SUPPLIER, CODE, CONTENTS, CITY, PASSWORD, NICKNAME),
        ("water", "outdoor use"),
    ),
    Domain(
        "policy", ("Policy", "Company policy", "Handbook", "Rules"),
        ("the {name} policy", "the {name} rule", "the {name} travel policy", "the {name} leave policy",
         "the {name} expense rule"),
        (DEPARTMENT, NOTICE, BUDGET, DATE, REVIEW, LEADER, FORM, CODE, APPROVER, EXTENSION, YEAR, DESIGNER, NICKNAME),
        ("receipts", "remote work", "overtime"),
    ),
    Domain(
        "protocol", ("Protocol", "Lab protocol", "Work instruction", "Procedure"),
        ("protocol {name}", "the {name} test", "the {name} assay", "the {name} procedure", "step {name}"),
        (TEMPERATURE, DURATION, SPEED, EQUIPMENT, CONTAINER, LEADER, FORM, CODE, DEPARTMENT, REVIEW, MATERIAL,
         CAPACITY, APPROVER, PASSWORD, NICKNAME),
        ("gloves", "photos"),
    ),
    Domain(
        "place", ("Site guide", "Visitor guide", "Office guide", "About us"),
        ("the {name} office", "the {name} hall", "the {name} site", "the {name} library", "{name} House",
         "the {name} clinic"),
        (CITY, WEEKDAY, CAPACITY, FLOOR, EXTENSION, OPENING, YEAR, LEADER, EXIT, CODE, COLOUR, MASCOT, DESIGNER,
         PASSWORD, NICKNAME),
        ("visitors", "pets", "photos", "parking"),
    ),
    Domain(
        "project", ("Project page", "Project brief", "Event page", "Team page"),
        ("project {name}", "the {name} project", "team {name}", "the {name} event", "the {name} fund"),
        (CITY, DEPARTMENT, MASCOT, COLOUR, CAPACITY, BUDGET, DATE, REVIEW, LEADER, SUPPLIER, EQUIPMENT, FORM,
         CODE, DURATION, CONTENTS, PASSWORD, NICKNAME),
        ("visitors", "parking", "remote work"),
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact of a document, with everything that rendering and asking need.

    ``anaphoric``: the statement says "it" where the subject would stand.
    """

    subject: str
    label: str
    value: str
    kind: Kind
    statement: str
    question: str
    anaphoric: bool = False


def phrasing(options: Sequence[str], held_out: int, rng: Random, split: Split) -> str:
    """One of the options that the split may use: the last ``held_out`` are evaluation's."""
    chosen = options[-held_out:] if split is Split.HELD_OUT else options[:-held_out]
    return rng.choice(chosen)


def capitalised(sentence: str) -> str:
    return sentence[0].upper() + sentence[1:]


def attribute_fact(
    attribute: Attribute, subject: str, rng: Random, split: Split, *, mention: str
) -> Fact:
    """The attribute with a fresh value of the split, stated and asked in wordings of the split.

    ``mention`` stands for the subject in the statement."""
    noun = rng.choice(attribute.nouns)
    make, owner = attribute.make, ""
    if attribute.kind is Kind.WORD:
        owner = f"{attribute.nouns[0]} = "
        # a word that no habit suggests has to be read: without it held-out words are never copied
        if split is Split.TRAIN and rng.random() < STRANGE_WORDS:
            make = ANY_WORD
    value = inv.draw(make, rng, split, of=owner)
    fills = {"n": noun, "e": mention, "v": value}
    statement = (
        phrasing(STATEMENT_FRAMES, HELD_OUT_FRAMES, rng, split)
        if rng.random() < 0.5
        else phrasing(attribute.statements, 1, rng, split)
    )
    if split is Split.TRAIN and statement[0] == "{" and rng.random() < OPENED_STATEMENTS:
        statement = f"{rng.choice(STATEMENT_OPENINGS)} {statement}"
    return Fact(
        subject=subject,
        label=noun,
        value=value,
        kind=attribute.kind,
        statement=capitalised(statement.format(**fills)),
        question=attribute_question(attribute, noun, subject, rng, split),
        anaphoric=mention != subject,
    )


def attribute_question(
    attribute: Attribute, noun: str, subject: str, rng: Random, split: Split
) -> str:
    """A question for the attribute of a subject, in training now and then between other words."""
    question = (
        phrasing(QUESTION_FRAMES, HELD_OUT_FRAMES, rng, split)
        if rng.random() < 0.5
        else phrasing(attribute.questions, 1, rng, split)
    )
    asked = capitalised(question.format(n=noun, e=subject))
    if split is Split.TRAIN and rng.random() < WRAPPED_QUESTIONS:
        return rng.choice(QUESTION_WRAPPINGS).format(q=asked)
    return asked


def rule_fact(label: str, subject: str, rng: Random, split: Split) -> Fact:
    """A yes/no rule about the subject."""
    _, allowed, forbidden, question = next(rule for rule in RULES if rule[0] == label)
    yes = rng.random() < 0.5
    asked = phrasing(RULE_QUESTION_FRAMES, 1, rng, split).format(
        q=capitalised(question.format(e=subject))
    )
    return Fact(
        subject=subject,
        label=label,
        value="Yes" if yes else "No",
        kind=Kind.YES_NO,
        statement=capitalised((allowed if yes else forbidden).format(e=subject)),
        question=asked,
    )


def subject(domain: Domain, rng: Random, split: Split) -> str:
    """A fresh subject of the domain, under a name of the split."""
    name = inv.draw(inv.syllable_name, rng, split)
    return rng.choice(domain.subjects).format(name=name, number=rng.randint(2, 999))
