"""Ordinary short chat turns, and the answer to what cannot be known."""

from random import Random

from generator.training.corpus import facts
from generator.training.corpus import inventory as inv
from generator.training.corpus import values as val

UNKNOWN = "I don't know."

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (("Hello", "Hi", "Hello!", "Hi there", "Good morning", "hey", "Good evening"), "Hello! How can I help you?"),
    (("Thank you", "Thanks", "Thanks a lot!", "thank you very much"), "You are welcome."),
    (("Goodbye", "Bye", "See you later", "bye bye"), "Goodbye!"),
    (("Who are you?", "What are you?", "What is your name?", "who is this"),
     "I am doclora-tiny, a very small language model."),
    (("What can you do?", "How can you help me?", "What are you good for?"),
     "I answer questions about a document."),
    (("How are you?", "How do you do?", "Are you well?"), "I am fine, thank you."),
    (("Are you a human?", "Are you a person?", "Am I talking to a person?"), "No, I am a language model."),
    (("OK", "Good", "I see", "Great", "Nice"), "Do you have another question?"),
)  # fmt: skip
ECHO_FRAMES = (
    "Repeat: {t}",
    "Say {t}",
    "Say this: {t}",
    "Repeat after me: {t}",
    "Write {t}",
)
ECHOED = (
    facts.ANY_WORD,
    val.thing,
    inv.person,
    val.code,
    val.number(0, 999),
)


def small_talk(rng: Random) -> tuple[str, str]:
    """A turn that needs no knowledge."""
    questions, answer = rng.choice(SMALL_TALK)
    return rng.choice(questions), answer


def echo(rng: Random) -> tuple[str, str]:
    """A request to say something again: every word of the inventories passes through here."""
    text = rng.choice(ECHOED)(rng)
    return rng.choice(ECHO_FRAMES).format(t=text), text
