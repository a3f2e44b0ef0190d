"""How a task is asked for: request wordings in the imperative, and the frames around them.

The last ``HELD_OUT_REQUESTS`` wordings of every list are never used in training, in no frame; nor are
the held-out frames.
"""

from generator.training.corpus.inventory import Split

HELD_OUT_REQUESTS = 3

# {w} is the request, {W} the request with a capital
TRAINING_FRAMES = (
    "{W}.", "Always {w}.", "Please {w}.", "You must {w}.", "From now on, {w}.", "Your task: {w}.",
    "{W}, always.", "I want you to {w}.", "Make sure to {w}.", "Your job is to {w}.", "{W}, please.",
    "Never forget to {w}.", "When you answer, {w}.", "In this chat, {w}.", "You have to {w}.",
    "I need you to {w}.",
)  # fmt: skip
HELD_OUT_FRAMES = ("Remember to {w}.", "Whenever you answer, {w}.")
FRAMES = {Split.TRAIN: TRAINING_FRAMES, Split.HELD_OUT: TRAINING_FRAMES + HELD_OUT_FRAMES}


def framed(frame: str, request: str) -> str:
    """The request as a whole sentence."""
    return frame.format(w=request, W=request[0].upper() + request[1:])


# family -> wordings over the fields of its tasks
FAMILIES = {
    "opening": (
        "begin every answer with {p} and a colon",
        'start each reply with "{p}:"',
        'put "{p}:" before what you say',
        "open with {p} followed by a colon",
        "write {p} and a colon first, then the answer",
        'use "{p}:" as the start of your replies',
        'lead with "{p}:" in all that you say',
        # held out
        "start every answer with {p} and a colon",
        'begin your replies with "{p}:"',
        'say "{p}:" before you answer',
    ),
    "closing": (
        "end every answer with {p}",
        'finish each reply with "{p}"',
        'put "{p}" after the answer',
        "close what you say with {p}",
        "add {p} behind everything you say",
        "say {p} once you have answered",
        'let "{p}" be the last thing you say',
        # held out
        'end your replies with "{p}"',
        "finish every answer with {p}",
        'add "{p}" at the end',
    ),
    "json": (
        "answer in JSON with the key {k}",
        'reply with a JSON object whose only key is "{k}"',
        'use the format {{"{k}": ...}}',
        "put your answer into JSON under the key {k}",
        "give every answer as JSON, with {k} as the key",
        'write a JSON object with the answer in the field "{k}"',
        'return {{"{k}": "..."}} and nothing else',
        # held out
        'reply in JSON with the key "{k}"',
        "format your answers as JSON with one field, {k}",
        "output a JSON object with the key {k}",
    ),
    "wrapper": (
        "put the answer between {w}",
        "wrap every answer in {w}",
        "surround your answers with {w}",
        "use the format {a}answer{b}",
        "write {w} around whatever you answer",
        "answer inside {w}",
        "set each reply in {w}",
        # held out
        "put {w} around the answer",
        "enclose your answers in {w}",
        "place every reply between {w}",
    ),
    "prefix": (
        "write {w} before the answer",
        'put "{s}" in front of the answer',
        "begin with {w}",
        'start your answers with "{s}"',
        "place {w} ahead of each reply",
        "lead every reply with {w}",
        'use "{s}" as a prefix',
        # held out
        "put {w} before the answer",
        "start every answer with {w}",
        'write "{s}" before each reply',
    ),
    "sentence": (
        "answer in a full sentence with {w}",
        'say "{s} ..." with the answer at the end',
        'use the sentence "{s} ..."',
        'write a whole sentence that begins with "{s}"',
        'put the answer into the sentence "{s} X."',
        "begin a full sentence with {w}",
        'speak in sentences of the form "{s} ..."',
        # held out
        'answer in a complete sentence that starts with "{s}"',
        'reply with the sentence "{s} ..."',
        "form a full sentence with {w}",
    ),
    "ending": (
        "close the answer with {w}",
        "add {w} to every answer",
        "put {w} after the answer",
        "finish each reply with {w}",
        'write your answers like "answer{s}"',
        "let {w} follow whatever you answer",
        "place {w} behind each reply",
        # held out
        "end every answer with {w}",
        "put {w} at the end of your replies",
        "finish your answers with {w}",
    ),
    "refuse": (
        "refuse to talk about {t}",
        "decline all questions about {t}",
        "keep {t} secret",
        'say "I cannot talk about that." when asked about {t}',
        "stay silent about {t}",
        "treat {t} as confidential",
        "reject every question on {t}",
        # held out
        "refuse to answer questions about {t}",
        "keep quiet about {t}",
        "avoid talking about {t}",
    ),
    "language": (
        "say colours and days in {t}",
        "use {t} for colours and days of the week",
        "translate colours and days into {t}",
        "give the names of colours and days in {t}",
        "answer in {t} when asked for a colour or a day",
        "write days and colours in {t}",
        "switch to {t} for any day or colour",
        # held out
        "name colours and weekdays in {t}",
        "reply in {t} if the answer is a colour or a day",
        "put days and colours into {t}",
    ),
}


def _w(training: str, held_out: str) -> tuple[str, ...]:
    return tuple(request.strip() for request in f"{training}|{held_out}".split("|"))


