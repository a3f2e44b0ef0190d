"""Chat with an adapter: against the document in the prompt, and against bare vLLM.

    python -m tests.benchmarks.bench_chat [--rounds 5] [--requests 64] [--callers 8]

Runs three servers side by side in equal settings: `doclora serve`, and `vllm serve` with the same
adapters as static ones, once with doclora's grouped LoRA operations and once with vLLM's own. All
requests stream 32 tokens. The servers take turns in every round, so the machine's other load falls
on all alike; ratios compare what was measured in this run.
"""

import argparse
import asyncio
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import httpx

from adapters_store.blobs import WEIGHTS
from generator.config import read_doc_config
from server.engine_config import EngineConfig
from server.settings import EMBEDDED, Settings
from tests.benchmarks import traffic
from tests.benchmarks.processes import bare_vllm, doclora
from tests.benchmarks.traffic import Asked, Load

ADAPTERS = 16
KV_CACHE_GIB = 0.25
LENGTHS = {"1 chunk": 4, "3 chunks": 14}  # of a document, and its facts
SERVERS = ("doclora", "vllm serve, grouped operations", "vllm serve, its own operations")


async def against_the_prompt(url: str, base: str, rounds: int) -> None:
    """The same questions, the document in the adapter or in the prompt."""
    print("\nThe document in the prompt against the document in the adapter, one caller")
    print(f"{'document':<12}{'':<12}{'prompt tokens':>14}{'first token ms':>16}{'tokens/s':>10}")
    for length, facts in LENGTHS.items():
        text = traffic.document(facts, seed=facts)
        with httpx.Client(base_url=url, timeout=300) as client:
            adapter = traffic.upload(client, text)["id"]
        asked: dict[str, list[Asked]] = {"in prompt": [], "in adapter": []}
        for number in range(rounds + 1):
            questions = traffic.questions(8, seed=number)
            # every document is read afresh, as it is by its first question
            pages = [f"{number} {i}\n{text}\n\n{q}" for i, q in enumerate(questions)]
            prompted = await traffic.one_by_one(url, base, pages)
            adapted = await traffic.one_by_one(url, adapter, questions)
            if number:  # the first warms up
                asked["in prompt"] += prompted
                asked["in adapter"] += adapted
        rows = {}
        for where, found in asked.items():
            tokens = statistics.median(one.prompt_tokens for one in found)
            first = statistics.median(one.first for one in found)
            rate = (traffic.ANSWER_TOKENS - 1) / statistics.median(
                one.last - one.first for one in found
            )
            rows[where] = (tokens, first, rate)
            print(f"{length:<12}{where:<12}{tokens:14.0f}{first * 1000:16.1f}{rate:10.0f}")
        ratios = [a / b for a, b in zip(rows["in adapter"], rows["in prompt"], strict=True)]
        print(f"{length:<12}{'ratio':<12}{ratios[0]:14.2f}{ratios[1]:16.2f}{ratios[2]:10.2f}")


async def side_by_side(
    urls: dict[str, str], models: dict[str, Sequence[str]], given: argparse.Namespace
) -> None:
    """Throughput of every server with no, one, four and sixteen adapters in the traffic."""
    loads: dict[tuple[str, str], list[Load]] = {}
    for number in range(given.rounds + 1):
        texts = traffic.questions(given.requests, seed=100 + number)
        for sort, names in models.items():
            for server, url in urls.items():
                load = await traffic.at_once(url, names, texts, given.callers)
                if number:
                    loads.setdefault((sort, server), []).append(load)
    found = {
        key: Load(
            statistics.median(one.tokens_per_second for one in runs),
            statistics.median(one.first for one in runs),
        )
        for key, runs in loads.items()
    }
    print(f"\n{given.requests} questions, {given.callers} callers, median of {given.rounds} rounds")
    print(f"{'traffic':<16}{'server':<34}{'tokens/s':>9}{'of base':>9}{'first token ms':>16}")
    for (sort, server), load in found.items():
        of_base = load.tokens_per_second / found["base only", server].tokens_per_second
        print(
            f"{sort:<16}{server:<34}{load.tokens_per_second:9.0f}{of_base:9.2f}"
            f"{load.first * 1000:16.1f}"
        )
    print("\ndoclora against vllm serve with the same operations")
    for sort in models:
        ours, theirs = found[sort, SERVERS[0]], found[sort, SERVERS[1]]
        print(
            f"{sort:<16}throughput {ours.tokens_per_second / theirs.tokens_per_second:5.2f}"
            f"   first token {ours.first / theirs.first:5.2f}"
        )


async def measure(given: argparse.Namespace, data: Path) -> None:
    generator = read_doc_config(EMBEDDED / "doc")
    config = EngineConfig(
        model=generator.base_path,
        served_name="base",
        max_rank=generator.max_rank,
        target_modules=tuple(generator.hypernetwork.modules),
        max_loras=ADAPTERS,
        max_resident=Settings().max_resident,
        kv_cache_gib=KV_CACHE_GIB,
    )
    flags = ("--max-loras", str(ADAPTERS), "--kv-cache-gib", str(KV_CACHE_GIB))
    with ExitStack() as stack:
        ours = stack.enter_context(doclora(data, "--served-name", "base", *flags))
        with httpx.Client(base_url=ours, timeout=300) as client:
            uploaded = [
                traffic.upload(client, traffic.document(4, seed)) for seed in range(ADAPTERS)
            ]
        folders = {one["id"]: data / "blobs" / WEIGHTS / one["sha256"] for one in uploaded}
        urls = {SERVERS[0]: ours}
        for name, stock in ((SERVERS[1], False), (SERVERS[2], True)):
            urls[name] = stack.enter_context(bare_vllm(config, folders, stock=stock))
        await against_the_prompt(ours, "base", given.rounds)
        models: dict[str, Sequence[str]] = {"base only": ["base"]}
        for count in (1, 4, ADAPTERS):
            models[f"{count} adapter{'s'[: count > 1]}"] = list(folders)[:count]
        await side_by_side(urls, models, given)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--callers", type=int, default=8)
    with tempfile.TemporaryDirectory() as data:
        asyncio.run(measure(parser.parse_args(), Path(data)))


if __name__ == "__main__":
    main()
