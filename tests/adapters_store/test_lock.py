from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from adapters_store import AdapterStore, StoreLocked

pytestmark = pytest.mark.anyio

HOLD = """
import asyncio, os, sys
from pathlib import Path
from adapters_store import AdapterStore
async def hold():
    async with await AdapterStore.open(Path(sys.argv[1])):
        if sys.argv[2] == "fork" and os.fork() == 0:
            os.close(1)
            os.read(0, 1)  # an engine's process that outlives the server
            os._exit(0)
        print("open", flush=True)
        await asyncio.sleep(60)
asyncio.run(hold())
"""


def holder(root: Path, *, fork: bool = False) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(root), "fork" if fork else "alone"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"open\n"
    return process


async def test_a_second_process_is_refused_and_told_which_one_is_there(root: Path) -> None:
    with holder(root) as other:
        try:
            with pytest.raises(StoreLocked) as caught:
                await AdapterStore.open(root)
            assert caught.value.pid == other.pid
            assert str(root) in str(caught.value)
        finally:
            other.kill()


async def test_a_second_store_in_one_process_is_refused(root: Path) -> None:
    async with await AdapterStore.open(root):
        with pytest.raises(StoreLocked) as caught:
            await AdapterStore.open(root / ".." / root.name)
        assert caught.value.pid == os.getpid()
    async with await AdapterStore.open(root):
        pass


async def test_a_killed_process_leaves_no_lock_even_if_its_child_lives_on(root: Path) -> None:
    with holder(root, fork=True) as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        async with await AdapterStore.open(root):
            pass


async def test_two_folders_cannot_share_one_postgresql_catalogue(
    tmp_path: Path, postgres_url: str
) -> None:
    async with await AdapterStore.open(tmp_path / "one", postgres_url):
        with pytest.raises(StoreLocked, match="in use by another process"):
            await AdapterStore.open(tmp_path / "two", postgres_url)
    async with await AdapterStore.open(tmp_path / "two", postgres_url):
        pass
