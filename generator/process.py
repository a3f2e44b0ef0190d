"""The generator in a process of its own, and its asyncio client.

A forward pass would hold up the event loop of a server, and a crash or an out-of-memory kill must
not take the server along. The child reads requests from its standard input and answers on its
standard output, one JSON object a line; it exits when its standard input ends, so it cannot
outlive its parent.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

MAX_ANSWER_BYTES = 2**20
STOP_SECONDS = 5.0
CANCEL_SECONDS = 30.0  # more than a micro-batch takes
BACKOFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
HEALTHY_SECONDS = 60.0  # a child that lived this long did not die of its start


class GeneratorError(Exception):
    """Base of what can go wrong between the generator process and its client."""


class GeneratorUnusable(GeneratorError):
    """The child could not load the generator; the message is the child's own."""


class GeneratorDied(GeneratorError):
    """The child ended while the document was waiting or in work."""


class GenerationRefused(GeneratorError):
    """The child is well, but this document yields no usable adapter. `code` says why. The message
    is for callers; what would tell them about this machine is a note, and logged."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Generated:
    """What a finished generation measured; the weights lie in the folder it was given."""

    rank: int
    chunks: int
    tokens: int
    seconds: float  # from the request's arrival in the child to the weights on disk
    norm: float  # largest Frobenius norm of a layer's delta


@dataclass(slots=True)
class _Request:
    answer: asyncio.Future[Generated]
    progress: Progress | None


@dataclass(slots=True)
class _Child:
    process: asyncio.subprocess.Process
    began: float
    requests: dict[int, _Request] = field(default_factory=dict)
    sending: asyncio.Lock = field(default_factory=asyncio.Lock)
    fate: str | None = None  # how it ended, in words

    async def send(self, message: dict[str, Any]) -> None:
        """Hand a request to the child. A child that has just died is noticed by its reader."""
        assert self.process.stdin is not None
        async with self.sending:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.process.stdin.write(json.dumps(message).encode() + b"\n")
                await self.process.stdin.drain()

    async def receive(self) -> dict[str, Any] | None:
        """The child's next message, None when it has ended."""
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def deliver(self, message: dict[str, Any]) -> None:
        request = self.requests.get(message["job"])
        if request is None or request.answer.done():
            return
        match message["event"]:
            case "progress":
                if request.progress is not None:
                    request.progress(message["done"], message["total"])
            case "done":
                request.answer.set_result(Generated(**message["generated"]))
            case "refused":
                error = GenerationRefused(message["code"], message["message"])
                if details := message["details"]:
                    error.add_note(details)
                    log.error("a document was refused", exc_info=error)
                request.answer.set_exception(error)
            case "cancelled":
                request.answer.cancel()

    async def end(self) -> str:
        """Wait for the process's end; how it ended, in words."""
        code = await self.process.wait()
        if code >= 0:
            return f"the generator process exited with status {code}"
        hint = " (out of memory?)" if code == -signal.SIGKILL else ""
        return f"the generator process was killed by {signal.Signals(-code).name}{hint}"

    def fail_all(self, reason: str) -> None:
        self.fate = reason
        for request in self.requests.values():
            if not request.answer.done():
                request.answer.set_exception(GeneratorDied(reason))


