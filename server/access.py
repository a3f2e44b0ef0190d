"""The outermost layer: every request gets an ID, every answer carries it, one log line each."""

import logging
import re
import secrets
import time
from contextvars import ContextVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import InternalError, error_response

log = logging.getLogger(__name__)

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
ACCEPTABLE = re.compile(r"[A-Za-z0-9._-]{1,128}")
QUIET = frozenset({"/health", "/ready", "/metrics"})  # polled: logged at debug level only


class AccessMiddleware:
    """Sets `x-request-id` (the caller's own if it is well-formed) and answers 500 for a defect
    that no handler caught, so that even that answer has OpenAI's shape and an ID."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        offered = Headers(scope=scope).get("x-request-id", "")
        identity = offered if ACCEPTABLE.fullmatch(offered) else f"req_{secrets.token_hex(12)}"
        token = request_id.set(identity)
        began = time.monotonic()
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(raw=message["headers"])["x-request-id"] = identity
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            log.exception("%s %s failed", scope["method"], scope["path"])
            if status:  # the answer has begun: nothing but an abrupt end can tell the caller
                raise
            await error_response(InternalError())(scope, receive, send_with_id)
        finally:
            level = logging.DEBUG if scope["path"] in QUIET else logging.INFO
            milliseconds = (time.monotonic() - began) * 1000
            log.log(level, "%s %s %d %.0f ms", scope["method"], scope["path"], status, milliseconds)
            request_id.reset(token)
