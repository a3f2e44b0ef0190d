"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# a machine's other load is no fault of a test
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture
def anyio_backend() -> str:
    """Async tests run on asyncio, the loop the server uses."""
    return "asyncio"


@pytest.fixture(scope="session")
def reference_dir() -> Path:
    """Folder of the published systems' reference fixtures; tests that need it skip without it."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "reference"
    folder = Path(os.environ.get("DOCLORA_REFERENCE", beside))
    if not folder.is_dir():
        pytest.skip(f"no reference fixtures at {folder}: set DOCLORA_REFERENCE")
    return folder
