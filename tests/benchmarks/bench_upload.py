"""From a document's upload until its adapter answers, by length and stage.

    python -m tests.benchmarks.bench_upload [--rounds 5]

Starts `doclora serve` with the embedded model and uploads fresh documents of growing length, one
after the other. Prints median milliseconds of each stage as the server reports them, the whole
upload as the caller sees it, and that as a ratio to the shortest documents' in the same run.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import httpx

from tests.benchmarks import traffic
from tests.benchmarks.processes import doclora

FACTS = (3, 12, 48, 140)


def upload(client: httpx.Client, text: str) -> dict[str, float]:
    """Chunks, and milliseconds of the stages and of the whole."""
    began = time.perf_counter()
    adapter = traffic.upload(client, text)
    whole = (time.perf_counter() - began) * 1000
    return {"chunks": adapter["chunks"], **adapter["timings_ms"], "whole": whole}


def measure(client: httpx.Client, rounds: int) -> None:
    for facts in FACTS:
        upload(client, traffic.document(facts, seed=facts))
    taken: dict[int, list[dict[str, float]]] = {facts: [] for facts in FACTS}
    for number in range(rounds):
        for facts in FACTS:
            text = traffic.document(facts, seed=1000 * (number + 1) + facts)
            taken[facts].append(upload(client, text))
    stages = [name for name in taken[FACTS[0]][0] if name != "chunks"]
    print(f"milliseconds, median of {rounds}")
    print(f"{'chunks':>8}" + "".join(f"{stage:>11}" for stage in stages) + f"{'ratio':>8}")
    shortest = statistics.median(one["whole"] for one in taken[FACTS[0]])
    for found in taken.values():
        middle = {name: statistics.median(one[name] for one in found) for name in found[0]}
        figures = "".join(f"{middle[stage]:11.1f}" for stage in stages)
        print(f"{middle['chunks']:8.0f}{figures}{middle['whole'] / shortest:8.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as data,
        doclora(Path(data)) as url,
        httpx.Client(base_url=url, timeout=300) as client,
    ):
        measure(client, given.rounds)


if __name__ == "__main__":
    main()
