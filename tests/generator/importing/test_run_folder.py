"""The files of a Text-to-LoRA run: found where they lie, read without being trusted."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from generator.importing.run_folder import MAX_TEXT_BYTES, RunFolder
from generator.importing.torch_file import InvalidCheckpoint, TorchFile
from tests.generator.importing.published_text import ARGUMENTS, run_folder, state_dict

STATE = {"heads.q_proj.weight": torch.zeros(4), "heads.v_proj.weight": torch.zeros(4)}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return run_folder(tmp_path / "run", STATE)


def with_checkpoint(run: Path, step: int) -> Path:
    folder = run / "checkpoints" / f"it_{step}"
    folder.mkdir(parents=True)
    (run / "hypermod.pt").rename(folder / "hypermod.pt")
    return folder


def assert_read(run: RunFolder, weights: Path) -> None:
    assert run.weights == weights
    assert run.arguments.model_dir == "org/base"
    assert run.adapter.r == 2


def test_a_run_is_read_by_its_folder_or_its_weights(run: Path) -> None:
    for path in (run, run / "hypermod.pt"):
        assert_read(RunFolder.read(path), run / "hypermod.pt")


def test_a_checkpoint_of_a_run_takes_the_settings_from_above(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_checkpoint(run, 40)
    for path in (folder, folder / "hypermod.pt"):
        assert_read(RunFolder.read(path), folder / "hypermod.pt")
    monkeypatch.chdir(folder)
    assert_read(RunFolder.read(Path("hypermod.pt")), folder / "hypermod.pt")


def test_it_says_what_is_missing_where(run: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidCheckpoint, match=r"there is no .*nowhere, the weights of a Text-to"):
        RunFolder.read(tmp_path / "nowhere")
    with_checkpoint(run, 40).joinpath("hypermod.pt")
    (run / "checkpoints" / "it_100").mkdir()
    (run / "checkpoints" / "it_100" / "hypermod.pt").touch()
    with pytest.raises(
        InvalidCheckpoint, match=r"but 2 in its checkpoints: .* last being .*it_100"
    ):
        RunFolder.read(run)
    (run / "args.yaml").unlink()
    with pytest.raises(InvalidCheckpoint, match=r"run lacks args\.yaml of .*it_40/hypermod\.pt"):
        RunFolder.read(run / "checkpoints" / "it_40")


def test_weights_keep_the_order_of_training(tmp_path: Path) -> None:
    for modules in (("v_proj", "q_proj", "down_proj"), ("q_proj", "down_proj", "v_proj")):
        folder = run_folder(tmp_path / modules[0], state_dict(modules, head_bias=False))
        names = TorchFile(folder / "hypermod.pt").tensors
        heads = [name for name in names if name.startswith("heads.")]
        assert heads == [f"heads.{module}.weight" for module in modules]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_type": "discrete"}, "encoder_type is discrete, only linear is supported"),
        ({"encoder_type": "vq"}, "encoder_type is vq, only linear is supported"),
        ({"encoder_type": "softmax"}, "encoder_type is softmax, only linear is supported"),
        ({"autoreg_gen": True}, "autoreg_gen is True, only False is supported"),
        ({"learnable_pos_emb": True}, "learnable_pos_emb is True, only False is supported"),
        ({"use_one_hot_task_emb": True}, "use_one_hot_task_emb is True, only False is supported"),
        ({"training_task": "other"}, "training_task: Input should be 'sft' or 'recon'"),
        ({"training_task": "recon"}, "pred_z_score and without factorized; the published code its"),
        ({"delta_w_scaling": 0}, "delta_w_scaling: Input should be greater than 0"),
        ({"delta_w_scaling": ".inf"}, "delta_w_scaling: Input should be a valid number"),
        ({"hypernet_latent_size": "wide"}, "hypernet_latent_size: Input should be a valid integer"),
        ({"hypernet_latent_size": [1]}, "hypernet_latent_size: Input should be a valid integer"),
        ({"model_dir": ""}, "model_dir: String should have at least 1 character"),
    ],
)
def test_settings_at_fault_are_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidCheckpoint, match=rf"args\.yaml: .*{message}"):
        RunFolder.read(run_folder(tmp_path, STATE, changes))


def test_settings_that_are_left_out_have_their_defaults(run: Path) -> None:
    needed = {name: ARGUMENTS[name] for name in ("model_dir", "emb_model", "training_task")}
    (run / "args.yaml").write_text(yaml.safe_dump(needed))
    arguments = RunFolder.read(run).arguments
    assert (arguments.hypernet_latent_size, arguments.head_in_size) == (128, 512)
    (run / "args.yaml").write_text("seed: 42\n")
    with pytest.raises(InvalidCheckpoint, match="model_dir: Field required; emb_model: Field requ"):
        RunFolder.read(run)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "VERA"}, "peft_type: Input should be 'LORA'"),
        ({"r": 0}, "r: Input should be greater than or equal to 1"),
        ({"lora_alpha": 0}, "lora_alpha: Input should be greater than 0"),
        ({"use_dora": True}, "use_dora: Input should be False"),
        ({"bias": "all"}, "bias: Input should be 'none'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save: Input should be null"),
        ({"layers_to_transform": [1]}, "layers_to_transform: Input should be null"),
        ({"rank_pattern": {"q_proj": 4}}, "rank_pattern: Dictionary should have at most 0 items"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern: Dictionary should have at most 0 items"),
        ({"target_modules": "all-linear"}, "target_modules: Input should be a valid array"),
    ],
)
def test_an_adapter_that_is_no_plain_lora_is_refused_by_field(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidCheckpoint, match=rf"adapter_config\.json: {message}"):
        RunFolder.read(run_folder(tmp_path, STATE, adapter=changes))


ALIASES = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)
MERGES = "a: &a {k: x, l: x}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghijklmno", "bcdefghijklmnop", strict=True)
)


@pytest.mark.parametrize("bomb", [ALIASES, MERGES, f"a: {':'.join(['59'] * 300_000)}\n"])
def test_settings_that_would_grow_without_end_are_read_in_no_time(run: Path, bomb: str) -> None:
    began = time.process_time()
    (run / "args.yaml").write_text(bomb + yaml.safe_dump(ARGUMENTS))
    assert RunFolder.read(run).arguments.model_dir == "org/base"
    (run / "args.yaml").write_text(bomb + yaml.safe_dump(ARGUMENTS) + "head_in_size: *p\n")
    with pytest.raises(InvalidCheckpoint, match=r"head_in_size: Input should be|undefined alias"):
        RunFolder.read(run)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: [1,\n", r"args\.yaml is not YAML: .* in line 2"),
        ("a: \x01\n", r"args\.yaml is not YAML: "),
        ("[" * 5000, r"args\.yaml: its values are nested too deeply"),
        ("- 1\n", r"args\.yaml: file: Input should be"),
        ("x" * (MAX_TEXT_BYTES + 1), rf"args\.yaml has more than {MAX_TEXT_BYTES} bytes"),
    ],
)
def test_settings_that_are_no_yaml_of_a_run_are_refused(
    run: Path, content: str, message: str
) -> None:
    (run / "args.yaml").write_text(content)
    with pytest.raises(InvalidCheckpoint, match=message):
        RunFolder.read(run)


def test_yaml_that_asks_for_python_runs_none(run: Path) -> None:
    command = f"!!python/object/apply:pathlib.Path.touch [{run / 'ran'}]"
    (run / "args.yaml").write_text(f"model_dir: {command}\n")
    with pytest.raises(InvalidCheckpoint, match="model_dir: Input should be a valid string"):
        RunFolder.read(run)
    assert not (run / "ran").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "file: Invalid JSON"),
        ("[" * 5000, "file: Invalid JSON"),
        (json.dumps({"r": "9" * MAX_TEXT_BYTES}), r"json has more than \d+ bytes"),
    ],
)
def test_an_adapter_config_that_is_no_json_of_peft_is_refused(
    run: Path, content: str, message: str
) -> None:
    (run / "adapter_config.json").write_text(content)
    with pytest.raises(InvalidCheckpoint, match=message):
        RunFolder.read(run)
