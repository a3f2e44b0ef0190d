"""A process tree as vLLM builds it: a server, and a child that it has spawned."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.processes import alive

SERVER = """
import multiprocessing, time
from server import lifeline

def child():
    lifeline.register()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(600)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=child).start()
    time.sleep(600)
"""


def test_a_killed_server_leaves_no_engine_process(tmp_path: Path) -> None:
    script = tmp_path / "serve.py"
    script.write_text(SERVER)
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    server = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": paths}
    )
    assert server.stdout is not None
    child = int(server.stdout.readline())
    assert alive(child)
    server.send_signal(signal.SIGKILL)
    server.wait()
    for _ in range(1000):
        if not alive(child):
            return
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("the child outlived its server")
