"""Runs one story against copies of a data folder and kills it, each time one step later.

`python -m tests.adapters_store.crash <template> <out>`: for n = 1, 2, ... copies the folder to
`<out>/<n>`, forks, and has the child kill itself (SIGKILL) at its n-th step. Steps are the SQL
statements that write, commits, fsyncs, renames, removals, and answers given. What the child was
promised before it died is in `<out>/<n>.promises`, a JSON list a line. Ends after the first child
that lives to the end, and prints n.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import obstore
import sqlalchemy as sa

from adapters_store import AdapterStore
from tests.adapters_store.making import finish, new

Step = Callable[..., None]


async def story(root: Path, promise: Step) -> None:
    """A version of a name from upload to purge."""
    async with await AdapterStore.open(root) as store:
        adapter, _ = await store.add(new("two", name="handbook"), b"two")
        promise("queued", adapter.id)
        await finish(store, adapter.id)
        promise("ready", adapter.id)
        await store.delete("default", adapter.id)
        promise("deleted", adapter.id)
        await store.purge(adapter.id)
        promise("purged", adapter.id)


def die_at(last: int) -> Step:
    """Counts steps, wherever they are taken, and kills the process at the `last`."""
    taken = 0

    def step(*_: Any, **__: Any) -> None:
        nonlocal taken
        taken += 1
        if taken == last:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def stepping(*args: Any, **kwargs: Any) -> Any:
            step()
            return original(*args, **kwargs)

        setattr(owner, name, stepping)

    for owner, name in (
        (os, "fsync"),
        (obstore, "rename_async"),
        (obstore, "delete_async"),
        (shutil, "rmtree"),
    ):
        before(owner, name)

    def before_statement(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith(("SELECT", "BEGIN", "PRAGMA")):
            step()

    sa.event.listen(sa.Engine, "before_cursor_execute", before_statement)
    sa.event.listen(sa.Engine, "commit", step)
    return step


def run(template: Path, out: Path, n: int) -> bool:
    """True if the child lived to the end of the story."""
    root = shutil.copytree(template, out / str(n))
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, -signal.SIGKILL), f"the child ended with {status}"
        return status == 0
    with (out / f"{n}.promises").open("w") as promises:
        step = die_at(n)

        def promise(*words: str) -> None:
            promises.write(json.dumps(words) + "\n")
            promises.flush()
            step()

        asyncio.run(story(root, promise))
    os._exit(0)


if __name__ == "__main__":
    template, out = Path(sys.argv[1]), Path(sys.argv[2])
    n = 1
    while not run(template, out, n):
        n += 1
    print(n)
