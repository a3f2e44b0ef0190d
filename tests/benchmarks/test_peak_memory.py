import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MEASURED = """
import torch
from tests.benchmarks.peak_memory import give_back_what_is_freed, peak_bytes

def work():
    for _ in range(5):
        first = torch.ones(30_000_000 // 4)
        second = first + 1
        del first, second

give_back_what_is_freed()
work()
for size in (90_000_000, 60_000_000, 0):
    held = torch.ones(size // 4)
    print(peak_bytes(torch.device("cpu"), work))
    del held
"""


def test_the_peak_is_what_the_work_held_at_once_and_not_what_came_before() -> None:
    ran = subprocess.run(
        [sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peaks = [int(line) for line in ran.stdout.split()]
    assert len(peaks) == 3
    assert all(58_000_000 < peak < 65_000_000 for peak in peaks)
