"""scripts/setup on machines that are not as they should be.

The script is the real one; Python's `-m venv` and uv are stand-ins that write down what they were
asked for, so that nothing is downloaded.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BASE = Path(sys.executable).resolve()  # the interpreter itself, not the venv
LOCK = "torch==2.13.0+cpu\nrich==15.0.0\n"

# a Python that makes a .venv of stand-ins and is the real one in everything else
PYTHON = """#!/bin/sh
case "$*" in
  "-m venv --clear .venv")
    echo venv >> calls
    rm -rf .venv && mkdir -p .venv/bin && cp {uv} .venv/bin/uv && cp "$0" .venv/bin/python ;;
  "-m pip install"*) echo "pip" >> calls ;;
  {broken}) exit 1 ;;
  *) exec {real} -S "$@" ;;
esac
"""
UV = """#!/bin/sh
echo "uv $*" >> calls
sleep 0.05
case "$*" in {failing}) exit 1 ;; esac
"""


class Checkout:
    """A folder with the script, a small lock and a Python of our own making."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        (folder / "requirements").mkdir()
        shutil.copy(ROOT / "scripts" / "setup", folder / "scripts" / "setup")
        (folder / "pyproject.toml").touch()
        (folder / "requirements" / "cpu-dev.txt").write_text(LOCK)
        (folder / "requirements" / "gpu.txt").write_text("torch==2.13.0\n")
        self.machine()

    def machine(self, broken: str = "nothing", failing: str = "nothing") -> None:
        """What Python refuses to do and which calls of uv fail, as patterns of the shell."""
        uv = self.folder / "uv"
        uv.write_text(UV.format(failing=failing))
        python = self.folder / "python"
        python.write_text(PYTHON.format(uv=uv, broken=broken, real=BASE))
        uv.chmod(0o755)
        python.chmod(0o755)

    def start(self, *arguments: str, python: str = "./python") -> subprocess.Popen[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_"))}
        return subprocess.Popen(
            ["scripts/setup", *arguments],
            cwd=self.folder,
            env=clean | {"PYTHON": python},
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str, python: str = "./python") -> tuple[int, str]:
        process = self.start(*arguments, python=python)
        _, said = process.communicate(timeout=20)
        return process.returncode, said

    def calls(self) -> list[str]:
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return lines


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_it_says_what_it_does_and_installs_torch_before_the_rest(checkout: Checkout) -> None:
    status, said = checkout.run()
    assert status == 0, said
    assert "making .venv with Python 3." in said
    assert "installing torch==2.13.0+cpu (about 200 MB)" in said
    assert "some minutes" in said
    venv, pip, torch, rest, ours = checkout.calls()
    assert (venv, pip) == ("venv", "pip")
    assert torch.endswith("--no-deps -q -q torch==2.13.0+cpu")
    assert rest.endswith("--no-deps -q -r requirements/cpu-dev.txt")
    assert ours.endswith("--no-deps -q -e .")


def test_a_second_run_does_nothing(checkout: Checkout) -> None:
    checkout.run()
    checkout.calls()
    assert checkout.run() == (0, "")
    assert checkout.calls() == []


def test_a_new_lock_is_installed_into_the_same_venv(checkout: Checkout) -> None:
    checkout.run()
    checkout.calls()
    (checkout.folder / "requirements" / "cpu-dev.txt").write_text(LOCK + "typer==0.29.2\n")
    _, said = checkout.run()
    assert "bringing .venv up to date" in said
    assert "venv" not in checkout.calls()


def test_an_interrupted_run_starts_afresh(checkout: Checkout) -> None:
    checkout.machine(failing='*"-r requirements"*')
    status, said = checkout.run()
    assert status != 0
    assert "run it again" in said
    checkout.calls()
    checkout.machine()
    status, _ = checkout.run()
    assert status == 0
    assert checkout.calls()[0] == "venv"


def test_two_runs_at_once_install_once(checkout: Checkout) -> None:
    first = checkout.start()
    while not (checkout.folder / "calls").exists():
        time.sleep(0.01)
    second = checkout.start()
    _, said = second.communicate(timeout=20)
    first.communicate(timeout=20)
    assert (first.returncode, second.returncode) == (0, 0)
    assert "another run is at work" in said
    assert checkout.calls().count("venv") == 1


def test_another_lock_gets_a_venv_of_its_own(checkout: Checkout) -> None:
    checkout.run()  # a CUDA torch would not replace a CPU one of the same version
    checkout.calls()
    checkout.run("gpu")
    assert checkout.calls()[0] == "venv"


def test_a_moved_checkout_gets_a_new_venv(checkout: Checkout, tmp_path: Path) -> None:
    checkout.run()
    checkout.calls()
    moved = tmp_path / "moved"
    moved.mkdir()
    for path in list(tmp_path.iterdir()):
        if path != moved:
            path.rename(moved / path.name)
    checkout.folder = moved
    checkout.machine()
    checkout.run()
    assert checkout.calls()[0] == "venv"


def test_torch_comes_from_pytorchs_index_where_nothing_else_has_its_cpu_build(
    checkout: Checkout,
) -> None:
    checkout.machine(failing='*"-q -q torch"*')
    status, _ = checkout.run()
    assert status == 0
    index = "--index-url https://download.pytorch.org/whl/cpu"
    assert checkout.calls()[3].endswith(f"{index} torch==2.13.0+cpu")


@pytest.mark.parametrize(
    ("broken", "advice"),
    [
        ("*version_info*", "Install one, or name it: PYTHON="),
        ('*"import venv"*', "apt-get install python3-venv"),
        ("*libnuma*", "apt-get install libnuma1"),
    ],
    ids=["old Python", "no venv module", "no libnuma"],
)
def test_what_the_machine_lacks_is_said_before_anything_is_made(
    checkout: Checkout, broken: str, advice: str
) -> None:
    checkout.machine(broken=broken)
    status, said = checkout.run()
    assert status == 1
    assert advice in said
    assert checkout.calls() == []


def test_a_python_that_is_not_there_is_named(checkout: Checkout) -> None:
    status, said = checkout.run(python="python9.9")
    assert status == 1
    assert "python9.9" in said


def test_an_unknown_lock_is_refused_with_the_known_ones(checkout: Checkout) -> None:
    status, said = checkout.run("tpu")
    assert status == 1
    assert "cpu-dev cpu gpu" in said
