"""Work that runs to its end although its caller is cancelled.

A task that is cancelled inside a transaction leaves SQLite's write lock taken for good: the
driver's thread begins the transaction after SQLAlchemy has given the connection up. So a caller may
stop waiting, but a transaction that was begun is finished.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def to_its_end(step: Awaitable[T]) -> T:
    """Awaits `step` to its end even if the caller is cancelled, and is cancelled then."""
    task = asyncio.ensure_future(step)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # seen; the caller is gone
        raise cancelled
    return task.result()


def whole(method: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """The method, run to its end even if its caller is cancelled."""

    @functools.wraps(method)
    async def run(*args: P.args, **kwargs: P.kwargs) -> T:
        return await to_its_end(method(*args, **kwargs))

    return run