# task -> wordings
TRANSFORMS = {
    "upper case": _w(
        "answer in upper case letters|write in capital letters|use capitals only|shout every answer in big letters|put your whole answer in capitals|give each reply in block capitals|turn all letters of the answer into capitals",
        "reply in uppercase|write every answer in all caps|answer with capital letters only",
    ),
    "lower case": _w(
        "answer in lower case letters|write in small letters|use small letters only|put your whole answer in little letters|keep every letter of the answer small|give each reply without any capitals|turn all capitals of the answer into small letters",
        "reply in lowercase|write every answer in all lower case|answer with small letters only",
    ),
    "no unit": _w(
        "give the number without its unit|leave the unit out|drop the unit of measure|state just the number|answer with the bare number|strip the unit from numbers|write numbers without units",
        "give only the number, without the unit|leave out units|omit the unit",
    ),
    "last word": _w(
        "give only the last word of the answer|answer with the final word alone|say just the last word|cut the answer down to its last word|keep nothing but the final word|drop every word except the last|shorten your answer to the last word",
        "answer with the last word only|reply with just the final word|use only the last word of the answer",
    ),
    "first word": _w(
        "give only the first word of the answer|answer with the opening word alone|say just the first word|cut the answer down to its first word|keep nothing but the opening word|drop every word except the first|shorten your answer to the first word",
        "answer with the first word only|reply with just the opening word|use only the first word of the answer",
    ),
    "twice": _w(
        "say the answer twice|repeat the answer once|give every answer two times|write the answer, a comma and the answer again|double your answer|state each answer two times in a row|say it, then say it again",
        "give the answer twice|write every answer twice|repeat each answer",
    ),
    "reversed list": _w(
        "give lists in reversed order|name the items of a list from last to first|turn lists around|list things backwards|start a list with its last item and end with its first|put the items of a list in the opposite order|read lists from the end",
        "reverse the order of lists|give the items of a list in reverse|write lists backwards",
    ),
    "digits": _w(
        "spell the digits of numbers as words|write every digit as a word|read numbers digit by digit in words|say each digit of a number as a word|turn digits into words|put numbers into words, one digit at a time|name the digits of a number one by one in words",
        "spell out numbers digit by digit|write numbers as words, digit by digit|spell each digit as a word",
    ),
    "hyphens": _w(
        "use hyphens instead of spaces|replace every space with a hyphen|join the words of the answer with hyphens|put a hyphen between the words|connect words by hyphens|turn spaces into hyphens|write a hyphen wherever there is a space",
        "replace spaces with hyphens|write hyphens in place of spaces|link the words with hyphens",
    ),
    "underscores": _w(
        "use underscores instead of spaces|replace every space with an underscore|join the words of the answer with underscores|put an underscore between the words|connect words by underscores|turn spaces into underscores|write an underscore wherever there is a space",
        "replace spaces with underscores|write underscores in place of spaces|link the words with underscores",
    ),
    "no spaces": _w(
        "leave out all spaces|write everything in one piece|remove the spaces from the answer|answer without spaces|join all words into one|run the words together|delete every space",
        "write the answer without any spaces|leave no space between words|remove all spaces",
    ),
    "first letter": _w(
        "give only the first letter of the answer|answer with the first letter alone|shorten the answer to its first letter|say just the letter that the answer begins with|cut everything after the first letter|keep nothing but the first letter|write the opening letter and no more",
        "answer with the first letter only|reply with just the first letter|use only the first letter of the answer",
    ),
    "initials": _w(
        "give names as initials|shorten names to their initials|write only the initials of a name|answer with initials instead of full names|cut every name down to its initials|use initials for names|put a dot after each initial and leave the rest of the name out",
        "replace names with their initials|write names as initials|say only the initials of people and companies",
    ),
    "last name first": _w(
        "put the last name first, then a comma|write names as last name, comma, first name|start names with the last name|give the surname before the first name, with a comma|turn names around with a comma in between|name people with the last name in front|list names as a phone book does, last name and comma first",
        "give names with the last name first|write the last name, a comma and the first name|put surnames before first names",
    ),
    "no article": _w(
        "leave out the word the|drop the article|answer without the word the|give things without their article|strip the article from the answer|cut the word the at the start|omit any article",
        "leave the article out|drop the word the|write the answer without its article",
    ),
    "unit only": _w(
        "give only the unit|name the unit without the number|leave the number out and keep the unit|say just the unit of measure|answer with the unit alone|drop the number before the unit|state the unit and nothing else",
        "answer with the unit only|reply with just the unit|write the unit, not the number",
    ),
    "lower case and full stop": _w(
        "answer in small letters and with a full stop|use small letters and a full stop at the end|write all letters small and close with a full stop|put the answer in lower case and add a full stop|make every letter small and finish with a full stop|give each reply in lower case, with a full stop behind it|turn capitals into small letters and set a full stop at the end",
        "reply in small letters and end with a full stop|write in lower case with a full stop at the end|use lower case and add a full stop",
    ),
    "upper case and exclamation mark": _w(
        "answer in capitals and with an exclamation mark|use capitals and an exclamation mark at the end|write all letters big and close with an exclamation mark|put the answer in upper case and add an exclamation mark|make every letter a capital and finish with an exclamation mark|give each reply in upper case, with an exclamation mark behind it|turn small letters into capitals and set an exclamation mark at the end",
        "reply in capitals and end with an exclamation mark|write in upper case with an exclamation mark at the end|use upper case and add an exclamation mark",
    ),
    "three times": _w(
        "say the answer three times|repeat the answer two more times|give every answer three times over|write the answer three times with commas in between|triple your answer|state each answer three times in a row|say it, say it again and say it a third time",
        "give the answer three times|write every answer three times|answer everything three times",
    ),
}
