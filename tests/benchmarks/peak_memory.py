"""How much more memory a piece of work holds at its peak than the process held before it."""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_THE_PEAK = "5"  # what clear_refs takes to start VmHWM anew
M_MMAP_THRESHOLD = -3  # of mallopt
MIB = 2**20


def give_back_what_is_freed() -> None:
    """For a process that measures on a CPU, before it does anything else: memory from 1 MiB on goes
    back to the system at once. glibc keeps more and more of it otherwise, and then the peak depends
    on all earlier work."""
    ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MIB)


def peak_bytes(device: torch.device, work: Callable[[], object]) -> int:
    """On a GPU what torch allocated there; on a CPU (Linux) the process's resident memory, which
    libraries become part of when they are first used: do the like of ``work`` before."""
    return _on_gpu(device, work) if device.type == "cuda" else _resident(work)


def _on_gpu(device: torch.device, work: Callable[[], object]) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _resident(work: Callable[[], object]) -> int:
    ctypes.CDLL(None).malloc_trim(0)
    CLEAR.write_text(FORGET_THE_PEAK)
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    kibibytes = next(line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kibibytes) * 1024
