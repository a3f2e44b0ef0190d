"""Documents to LoRA weights at the published shapes, against the floor of counted operations.

    python -m tests.benchmarks.bench_generator [--bases gemma-2-2b] [--tokens 256 2048] [--layers 4]

Builds generators with random weights (nothing is downloaded) and internalises random documents with
the features of all base layers at once and layer by layer. Prints seconds (median of rounds), peak
memory above the weights at rest, operations counted from the shapes, the best matrix throughput
measured between the rounds, the floor that follows from the two, and time as a ratio to it; for
gemma-2-2b in full on a GPU also ratios to the published figures (arXiv 2602.15902, on an H200-class
GPU).

Needs what generator/ needs (torch, transformers, safetensors, pydantic), not the engine. On a
GPU everything runs in full, in bfloat16 with a float32 head; on a CPU few layers and short
documents, in float32 and one thread, whose own seconds are counted: what else runs is not.
"""

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional

from generator.document import DocumentGenerator, Mode
from generator.placement import placed
from tests.benchmarks.operations import Operations, operations
from tests.benchmarks.peak_memory import give_back_what_is_freed, peak_bytes
from tests.benchmarks.published_shapes import (
    BASES,
    BLOCKS,
    CHUNK,
    RandomGenerator,
    hypernetwork_config,
    parameters,
)

MODES: tuple[Mode, ...] = ("batched", "iterative")
TOKENS = {"cuda": (256, 2048, 8192, 32768), "cpu": (64, 256)}
LAYERS_ON_CPU = 3
MATRIX_ROWS = {"cuda": 8192, "cpu": 512}
PRODUCTS = {"cuda": 20, "cpu": 1}  # between two looks at the clock
LONG_ENOUGH = 0.3
# gemma-2-2b: a short document; documents of up to 32K tokens, most of them shorter (the floor of
# 32768 tokens is 240 TFLOP, for which an H200 takes longer than 0.209 s); memory of an update
SHORT, LONG = 256, 32768
PUBLISHED_SECONDS: dict[tuple[Mode, int], float] = {
    ("batched", SHORT): 0.086,
    ("batched", LONG): 0.209,
    ("iterative", LONG): 0.551,
}
PUBLISHED_GB: dict[tuple[Mode, int], float] = {("iterative", LONG): 3.8}


@dataclass(frozen=True, slots=True)
class Case:
    """One document in one mode, measured."""

    base: str
    mode: Mode
    tokens: int
    chunks: int
    seconds: float
    peak_bytes: int
    operations: Operations
    throughput: float  # operations a second in the generator's precision
    float32_throughput: float

    @property
    def floor(self) -> float:
        return (
            self.operations.reading / self.throughput
            + self.operations.writing / self.float32_throughput
        )


class Matrices:
    """The feature projection's product, the largest there is, to measure throughput with."""

    def __init__(self, features: int, device: torch.device) -> None:
        rows, hidden = MATRIX_ROWS[device.type], 4 * features
        self._operations = 2 * rows * features * hidden
        self._device = device
        self._x = torch.randn(rows, features, device=device)
        self._weight = torch.randn(hidden, features, device=device)

    def throughput(self, dtype: torch.dtype) -> float:
        """Operations a second, over at least LONG_ENOUGH seconds."""
        x, weight = self._x.to(dtype), self._weight.to(dtype)

        def work() -> None:
            for _ in range(PRODUCTS[self._device.type]):
                functional.linear(x, weight)
            _wait(self._device)

        _wait(self._device)
        times = [seconds(self._device, work)]
        while sum(times) < LONG_ENOUGH:
            times.append(seconds(self._device, work))
        return self._operations * PRODUCTS[self._device.type] * len(times) / sum(times)


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    """By the clock, or of the one thread that computes on a CPU."""
    now = time.perf_counter if device.type == "cuda" else time.process_time
    began = now()
    work()
    return now() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def warm_up(made: RandomGenerator) -> None:
    """Libraries are loaded, and part of the memory at rest."""
    list(made.in_mode("batched").internalise([made.chunks(1)]))


