"""What is handed on: the checkout, the locks, the wheel and the images."""

import re
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
GIVEN = {"pyproject.toml", "README.md", "server", "generator", "adapters_store", "docker", "tests"}
BESIDE = {"LICENSE", "Makefile", "requirements", "scripts", ".ci", ".gitignore", ".dockerignore"}
PACKAGES = ("server", "generator", "adapters_store")
LOCKS = ("cpu.txt", "cpu-dev.txt", "gpu.txt", "gpu-added.txt")
# that anybody can reach, or nobody: a registry of one's own does not belong in a file
PUBLIC_HOSTS = {
    "arxiv.org",
    "download.pytorch.org",
    "example.com",
    "example.org",
    "github.com",
    "huggingface.co",
    "www.apache.org",
    "www.postgresql.org",
}
MIB = 2**20


def listed(*options: str) -> list[Path]:
    """Paths that git knows, relative to the checkout."""
    done = subprocess.run(
        ["git", "ls-files", "-z", *options], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip("not a git checkout")
    return [Path(p) for p in done.stdout.split("\0") if p and (ROOT / p).is_file()]


def texts() -> dict[str, str]:
    """Contents of the files in git that are text."""
    raw = {p.as_posix(): (ROOT / p).read_bytes() for p in listed()}
    return {p: content.decode() for p, content in raw.items() if b"\0" not in content[:8192]}


def pins(lock: str) -> dict[str, list[Requirement]]:
    """What a lock pins, by name; one name may have different versions for different Pythons."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / "requirements" / lock).read_text().splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            found.setdefault(canonicalize_name(pin.name), []).append(pin)
    return found


def pyproject() -> Any:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_top_level_holds_the_given_names_and_what_goes_beside_them() -> None:
    top = {p.parts[0] for p in listed()}
    assert top >= GIVEN
    assert top - GIVEN <= BESIDE


def test_no_file_names_a_place_on_the_machine_it_was_written_on() -> None:
    places = {ROOT, ROOT.parent, Path.home(), Path(sys.base_prefix)}
    everybodys = {Path("/"), Path("/usr"), Path("/usr/local"), Path(tempfile.gettempdir())}
    words = [f"{place}/" for place in places - everybodys]
    leaks = [(path, word) for path, text in texts().items() for word in words if word in text]
    assert not leaks


def test_no_file_holds_an_address_that_others_cannot_use() -> None:
    local = re.compile(r"localhost|127\.0\.0\.1|::1|0\.0\.0\.0|[\w-]+(\.test|\.invalid|\.local)?$")
    strange = [
        (path, address)
        for path, text in texts().items()
        for address in re.findall(r"https?://[\w.\[\]:@-]+", text)
        if (host := urlsplit(address.rstrip(".:")).hostname or "") not in PUBLIC_HOSTS
        and not local.match(host)
    ]
    assert not strange


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_pins_exactly_and_says_nothing_else(lock: str) -> None:
    for versions in pins(lock).values():
        for pin in versions:
            assert [s.operator for s in pin.specifier] == ["=="], pin
            assert not pin.url
            assert not pin.extras


@pytest.mark.parametrize(
    ("lock", "extras", "groups"),
    [
        ("cpu.txt", ["cpu", "postgres"], []),
        ("cpu-dev.txt", ["cpu", "postgres", "train"], ["dev"]),
        ("gpu.txt", ["gpu", "postgres"], []),
    ],
)
def test_a_lock_fulfils_what_pyproject_asks_for(
    lock: str, extras: list[str], groups: list[str]
) -> None:
    project = pyproject()["project"]
    asked = [*project["dependencies"]]
    asked += [x for extra in extras for x in project["optional-dependencies"][extra]]
    asked += [x for group in groups for x in pyproject()["dependency-groups"][group]]
    locked = pins(lock)
    for line in asked:
        wanted = Requirement(line)
        versions = locked.get(canonicalize_name(wanted.name))
        assert versions, f"{lock} lacks {line}: run `make lock`"
        for pin in versions:
            [exact] = pin.specifier
            assert wanted.specifier.contains(exact.version), f"{pin} is not {line}: run `make lock`"


def test_the_server_runs_with_the_versions_that_were_tested() -> None:
    tested = pins("cpu-dev.txt")
    assert all(tested[name] == versions for name, versions in pins("cpu.txt").items())


def test_the_cpu_lock_leaves_out_what_does_not_run_on_a_cpu() -> None:
    names = pins("cpu-dev.txt").keys()
    assert not names & set(pyproject()["tool"]["uv"]["exclude-dependencies"])
    assert not [name for name in names if name.startswith(("nvidia-", "cuda-"))]
    assert [str(pin) for pin in pins("cpu.txt")["torch"]] == ["torch==2.13.0+cpu"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The distribution, built from this checkout."""
    out = tmp_path_factory.mktemp("wheel")
    uv = Path(sys.executable).with_name("uv")
    subprocess.run([uv, "build", "--quiet", "--wheel", "--out-dir", out, ROOT], check=True)
    [path] = out.glob("doclora-*.whl")
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_three_packages_file_by_file(wheel: zipfile.ZipFile) -> None:
    inside = {n for n in wheel.namelist() if not n.startswith("doclora-")}
    known = listed("--cached", "--others", "--exclude-standard")
    assert inside == {p.as_posix() for p in known if p.parts[0] in PACKAGES}


def test_the_wheel_holds_what_is_not_python(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    assert "adapters_store/migrations/env.py" in names
    assert any(n.startswith("adapters_store/migrations/versions/v") for n in names)
    assert any(n.endswith("licenses/LICENSE") for n in names)


def test_the_embedded_model_is_in_the_wheel_and_small(wheel: zipfile.ZipFile) -> None:
    weights = [i for i in wheel.infolist() if i.filename.endswith(".safetensors")]
    folders = {i.filename.removesuffix("/model.safetensors") for i in weights}
    assert folders == {f"generator/pretrained/tiny/{part}" for part in ("base", "doc", "text")}
    assert sum(i.file_size for i in weights) <= 40 * MIB


def test_the_wheel_names_its_command_and_its_vllm_plugins(wheel: zipfile.ZipFile) -> None:
    [entry_points] = [n for n in wheel.namelist() if n.endswith("entry_points.txt")]
    text = wheel.read(entry_points).decode()
    assert "[console_scripts]\ndoclora = server.cli:app" in text
    for plugin in ("cpu_attention", "cpu_lora", "lifeline"):
        assert f"\ndoclora_{plugin} = server.{plugin}:register" in text


@pytest.fixture(scope="module")
def compose() -> Any:
    return yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())


@pytest.mark.parametrize("profile", ["cpu", "cuda"])
def test_compose_runs_each_image_locked_down_and_restarts_it(compose: Any, profile: str) -> None:
    service = compose["services"][profile]
    build = ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]
    assert build.resolve() == ROOT / "docker" / f"{profile}.Dockerfile"
    assert service["profiles"] == [profile]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert any(mount.startswith("/tmp") for mount in service["tmpfs"])
    assert "/health" in service["healthcheck"]["test"][-1]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_compose_keeps_the_data_in_a_volume_where_the_images_write(compose: Any) -> None:
    assert "data" in compose["volumes"]
    for profile, service in compose["services"].items():
        name, _, place = service["volumes"][0].partition(":")
        dockerfile = (ROOT / "docker" / f"{profile}.Dockerfile").read_text()
        assert name == "data"
        assert f"VOLUME {place}\n" in dockerfile
        assert f"DOCLORA_DATA_DIR={place}/" in dockerfile


@pytest.mark.parametrize("image", ["cpu", "cuda"])
def test_an_image_does_not_run_as_root(image: str) -> None:
    last_stage = (ROOT / "docker" / f"{image}.Dockerfile").read_text().rpartition("\nFROM ")[2]
    users = re.findall(r"^USER (\S+)$", last_stage, re.MULTILINE)
    assert users == ["10001"]
