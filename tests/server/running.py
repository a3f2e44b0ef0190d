"""A server process under test, and documents to send to it."""

import itertools
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from server.settings import Settings
from tests.processes import alive

COMMAND = Path(sys.executable).with_name("doclora")
MAX_UPLOAD_BYTES = 300_000
MAX_WAIT = 240
JOBS = 4
MAX_LORAS = 2
# what would open the engine to callers, if it were not ignored
DANGEROUS = {
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
    "VLLM_SKIP_MODEL_NAME_VALIDATION": "1",
    "VLLM_SERVER_DEV_MODE": "1",
    "VLLM_API_KEY": "not-a-key",
}
START_SECONDS = 280.0  # a minute on quiet cores
STOP_SECONDS = 60.0

Json = dict[str, Any]
_numbers = itertools.count(1)


def document(sentences: int = 2) -> str:
    """A short text that no other test has."""
    mark = secrets.token_hex(4)
    facts = (f"Pump {mark} number {next(_numbers)} is blue." for _ in range(sentences))
    return " ".join(facts)


def eventually(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true value of `condition`; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds:.0f} s"
        time.sleep(0.05)
    return value


class Running:
    """`doclora serve` as a process; its data and log outlive restarts."""

    def __init__(self, folder: Path, *flags: str | Path) -> None:
        self.flags = tuple(map(str, flags))
        self.data = folder / "data"
        self.log = folder / "server.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._seen: set[int] = set()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the command and wait until it is ready."""
        command = [
            *(str(COMMAND), "serve"),
            *("--port", str(self.port), "--data-dir", str(self.data)),
            *("--max-loras", str(MAX_LORAS), "--kv-cache-gib", "0.25", "--jobs", str(JOBS)),
            *("--max-upload-bytes", str(MAX_UPLOAD_BYTES), "--max-wait", str(MAX_WAIT)),
            *self.flags,
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **DANGEROUS},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._answers, START_SECONDS)
        self._seen |= self.family()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"the server ended:\n{self.log_tail()}"
        try:
            return httpx.get(f"{self.url}/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL, as a power cut would; and wait for the processes it leaves to notice."""
        self._seen |= self.family()
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def stop_while_a_caller_follows_a_job(self) -> None:
        """SIGTERM at the worst of times: the stream ends, the server too, and leaves nothing."""
        with self.generator_stopped(), httpx.Client(base_url=self.url, timeout=120) as client:
            adapter = client.post("/v1/adapters", json={"text": document(), "wait": 0}).json()
            self._seen |= self.family()
            with client.stream("GET", f"/v1/adapters/{adapter['id']}/events") as events:
                lines = events.iter_lines()
                next(lines)
                os.kill(self.pid, signal.SIGTERM)
                threading.Timer(1.0, self.continue_generator).start()
                for _ in lines:
                    pass
        assert self._process is not None
        assert self._process.wait(STOP_SECONDS) == 0, self.log_tail()
        eventually(lambda: not self.left(), STOP_SECONDS)

    def left(self) -> set[int]:
        """Processes of this server that still live, though it does not."""
        return {pid for pid in self._seen if alive(pid)}

    def kill_what_is_left(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._seen |= self.family()
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def family(self) -> set[int]:
        """The server's process and all that descend from it."""
        found, pids = set(), [self.pid]
        while pids:
            pid = pids.pop()
            found.add(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                pids += map(int, children.read_text().split())
        return found

    def generator_pid(self) -> int | None:
        """The child process of the first of the generators that are the default, while there is
        one."""
        for pid in self.family():
            if f"generator.worker\0{Settings().generators[0]}\0" in _command(pid):
                return pid
        return None

    def continue_generator(self) -> None:
        if (pid := self.generator_pid()) is not None:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def generator_stopped(self) -> Iterator[int]:
        """The generator holds still inside the block: what is uploaded now stays in work."""
        pid = eventually(self.generator_pid)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pid
        finally:
            if alive(pid):
                os.kill(pid, signal.SIGCONT)

    def files(self) -> set[str]:
        """What is kept of documents and adapters, and what is being written."""
        blobs = self.data / "blobs"
        return {str(path.relative_to(blobs)) for path in blobs.rglob("*") if path.is_file()}

    def log_tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
