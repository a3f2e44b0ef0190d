"""Documents to LoRA weights one by one against batched.

    python -m tests.benchmarks.bench_generation [--documents 32] [--rounds 5] [--generator FOLDER]

Documents of one chunk each, in this process: each as a micro-batch of its own, and as the generator
process batches waiting documents. Prints milliseconds a document and their ratio; rounds alternate.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from generator.chunks import Chunk, Chunker
from generator.document import DocumentGenerator
from generator.microbatch import MicroBatches
from server.settings import EMBEDDED, Settings
from tests.benchmarks import traffic

FACTS = 3


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def measure(folder: Path, count: int, rounds: int, max_batch_tokens: int) -> None:
    generator, chunker = DocumentGenerator.load(folder), Chunker.from_folder(folder)
    chunks: list[Chunk] = []
    seed = 0
    while len(chunks) < count:
        split = chunker.split(traffic.document(FACTS, seed))
        seed += 1
        if len(split) == 1:
            chunks += split

    def one_by_one() -> None:
        for chunk in chunks:
            generator.combine(generator.generate([chunk]))

    def batched() -> None:
        waiting = MicroBatches[int](max_batch_tokens, generator.padded_tokens)
        for number, chunk in enumerate(chunks):
            waiting.add(number, [chunk])
        while waiting:
            for weights in generator.generate([chunk for _, chunk in waiting.next()]):
                generator.combine([weights])

    one_by_one()
    batched()  # both have their kernels now
    pairs = [(seconds(one_by_one), seconds(batched)) for _ in range(rounds)]
    alone, together = (statistics.median(taken) for taken in zip(*pairs, strict=True))
    print(f"{count} documents of one chunk, median of {rounds} rounds")
    print(f"one by one  {alone / count * 1000:7.2f} ms a document")
    print(f"batched     {together / count * 1000:7.2f} ms a document")
    print(f"batched is {alone / together:.2f} times as fast")


def main() -> None:
    settings = Settings()
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--generator", type=Path, default=EMBEDDED / "doc")
    given = parser.parse_args()
    measure(given.generator, given.documents, given.rounds, settings.max_batch_tokens)


if __name__ == "__main__":
    main()