class GeneratorProcess:
    """One generator, loaded in a child process that is restarted when it dies.

    All calls belong to the event loop that called `start`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        device: str = "auto",
        mode: Literal["batched", "iterative"] = "batched",
        base_name: str | None = None,
        max_batch_tokens: int = 4096,
        max_norm: float = 1000.0,
    ) -> None:
        """`mode` is DocumentGenerator's; `base_name` is written into the adapters as their base
        model (default: where it lies); `max_norm` is the largest Frobenius norm of a layer's delta,
        for each chunk of the document: the chunks' deltas add up."""
        self._folder = folder
        self._command = [
            *(sys.executable, "-P", "-m", "generator.worker", str(folder)),
            *("--device", device, "--mode", mode),
            *(("--base-name", base_name) if base_name else ()),
            *("--max-batch-tokens", str(max_batch_tokens)),
            *("--max-norm", str(max_norm)),
        ]
        self._numbers = itertools.count(1)
        self._child: asyncio.Future[_Child] | None = None  # unresolved while there is none
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def ready(self) -> bool:
        """Whether a child is up and has loaded the generator."""
        child = self._child
        return child is not None and child.done() and not child.exception()

    @property
    def pid(self) -> int | None:
        """The child's process ID while one is up."""
        return self._child.result().process.pid if self._child and self.ready else None

    async def start(self) -> None:
        """Start the child and wait until it has loaded. Raises GeneratorUnusable."""
        child = await self._launch()
        self._child = asyncio.get_running_loop().create_future()
        self._child.set_result(child)
        self._supervisor = asyncio.create_task(self._supervise(child))

    async def stop(self) -> None:
        """End the child. What is still waiting raises GeneratorDied."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
            self._supervisor = None
            self._child = None

    async def generate(
        self, chunks: Sequence[Sequence[int]], out: Path, progress: Progress | None = None
    ) -> Generated:
        """Turn a document's chunks of token IDs into a PEFT adapter in the folder `out`.

        Waits for a child that is being restarted. `progress` is called with (done, all) chunks.
        Once this has returned or raised, nothing writes to `out` any more: a cancelled call tells
        the child and waits until it lets go. Raises GeneratorDied, GenerationRefused.
        """
        if self._child is None:
            raise GeneratorDied("the generator process is not running")
        child = await asyncio.shield(self._child)
        if child.fate is not None:
            raise GeneratorDied(child.fate)
        number = next(self._numbers)
        answer: asyncio.Future[Generated] = asyncio.get_running_loop().create_future()
        child.requests[number] = _Request(answer, progress)
        try:
            await child.send({"op": "generate", "job": number, "chunks": chunks, "out": str(out)})
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            await child.send({"op": "cancel", "job": number})
            await asyncio.wait([answer], timeout=CANCEL_SECONDS)
            if not answer.done():  # it hangs; its end is the only way to be sure of `out`
                child.process.kill()
                await asyncio.wait([answer])
            raise
        finally:
            del child.requests[number]

    async def _launch(self) -> _Child:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_ANSWER_BYTES,
        )
        child = _Child(process, time.monotonic())
        try:
            message = await child.receive()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if message is not None and message["event"] == "ready":
            return child
        reason = await child.end()
        raise GeneratorUnusable(message["message"] if message is not None else reason)

    async def _supervise(self, child: _Child) -> None:
        failures = 0
        while True:
            try:
                while (message := await child.receive()) is not None:
                    child.deliver(message)
                self._child = asyncio.get_running_loop().create_future()
                reason = await child.end()
            except asyncio.CancelledError:
                await self._end(child)
                raise
            child.fail_all(reason)
            failures = 0 if time.monotonic() - child.began > HEALTHY_SECONDS else failures + 1
            log.error("%s: %s; starting it again", self._folder, reason)
            child = await self._relaunch(failures)

    async def _relaunch(self, failures: int) -> _Child:
        while True:
            assert self._child is not None
            try:
                await asyncio.sleep(BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS) - 1)])
                child = await self._launch()
            except asyncio.CancelledError:
                self._abandon("the generator process was stopped")
                raise
            except (GeneratorUnusable, OSError) as error:
                log.error("%s: the generator process did not start again: %s", self._folder, error)
                self._abandon("the generator process died and did not start again")
                failures += 1
                self._child = asyncio.get_running_loop().create_future()
            else:
                self.restarts += 1
                self._child.set_result(child)
                return child

    def _abandon(self, reason: str) -> None:
        """Fail the calls that wait for a child."""
        assert self._child is not None
        self._child.set_exception(GeneratorDied(reason))
        self._child.exception()  # there may be nobody waiting, which asyncio would report

    async def _end(self, child: _Child) -> None:
        """Close the child's input, which ends it; nothing writes to a folder afterwards."""
        assert child.process.stdin is not None
        child.process.stdin.close()
        try:
            await asyncio.wait_for(child.process.wait(), STOP_SECONDS)
        except TimeoutError:
            child.process.kill()
            await child.process.wait()
        child.fail_all("the generator process was stopped")
        if not self.ready:
            self._abandon("the generator process was stopped")
