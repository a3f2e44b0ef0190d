"""`doclora import`, as a person uses it."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from generator.config import read_doc_config, read_text_config
from generator.importing.cli import app
from tests.generator import models
from tests.generator.importing import published, published_text
from tests.generator.importing.test_unpickling import archive, asking_for


def test_a_checkpoint_becomes_a_generator_folder(tmp_path: Path) -> None:
    models.base_model().save_pretrained(tmp_path / "base")
    models.tokenizer().save_pretrained(tmp_path / "base")
    prompt_format = {"context_prefix_ids": [1], "context_suffix_ids": [2], "chat_template": None}
    (tmp_path / "prompt.json").write_text(json.dumps(prompt_format))
    path = published.save(published.checkpoint(), tmp_path / "pytorch_model.bin")
    command = ["doc-to-lora", path, "--out", tmp_path / "doc", "--base", tmp_path / "base"]
    options = ["--prompt-format", tmp_path / "prompt.json", "--max-chunk-tokens", 24]
    done = CliRunner().invoke(app, [str(word) for word in [*command, *options]])
    assert done.exit_code == 0, done.output
    assert "rank 2 a chunk of 24 tokens" in done.output
    config = read_doc_config(tmp_path / "doc")
    assert (config.base_path, config.max_chunk_tokens) == (str(tmp_path / "base"), 24)


@pytest.mark.parametrize(
    ("module", "shown"), [("posix", "posix.system"), ("\x1b[2Jposix", "?[2Jposix.system")]
)
def test_a_refusal_is_one_line_that_cannot_steer_the_terminal(
    tmp_path: Path, module: str, shown: str
) -> None:
    path = archive(tmp_path / "evil.bin", asking_for(module, "system"))
    done = CliRunner().invoke(app, ["doc-to-lora", str(path), "--out", str(tmp_path / "doc")])
    assert done.exit_code == 1
    assert f"asks for {shown}," in done.stderr
    assert "\x1b" not in done.stderr
    assert not (tmp_path / "doc").exists()


def test_a_run_of_text_to_lora_becomes_a_generator_folder(tmp_path: Path) -> None:
    models.base_model().save_pretrained(tmp_path / "base")
    models.tokenizer().save_pretrained(tmp_path / "base")
    run = published_text.run_folder(tmp_path / "run", published_text.state_dict())
    command = ["text-to-lora", run, "--out", tmp_path / "text", "--base", tmp_path / "base"]
    options = ["--description-encoder", tmp_path / "base", "--pooling", "mean"]
    done = CliRunner().invoke(app, [str(word) for word in [*command, *options]])
    assert done.exit_code == 0, done.output
    assert "q_proj, v_proj of " in done.output
    assert "rank 2, descriptions of 64 tokens" in done.output
    config = read_text_config(tmp_path / "text")
    assert (config.base_path, config.pooling) == (str(tmp_path / "base"), "mean")


def test_a_pickle_among_the_weights_of_a_run_is_refused_and_does_not_run(tmp_path: Path) -> None:
    run = published_text.run_folder(tmp_path / "run", {})
    archive(run / "hypermod.pt", asking_for("posix", "system"))
    done = CliRunner().invoke(app, ["text-to-lora", str(run), "--out", str(tmp_path / "text")])
    assert done.exit_code == 1
    assert "asks for posix.system, which no checkpoint of Doc-to-LoRA or Text-to-L" in done.stderr
    assert not (tmp_path / "text").exists()
