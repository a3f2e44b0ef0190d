"""vLLM plug-in: the engine ends with the server that started it.

vLLM's engine process does not notice that its server was killed and would run on for ever, with all
its memory. (Its own workers notice when the engine process is gone.)
"""

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import wait


def register() -> None:
    """In a process that vLLM has started: end it when the process that started it ends.

    vLLM calls this through the entry point group `vllm.general_plugins`.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(
            target=_end_after, args=(parent.sentinel,), name="lifeline", daemon=True
        ).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os.kill(os.getpid(), signal.SIGKILL)
