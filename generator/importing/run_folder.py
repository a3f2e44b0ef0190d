"""The folder of a Text-to-LoRA training run: its weights, and the two files that say what they are.

Source: the code that Text-to-LoRA (arXiv 2506.06105) was published with.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from generator.importing.faults import fields_at_fault
from generator.importing.torch_file import InvalidCheckpoint

WEIGHTS_FILE = "hypermod.pt"
ARGUMENTS_FILE = "args.yaml"
ADAPTER_FILE = "adapter_config.json"
MAX_TEXT_BYTES = 2**20  # of flags, and the names and descriptions of tasks
NULLS = ("", "~", "null", "Null", "NULL")
ONLY = {
    "encoder_type": "linear",
    "autoreg_gen": False,
    "learnable_pos_emb": False,
    "use_one_hot_task_emb": False,
}


class Arguments(BaseModel):
    """``args.yaml``: the flags of the training run that matter, with their defaults.

    Not strict: in YAML's text every scalar is one of letters. ``head_use_bias`` is among those that
    do not matter; the weights say which heads have a bias.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    model_dir: Annotated[str, Field(min_length=1)]
    emb_model: Annotated[str | None, BeforeValidator(lambda x: None if x in NULLS else x)]
    training_task: Literal["sft", "recon"]
    hypernet_latent_size: int = 128
    head_in_size: int = 512
    shared_AB_head: bool = False
    factorized: bool = False
    pred_z_score: bool = True
    delta_w_scaling: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10000
    encoder_type: str = "linear"
    autoreg_gen: bool = False
    learnable_pos_emb: bool = False
    use_one_hot_task_emb: bool = False


class Adapter(BaseModel):
    """``adapter_config.json``: what PEFT was to make of the generated weights."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    peft_type: Literal["LORA"]
    r: Annotated[int, Field(ge=1)]
    lora_alpha: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    use_rslora: bool = False
    target_modules: list[str]
    use_dora: Literal[False] = False
    bias: Literal["none"] = "none"
    modules_to_save: None = None
    layers_to_transform: None = None
    rank_pattern: Annotated[dict[str, int], Field(max_length=0)] | None = None
    alpha_pattern: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def scaling(self) -> float:
        """Factor of the delta, by PEFT's rules."""
        return float(self.lora_alpha / (self.r**0.5 if self.use_rslora else self.r))


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A training run, or one checkpoint of it: where its weights lie, and what they are."""

    weights: Path
    arguments: Arguments
    adapter: Adapter

    @classmethod
    def read(cls, path: Path) -> "RunFolder":
        """``path`` is the run's folder, one of the folders ``checkpoints/it_N`` in it, or the
        hypermod.pt in either. Raises InvalidCheckpoint, saying what is missing where."""
        weights = _weights(path.absolute())
        folder = weights.parent
        if folder.parent.name == "checkpoints":
            folder = folder.parent.parent
        missing = [n for n in (ARGUMENTS_FILE, ADAPTER_FILE) if not (folder / n).is_file()]
        if missing:
            raise InvalidCheckpoint(f"{folder} lacks {' and '.join(missing)} of {weights}")
        return cls(weights, _arguments(folder / ARGUMENTS_FILE), _adapter(folder / ADAPTER_FILE))


def _weights(path: Path) -> Path:
    weights = path / WEIGHTS_FILE if path.is_dir() else path
    if weights.is_file():
        return weights
    steps = sorted(path.glob(f"checkpoints/*/{WEIGHTS_FILE}"), key=lambda x: (len(str(x)), x))
    if steps:
        raise InvalidCheckpoint(
            f"{path} has no {WEIGHTS_FILE}, but {len(steps)} in its checkpoints: name one of "
            f"them, the last being {steps[-1].parent}"
        )
    raise InvalidCheckpoint(f"there is no {weights}, the weights of a Text-to-LoRA run")


def _arguments(path: Path) -> Arguments:
    try:
        # the base loader makes text of every scalar, and honours neither tags nor merge keys:
        # a number of any size or a key that multiplies itself cannot hurt
        held: Any = yaml.load(_content(path), yaml.BaseLoader)
    except RecursionError:
        raise InvalidCheckpoint(f"{path}: its values are nested too deeply") from None
    except yaml.YAMLError as error:
        raise InvalidCheckpoint(f"{path} is not YAML: {_problem(error)}") from None
    try:
        arguments = Arguments.model_validate(held)
    except ValidationError as error:
        raise InvalidCheckpoint(f"{path}: {fields_at_fault(error)}") from None
    for name, only in ONLY.items():
        if (value := getattr(arguments, name)) != only:
            raise InvalidCheckpoint(f"{path}: {name} is {value}, only {only} is supported")
    if arguments.training_task == "recon" and arguments.pred_z_score and not arguments.factorized:
        raise InvalidCheckpoint(
            f"{path}: trained on reconstruction with pred_z_score and without factorized; the "
            "published code itself cannot make a LoRA of such a checkpoint"
        )
    return arguments


def _adapter(path: Path) -> Adapter:
    try:
        return Adapter.model_validate_json(_content(path))
    except ValidationError as error:
        raise InvalidCheckpoint(f"{path}: {fields_at_fault(error)}") from None


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(MAX_TEXT_BYTES + 1)
    if len(content) > MAX_TEXT_BYTES:
        raise InvalidCheckpoint(f"{path} has more than {MAX_TEXT_BYTES} bytes")
    return content


def _problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} in line {error.problem_mark.line + 1}"
    return str(error).partition("\n")[0]
