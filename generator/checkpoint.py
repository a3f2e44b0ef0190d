"""The native generator folder: ``config.json`` and ``model.safetensors``, read strictly.

A folder that holds ``config.json`` is complete: it is written last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from generator.config import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    DocGeneratorConfig,
    GeneratorConfig,
    InvalidGenerator,
    TextGeneratorConfig,
    read_doc_config,
    read_text_config,
)
from generator.doc_to_lora import DocToLora
from generator.durable import sync
from generator.text_to_lora import TextToLora

MAX_FAULTS_NAMED = 8


def save(
    folder: Path,
    config: GeneratorConfig,
    hypernetwork: DocToLora | TextToLora,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Writes a generator, over another one if need be. Weights are stored as ``dtype``.

    Interrupted, it leaves the former folder or one without ``config.json``, which is refused.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG_FILE).unlink(missing_ok=True)
    # shared weights are listed once, under their first name
    tensors = {
        name: parameter.detach().to("cpu", dtype).contiguous()
        for name, parameter in hypernetwork.named_parameters()
    }
    partial = folder / f"{WEIGHTS_FILE}.partial"
    save_file(tensors, partial, metadata={"format": "pt"})
    _publish(partial, folder / WEIGHTS_FILE)
    partial = folder / f"{CONFIG_FILE}.partial"
    partial.write_text(config.model_dump_json(indent=2) + "\n")
    _publish(partial, folder / CONFIG_FILE)


def load_doc(folder: Path) -> tuple[DocGeneratorConfig, DocToLora]:
    """A Doc-to-LoRA generator in evaluation mode, on the CPU in float32.

    Raises InvalidGenerator, naming every key that is missing, unexpected or of the wrong shape
    (with both shapes), not of floating point, or not finite.
    """
    config = read_doc_config(folder)
    with torch.device("meta"):
        hypernetwork = DocToLora(config.hypernetwork)
    _fill(hypernetwork, folder)
    return config, hypernetwork


def load_text(folder: Path) -> tuple[TextGeneratorConfig, TextToLora]:
    """A Text-to-LoRA generator, as ``load_doc`` loads a Doc-to-LoRA one."""
    config = read_text_config(folder)
    with torch.device("meta"):
        hypernetwork = TextToLora(config.hypernetwork)
    _fill(hypernetwork, folder)
    return config, hypernetwork


def _fill(hypernetwork: DocToLora | TextToLora, folder: Path) -> None:
    expected = {name: list(p.shape) for name, p in hypernetwork.named_parameters()}
    tensors = _read_tensors(folder / WEIGHTS_FILE, expected)
    # not strict: shared weights go by their first name, and every name was checked above
    hypernetwork.load_state_dict(tensors, strict=False, assign=True)
    hypernetwork.eval().requires_grad_(False)


def _read_tensors(path: Path, expected: dict[str, list[int]]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
            faults = shape_faults(shapes, expected)
            tensors = {} if faults else {key: file.get_tensor(key) for key in shapes}
    except (OSError, SafetensorError) as error:
        raise InvalidGenerator(f"{path} cannot be read: {error}") from None
    for key, x in tensors.items():
        if not x.is_floating_point():
            faults.append(f"{key} is {x.dtype}, must be of floating point")
        elif not x.isfinite().all():
            faults.append(f"{key} holds values that are not finite")
    if faults:
        raise InvalidGenerator(f"{path}: {in_short(faults)}")
    return {key: x.float() for key, x in tensors.items()}


def in_short(faults: Sequence[str]) -> str:
    """The first few of the faults, and how many more there are."""
    named = "; ".join(faults[:MAX_FAULTS_NAMED])
    rest = len(faults) - MAX_FAULTS_NAMED
    return named + (f"; and {rest} more" if rest > 0 else "")


def shape_faults(shapes: Mapping[str, list[int]], expected: Mapping[str, list[int]]) -> list[str]:
    """Every tensor that is missing, unexpected or of another shape than the configuration's."""
    return [
        *(f"missing {key} of shape {expected[key]}" for key in expected if key not in shapes),
        *(f"unexpected {key} of shape {shapes[key]}" for key in shapes if key not in expected),
        *(
            f"{key} has shape {shapes[key]}, the configuration asks for {shape}"
            for key, shape in expected.items()
            if key in shapes and shapes[key] != shape
        ),
    ]


def _publish(partial: Path, final: Path) -> None:
    """Makes a written file durable, then visible under its name."""
    sync(partial)
    partial.replace(final)
    sync(final.parent)