def measure(
    base: str,
    made: RandomGenerator,
    mode: Mode,
    tokens: int,
    rounds: int,
    matrices: Matrices,
) -> Case:
    """Rounds alternate with the matrix products, so both meet the machine in the same states."""
    generator: DocumentGenerator = made.in_mode(mode)
    chunks = made.chunks(tokens)
    config = generator.config.hypernetwork

    def internalise() -> None:
        list(generator.internalise([chunks]))

    peak = peak_bytes(generator.device, internalise)  # and its kernels are there
    taken, throughputs, in_float32 = [], [], []
    for _ in range(rounds):
        throughputs.append(matrices.throughput(made.dtype))
        in_float32.append(
            throughputs[-1] if made.dtype == torch.float32 else matrices.throughput(torch.float32)
        )
        taken.append(seconds(generator.device, internalise))
    return Case(
        base=base,
        mode=mode,
        tokens=tokens,
        chunks=len(chunks),
        seconds=statistics.median(taken),
        peak_bytes=peak,
        operations=operations(made.config, config, [len(chunk) for chunk in chunks]),
        throughput=max(throughputs),
        float32_throughput=max(in_float32),
    )


HEAD = (
    f"{'base':<11}{'mode':<10}{'tokens':>7}{'chunks':>7}{'seconds':>9}{'peak GB':>9}"
    f"{'TFLOP':>9}{'TFLOP/s':>9}{'floor s':>9}{'ratio':>7}"
)


def line(case: Case, published: bool) -> str:
    text = (
        f"{case.base:<11}{case.mode:<10}{case.tokens:>7}{case.chunks:>7}{case.seconds:>9.3f}"
        f"{case.peak_bytes / 1e9:>9.2f}{case.operations.total / 1e12:>9.3f}"
        f"{case.throughput / 1e12:>9.3f}{case.floor:>9.3f}{case.seconds / case.floor:>7.2f}"
    )
    key = case.mode, case.tokens
    if published and key in PUBLISHED_SECONDS:
        time_then = PUBLISHED_SECONDS[key]
        text += f"   {case.seconds / time_then:.2f} of the published {time_then} s"
        if key in PUBLISHED_GB:
            text += f", {case.peak_bytes / 1e9 / PUBLISHED_GB[key]:.2f} of {PUBLISHED_GB[key]} GB"
    return text


def describe(given: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
    print(f"{where}; torch {torch.__version__}; {str(dtype).removeprefix('torch.')}")
    for base in given.bases:
        config = BASES[base].config()
        whole = parameters(hypernetwork_config(config, given.blocks)) / 1e6
        layers = config.num_hidden_layers
        run = layers if given.layers is None else given.layers
        print(f"{base}: hypernetwork of {whole:.0f} M parameters in full; {run} of {layers} layers")
    if device.type == "cpu":
        print("a GPU would run all layers, and 256 to 32768 tokens unless told otherwise")
    print(f"chunks of at most {given.chunk_tokens} tokens; median of {given.rounds} rounds")


def main() -> None:
    given = arguments()
    device, dtype = placed(given.device, given.precision)
    if device.type == "cpu":
        give_back_what_is_freed()
        torch.set_num_threads(1)
        given.layers = given.layers or LAYERS_ON_CPU
    torch.manual_seed(0)
    describe(given, device, dtype)
    print(HEAD)
    for base in given.bases:
        made = RandomGenerator(
            BASES[base],
            layers=given.layers,
            blocks=given.blocks,
            chunk_tokens=given.chunk_tokens,
            device=device,
            dtype=dtype,
        )
        matrices = Matrices(made.config.hidden_size, device)
        warm_up(made)
        for tokens in given.tokens or TOKENS[device.type]:
            for mode in given.modes:
                case = measure(base, made, mode, tokens, given.rounds, matrices)
                full = base == "gemma-2-2b" and device.type == "cuda" and given.layers is None
                print(line(case, published=full), flush=True)
        del made, matrices
        gc.collect()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--bases", nargs="+", choices=BASES, default=list(BASES))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--tokens", nargs="+", type=int, help="default: 64 256 on a CPU")
    parser.add_argument("--layers", type=int, help="of the base; default: all, on a CPU 3")
    parser.add_argument("--blocks", type=int, default=BLOCKS, help="of the aggregator")
    parser.add_argument("--chunk-tokens", type=int, default=CHUNK)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto", choices=("auto", "float32", "bfloat16"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
