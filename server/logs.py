"""Log lines on standard error: readable for people, JSON for collectors."""

import json
import logging
import sys
import time
from typing import Any, Literal

from server.access import request_id


class _RequestIdFilter(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.request_id = request_id.get()
        return True


class _TextFormatter(logging.Formatter):
    """One line a message, a traceback indented below it. What callers send is in both (paths,
    names): it can neither begin a line that looks like a message nor steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        identity = getattr(record, "request_id", None)
        record.suffix = f"  [{identity}]" if identity else ""
        return super().format(record)

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _printable(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: Any) -> str:
        lines = super().formatException(ei).split("\n")
        return "\n".join(f"    {_printable(line)}" for line in lines)


def _printable(text: str) -> str:
    """The text with line ends, control characters and other invisible ones as escapes."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if identity := getattr(record, "request_id", None):
            line["request_id"] = identity
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(level: str, style: Literal["text", "json"]) -> None:
    """Send this product's messages of `level` and above to standard error, others' warnings too."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_RequestIdFilter())
    handler.setFormatter(
        _JsonFormatter()
        if style == "json"
        else _TextFormatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s%(suffix)s")
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("vllm").setLevel(logging.ERROR)  # while it is imported; then its own setting
    for package in ("server", "generator", "adapters_store"):
        logging.getLogger(package).setLevel(level.upper())
