"""A process that imports vLLM ahead of time, for vLLM's own processes to be forked from.

vLLM on a CPU is two processes beside the server: the engine and its worker. They are spawned one
after the other, and each imports vLLM, as the server did before them: three times ten seconds. Here
a fork server of `multiprocessing` imports it once, while the server itself does. Forks need no time
and share its memory.
"""

import multiprocessing.forkserver
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from server.engine_config import EngineConfig, is_cpu_build

PRELOADED = [
    "server.cli",
    "server.cpu_attention",
    "server.cpu_lora",
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "server.forkserver_ready",
]
_started = False


def start(config: EngineConfig) -> None:
    """Start importing, in the background; call this before the server imports vLLM.

    Does nothing where vLLM has to spawn: on a GPU, and where it binds threads to cores, which
    OpenMP takes from the environment of a new process only.
    """
    global _started
    if config.cpus is not None or not is_cpu_build():
        return
    variables = {
        **config.environment(),
        "VLLM_WORKER_MULTIPROC_METHOD": "fork",  # of the worker, by the engine
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(len(os.sched_getaffinity(0)))),
        "LD_PRELOAD": _openmp(),
    }
    with _set(variables):
        multiprocessing.forkserver.set_forkserver_preload(PRELOADED)
        multiprocessing.forkserver.ensure_running()
    _started = True


def started() -> bool:
    """Whether this process can fork vLLM's engine."""
    return _started


def _openmp() -> str:
    """PyTorch's OpenMP library, loaded first: with the system's beside it there would be two sets
    of threads. (vLLM sets LD_PRELOAD so for the processes that it spawns.)"""
    torch = find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    package = Path(torch.origin).parent
    folders = (package / "lib", package.parent / "torch.libs")
    libraries = [str(file) for folder in folders for file in folder.glob("libgomp*.so*")]
    before = os.environ.get("LD_PRELOAD", "")
    return ":".join(filter(None, [before, *libraries[:1]]))


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Change the environment inside the block."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
