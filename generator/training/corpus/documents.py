"""Invented documents: facts about fresh subjects, written as prose, bullets, key-value lines or tables."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from generator.training.corpus import facts as f
from generator.training.corpus import inventory as inv
from generator.training.corpus.facts import Domain, Fact, capitalised
from generator.training.corpus.inventory import Split

# sentences that say nothing anybody asks for: who, does what, when or where
WHO = (
    "The team", "Our group", "The editor", "A visitor", "The new clerk", "Everybody", "The night shift",
    "The board", "A neighbour", "The choir", "The old guard", "Our guest", "The writer", "The cook",
)  # fmt: skip
DID = (
    "read this page", "met twice", "had lunch together", "added some pictures", "asked a good question",
    "took a short break", "walked through the garden", "sent a kind letter", "checked the spelling",
    "told an old story", "cleaned the kitchen", "found a pencil", "waited for the rain to stop",
    "moved the chairs", "made some tea", "looked at the sky", "thanked the others", "sang a song",
)  # fmt: skip
WHEN = (
    "this week", "last month", "in the morning", "before the meeting", "on the way home", "once more",
    "near the river", "at the end of the day", "behind the house", "without any hurry", "in the rain",
    "after a long talk", "as usual", "during the summer",
)  # fmt: skip
INTRODUCTIONS = (
    "This page is about {e}.",
    "Here is what we know about {e}.",
    "The following applies to {e}.",
    "Below are the details of {e}.",
    # held out
    "What follows is about {e}.",
)
Layout = Callable[[Sequence[Fact], Random, Split], str]


@dataclass(frozen=True, slots=True)
class Document:
    """An invented document and what it says."""

    text: str
    facts: tuple[Fact, ...]
    domain: Domain

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(fact.subject for fact in self.facts))


def _prose(facts: Sequence[Fact], rng: Random, split: Split) -> str:
    return " ".join(fact.statement for fact in facts)


def _bullets(facts: Sequence[Fact], rng: Random, split: Split) -> str:
    mark = rng.choice(("- ", "* "))
    return "\n".join(mark + fact.statement for fact in facts)


def _key_value(facts: Sequence[Fact], rng: Random, split: Split) -> str:
    layouts = ("{k}: {v}", "- {k}: {v}", "**{k}**: {v}", "{k} = {v}", "- **{k}:** {v}")
    line = f.phrasing(layouts, 1, rng, split)
    return "\n".join(line.format(k=capitalised(fact.label), v=fact.value) for fact in facts)


def _table(facts: Sequence[Fact], rng: Random, split: Split) -> str:
    headers = ("Item | Value", "Field | Entry", "What | Value", "Item | Entry")
    header = f.phrasing(headers, 1, rng, split)
    rows = (f"| {capitalised(fact.label)} | {fact.value} |" for fact in facts)
    return "\n".join((f"| {header} |", "|---|---|", *rows))


LAYOUTS: tuple[tuple[Layout, float], ...] = (
    (_prose, 0.5),
    (_bullets, 0.2),
    (_key_value, 0.2),
    (_table, 0.1),
)


def _section(subject: str, facts: Sequence[Fact], fillers: int, rng: Random, split: Split) -> str:
    layout = rng.choices([layout for layout, _ in LAYOUTS], [weight for _, weight in LAYOUTS])[0]
    opening: list[str] = []
    if layout in (_key_value, _table):
        # the subject stands nowhere else in these layouts
        introduction = f.phrasing(INTRODUCTIONS, 1, rng, split).format(e=subject)
        opening.append(rng.choice((f"## {capitalised(subject)}", capitalised(introduction))))
    elif facts[-1].anaphoric or rng.random() < 0.25:
        opening.append(f"## {capitalised(subject)}")
    filling = [filler(rng, split) for _ in range(fillers)]
    if layout is _prose:
        sentences = [fact.statement for fact in facts]
        for sentence in filling:
            sentences.insert(rng.randint(0, len(sentences)), sentence)
        return "\n".join((*opening, " ".join(sentences)))
    body = layout(facts, rng, split)
    if not filling:
        return "\n".join((*opening, body))
    before = rng.random() < 0.5
    paragraph = " ".join(filling)
    return "\n".join((*opening, *((paragraph, body) if before else (body, paragraph))))


def document(
    rng: Random, split: Split, *, facts: int, subjects: int = 1, fillers: int = 0
) -> Document:
    """A document with ``facts`` facts spread over ``subjects`` subjects and ``fillers`` sentences."""
    domain = rng.choice(f.DOMAINS)
    names = [f.subject(domain, rng, split) for _ in range(min(subjects, facts))]
    per_subject = [facts // len(names) + (i < facts % len(names)) for i in range(len(names))]
    sections: list[str] = []
    stated: list[Fact] = []
    spread = [0] * len(names)
    for _ in range(fillers):
        spread[rng.randrange(len(names))] += 1
    for name, count, filling in zip(names, per_subject, spread, strict=True):
        about = _facts_about(domain, name, count, rng, split)
        stated += about
        sections.append(_section(name, about, filling, rng, split))
    if rng.random() < 0.3:
        sections.insert(0, f"# {rng.choice(domain.titles)}")
    return Document("\n\n".join(sections), tuple(stated), domain)


def _facts_about(domain: Domain, subject: str, count: int, rng: Random, split: Split) -> list[Fact]:
    rules = 1 if rng.random() < 0.08 * count else 0
    attributes = rng.sample(domain.attributes, min(count - rules, len(domain.attributes)))
    about = [f.rule_fact(label, subject, rng, split) for label in rng.sample(domain.rules, rules)]
    # in one text of four the subject is named once and is "it" from then on
    anaphoric = rng.random() < 0.25
    for attribute in attributes:
        mention = "it" if anaphoric and about else subject
        about.append(f.attribute_fact(attribute, subject, rng, split, mention=mention))
    if not anaphoric:
        rng.shuffle(about)
    return about


def filler(rng: Random, split: Split) -> str:
    """A sentence of the split that says nothing anybody asks for."""
    return inv.draw(lambda r: f"{r.choice(WHO)} {r.choice(DID)} {r.choice(WHEN)}.", rng, split)


def unanswerable(document: Document, rng: Random, split: Split) -> str:
    """A question that the document does not answer: about another subject, or not said of its own."""
    labels = {(fact.subject, fact.label) for fact in document.facts}
    silent = [
        (attribute, subject)
        for attribute in document.domain.attributes
        for subject in document.subjects
        if not any((subject, noun) in labels for noun in attribute.nouns)
    ]
    if silent and rng.random() < 0.6:
        attribute, subject = rng.choice(silent)
    else:
        domain = rng.choice(f.DOMAINS)
        attribute, subject = rng.choice(domain.attributes), f.subject(domain, rng, split)
    return f.attribute_question(attribute, rng.choice(attribute.nouns), subject, rng, split)


def filler_paragraph(rng: Random, split: Split, sentences: int) -> str:
    """Some such sentences."""
    return " ".join(filler(rng, split) for _ in range(sentences))
