"""The fork server without vLLM, whose import takes seconds: the engine's tests start it with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from server.engine_config import is_cpu_build

SERVER = """
import multiprocessing, os, sys
from server import prefork
from server.engine_config import EngineConfig

def engine(pipe):
    seen = ("OMP_WAIT_POLICY", "LD_PRELOAD", "VLLM_WORKER_MULTIPROC_METHOD")
    pipe.send(["server.residency" in sys.modules, *map(os.environ.get, seen)])

if __name__ == "__main__":
    prefork.PRELOADED[:] = ["server.residency"]
    before = dict(os.environ)
    prefork.start(EngineConfig("m", "m", 8, ("down_proj",), cpus=sys.argv[1] or None))
    assert dict(os.environ) == before
    if prefork.started():
        ours, theirs = multiprocessing.Pipe()
        multiprocessing.get_context("forkserver").Process(target=engine, args=(theirs,)).start()
        print(*ours.recv())
"""


def started(folder: Path, cpus: str) -> list[str]:
    script = folder / "serve.py"
    script.write_text(SERVER)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    command = [sys.executable, script, cpus]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=200, env=environment
    )
    return done.stdout.split()


@pytest.mark.skipif(not is_cpu_build(), reason="vLLM's build for GPUs")
def test_an_engine_is_forked_with_its_imports_done_and_its_own_environment(tmp_path: Path) -> None:
    imported, policy, preload, method = started(tmp_path, cpus="")
    assert imported == "True"
    assert policy == "PASSIVE"
    assert "libgomp" in preload
    assert method == "fork"


def test_nothing_is_forked_where_threads_are_bound_to_cores(tmp_path: Path) -> None:
    assert started(tmp_path, cpus="0-1") == []
