"""Settings come from flags and from the environment."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from server import app, cli
from server.settings import Settings

# of each setting, text in the environment and what it means; none is a default
GIVEN: dict[str, tuple[str, object]] = {
    "data_dir": ("/srv/data", Path("/srv/data")),
    "database_url": ("postgresql://db/catalogue", "postgresql://db/catalogue"),
    "host": ("0.0.0.0", "0.0.0.0"),
    "port": ("9000", 9000),
    "generators": ("/srv/doc", [Path("/srv/doc")]),
    "model": ("/srv/base", "/srv/base"),
    "served_name": ("base", "base"),
    "dtype": ("bfloat16", "bfloat16"),
    "max_model_len": ("128", 128),
    "kv_cache_gib": ("0.5", 0.5),
    "cpus": ("0-1", "0-1"),
    "max_loras": ("2", 2),
    "max_resident": ("9", 9),
    "generator_device": ("cuda:1", "cuda:1"),
    "generator_mode": ("iterative", "iterative"),
    "max_batch_tokens": ("512", 512),
    "jobs": ("3", 3),
    "max_upload_bytes": ("1000", 1000),
    "max_wait": ("7.5", 7.5),
    "log_level": ("debug", "debug"),
    "log_format": ("json", "json"),
}


def option(name: str) -> str:
    """The setting as flag and variable name it."""
    return Settings.model_fields[name].alias or name


def test_no_setting_is_left_out_here() -> None:
    assert set(GIVEN) == set(Settings.model_fields)


@pytest.mark.parametrize("name", GIVEN)
def test_a_variable_takes_effect(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text, meaning = GIVEN[name]
    monkeypatch.delenv(f"DOCLORA_{option(name).upper()}", raising=False)
    assert getattr(Settings(), name) != meaning
    monkeypatch.setenv(f"DOCLORA_{option(name).upper()}", text)
    assert getattr(Settings(), name) == meaning


@pytest.mark.parametrize("text", ["/srv/doc:/srv/text", '["/srv/doc", "/srv/text"]'])
def test_a_variable_may_name_several_generators(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCLORA_GENERATOR", text)
    assert Settings().generators == [Path("/srv/doc"), Path("/srv/text")]


@pytest.mark.parametrize(
    ("text", "says"),
    [("", "at least 1 item"), ('["/srv/doc', "Unterminated string"), ("[1]", "not a valid path")],
)
def test_a_variable_that_names_no_generator_is_told(
    text: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCLORA_GENERATOR", text)
    result = CliRunner().invoke(cli.app, ["serve"])
    assert result.exit_code == 2
    assert "--generator (DOCLORA_GENERATOR): " in result.output
    assert says in result.output


def served_with(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """The settings that `doclora serve` runs the server with."""
    given: list[Settings] = []

    @contextmanager
    def listening(host: str, port: int) -> Iterator[None]:
        yield

    def leave(status: int) -> None:
        raise SystemExit(status)

    def run(settings: Settings, sock: Any) -> None:
        given.append(settings)

    monkeypatch.setattr(cli, "listening", listening)
    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(cli.os, "_exit", leave)
    result = CliRunner().invoke(cli.app, ["serve", *flags])
    assert result.exit_code == 0, result.output
    return given[0]


def test_a_flag_wins_over_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, (text, _) in GIVEN.items():
        monkeypatch.setenv(f"DOCLORA_{option(name).upper()}", text)
    settings = served_with(["--jobs", "5", "--generator-mode", "batched"], monkeypatch)
    overridden = {"jobs": 5, "generator_mode": "batched"}
    expected = {name: meaning for name, (_, meaning) in GIVEN.items()} | overridden
    assert settings.model_dump() == expected


def test_every_setting_can_be_given_as_a_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = [f"--{option(name).replace('_', '-')}={text}" for name, (text, _) in GIVEN.items()]
    settings = served_with(flags, monkeypatch)
    assert settings.model_dump() == {name: meaning for name, (_, meaning) in GIVEN.items()}


def test_a_flag_given_twice_names_two_generators(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = served_with(["--generator", "/srv/doc", "--generator", "/srv/text"], monkeypatch)
    assert settings.generators == [Path("/srv/doc"), Path("/srv/text")]
