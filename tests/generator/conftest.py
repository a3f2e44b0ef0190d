"""Fixtures of the generator's tests."""

from pathlib import Path

import pytest

from tests.generator import models


@pytest.fixture(scope="session")
def generator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A native generator folder with its tiny random base model beside it."""
    return models.generator_folder(tmp_path_factory.mktemp("generator"))
