"""The child process that holds one generator: see process.py for its other end.

Requests come on standard input, answers go to standard output, one JSON object a line. Anything
that a library prints goes to standard error instead. The process exits when its input ends.
"""

import argparse
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, get_args

from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from generator.document import Mode
from generator.loading import Generator, load_generator
from generator.lora import LoraWeights, NonFiniteWeights, WeightsTooLarge
from generator.microbatch import MicroBatches
from generator.padding import Chunk, InvalidChunk
from generator.process import Generated

Message = dict[str, Any]

WARM_UP_TOKENS = 64  # run once before the first document, which would take ten times as long


@dataclass(slots=True, eq=False)
class _Document:
    """A document in work."""

    job: int
    out: Path
    chunks: int
    tokens: int
    began: float
    made: list[LoraWeights] = field(default_factory=list)


class Worker:
    """Makes adapters of the documents in its inbox, step by step."""

    def __init__(
        self,
        generator: Generator,
        inbox: "queue.SimpleQueue[Message]",
        answers: BinaryIO,
        *,
        base_name: str,
        max_batch_tokens: int,
        max_norm: float,
    ) -> None:
        self._generator = generator
        self._inbox = inbox
        self._answers = answers
        self._base_name = base_name
        self._max_norm = max_norm
        self._waiting = MicroBatches[_Document](max_batch_tokens, generator.padded_tokens)

    def step(self) -> None:
        """Take the requests that have come, waiting for one if there is nothing to do, and run a
        micro-batch."""
        while not self._waiting or not self._inbox.empty():
            self._take(self._inbox.get())
        self._advance(self._waiting.next())

    def _take(self, request: Message) -> None:
        job = request["job"]
        if request["op"] == "cancel":
            self._waiting.drop(lambda document: document.job == job)
            self._answer(event="cancelled", job=job)  # ignored for a job that is done
            return
        chunks = request["chunks"]
        tokens = sum(map(len, chunks))
        document = _Document(job, Path(request["out"]), len(chunks), tokens, time.monotonic())
        self._waiting.add(document, chunks)

    def _advance(self, batch: Sequence[tuple[_Document, Chunk]]) -> None:
        """Run a micro-batch and finish the documents whose last chunk was in it."""
        try:
            weights = self._generator.generate([chunk for _, chunk in batch])
        except Exception as error:
            self._blame(batch, error)
            return
        for (document, _), lora in zip(batch, weights, strict=True):
            document.made.append(lora)
        for document in dict.fromkeys(document for document, _ in batch):
            done = len(document.made)
            self._answer(event="progress", job=document.job, done=done, total=document.chunks)
            if done == document.chunks:
                self._finish(document)

    def _blame(self, batch: Sequence[tuple[_Document, Chunk]], error: Exception) -> None:
        """A batch failed: run its documents one by one, so that only the one at fault fails."""
        documents = dict.fromkeys(document for document, _ in batch)
        if len(documents) > 1:
            for document in documents:
                self._advance([(owner, chunk) for owner, chunk in batch if owner is document])
            return
        (document,) = documents
        if isinstance(error, InvalidChunk):
            self._refuse(document, "generation_failed", str(error))
        else:
            self._refuse_for_a_defect(document, error)

    def _finish(self, document: _Document) -> None:
        try:
            lora = self._generator.combine(document.made)
            lora.check(self._max_norm * document.chunks)
            lora.save(document.out, self._base_name)
        except NonFiniteWeights as error:
            self._refuse(document, "weights_not_finite", str(error))
        except WeightsTooLarge as error:
            self._refuse(document, "weights_too_large", str(error))
        except (OSError, SafetensorError) as error:  # the disk is full, or gone
            self._refuse(document, "storage_failed", "its weights could not be stored", str(error))
        except Exception as error:
            self._refuse_for_a_defect(document, error)
        else:
            generated = Generated(
                rank=lora.rank,
                chunks=document.chunks,
                tokens=document.tokens,
                seconds=time.monotonic() - document.began,
                norm=lora.norm,
            )
            self._answer(event="done", job=document.job, generated=asdict(generated))

    def _refuse_for_a_defect(self, document: _Document, error: Exception) -> None:
        details = "".join(traceback.format_exception(error))
        message = "the generator failed on it; the log says why"
        self._refuse(document, "generation_failed", message, details)

    def _refuse(self, document: _Document, code: str, message: str, details: str = "") -> None:
        """`message` is for the caller, `details` are for the log."""
        self._waiting.drop(lambda other: other is document)
        refusal = {"code": code, "message": message, "details": details}
        self._answer(event="refused", job=document.job, **refusal)

    def _answer(self, **message: Any) -> None:
        _send(self._answers, message)


def main() -> None:
    options = _options()
    answers = _take_standard_output()
    disable_progress_bar()  # of loading the model: noise in a log
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends our input
    inbox: queue.SimpleQueue[Message] = queue.SimpleQueue()
    threading.Thread(target=_read_requests, args=(inbox,), daemon=True).start()
    try:
        generator = _load(options)
        generator.generate([[0] * min(WARM_UP_TOKENS, generator.config.max_padded_chunk)])
    except Exception as error:
        _send(answers, {"event": "broken", "message": f"{type(error).__name__}: {error}"})
        raise SystemExit(1) from error
    _send(answers, {"event": "ready"})
    worker = Worker(
        generator,
        inbox,
        answers,
        base_name=options.base_name or generator.config.base_path,
        max_batch_tokens=options.max_batch_tokens,
        max_norm=options.max_norm,
    )
    while True:
        worker.step()


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--mode", choices=get_args(Mode), required=True)
    parser.add_argument("--base-name")
    parser.add_argument("--max-batch-tokens", type=int, required=True)
    parser.add_argument("--max-norm", type=float, required=True)
    return parser.parse_args(arguments)


def _load(options: argparse.Namespace) -> Generator:
    return load_generator(options.folder, device=options.device, mode=options.mode)


def _take_standard_output() -> BinaryIO:
    """Keep the pipe to the parent for answers; prints go to standard error from now on."""
    private = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return os.fdopen(private, "wb")


def _read_requests(inbox: "queue.SimpleQueue[Message]") -> None:
    for line in sys.stdin.buffer:
        inbox.put(json.loads(line))
    os._exit(0)  # the parent is gone or has closed our input: whatever runs is of no use


def _send(answers: BinaryIO, message: Message) -> None:
    answers.write(json.dumps(message).encode() + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
