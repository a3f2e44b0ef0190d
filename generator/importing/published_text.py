"""Published Text-to-LoRA checkpoints in this project's terms: settings, and names of weights.

Source: the code that Text-to-LoRA (arXiv 2506.06105) was published with.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from generator.importing.run_folder import ADAPTER_FILE, RunFolder
from generator.importing.torch_file import InvalidCheckpoint, TorchFile
from generator.text_to_lora import TextHypernetworkConfig, TextToLora

SMALLEST_DEVIATION = 1e-10  # added to a standard deviation
GROUPS = ("AB_offset", "mean_recon_target", "std_recon_target")  # stored whether used or not

Tensors = dict[str, Tensor]


def read_hypernetwork(run: RunFolder, file: TorchFile) -> TextToLora:
    """The hypernetwork with the checkpoint's weights, in float32 and in evaluation mode.

    Raises InvalidCheckpoint, naming each tensor that is missing, unexpected or of the wrong shape,
    with both shapes, and the first that is not finite; and InvalidHypernetworkConfig.
    """
    if file.values:
        raise InvalidCheckpoint(
            f"{file.path}: no checkpoint of Text-to-LoRA: {', '.join(file.values)} are no tensors"
        )
    trained_order = _modules(run, file)
    config = _config(run, file, trained_order)
    wanted = _shapes(config)
    expected = {name: s for ours, shape in wanted.items() for name, s in _published(ours, shape)}
    published = file.weights(file.tensors, expected | _group_shapes(config))
    tensors = {
        ours: torch.stack([published[name] for name, _ in _published(ours, shape)]).reshape(shape)
        for ours, shape in wanted.items()
    }
    # a row for each module, in the order of training
    rows = [trained_order.index(module) for module in config.modules]
    tensors["module_embedding.0.weight"] = tensors["module_embedding.0.weight"][rows]
    _undo_delta_scaling(run, tensors)
    affine = _affine(run, config, published)
    hypernetwork = _on_meta(replace(config, affine=bool(affine)))
    hypernetwork.load_state_dict(tensors | affine, assign=True)
    return hypernetwork.eval().requires_grad_(False)


def _modules(run: RunFolder, file: TorchFile) -> list[str]:
    """The target modules in the order of training, which only the order of the heads has kept:
    elsewhere it is that of a set of strings, which changes with every process."""
    heads = (re.fullmatch(r"heads\.(\w+)\.weight", name) for name in file.tensors)
    modules = [head[1] for head in heads if head]
    if sorted(modules) != sorted(run.adapter.target_modules):
        raise InvalidCheckpoint(
            f"{file.path} has heads for {', '.join(modules) or 'no module'}, its {ADAPTER_FILE} "
            f"targets {', '.join(run.adapter.target_modules)}"
        )
    return modules


def _config(run: RunFolder, file: TorchFile, modules: list[str]) -> TextHypernetworkConfig:
    arguments = run.arguments
    offsets = {m: [_shape(file, f"AB_offset.{side}.{m}", 3) for side in "AB"] for m in modules}
    biased = [module for module in modules if f"heads.{module}.bias" in file.tensors]
    return TextHypernetworkConfig(
        modules={m: (A[2], B[1]) for m, (A, B) in offsets.items()},
        layers=_shape(file, "layer_depth_encoder.0.weight", 2)[0],
        embedding_size=_shape(file, "task_encoder.mlp.0.weight", 2)[1],
        rank=run.adapter.r,
        scaling=run.adapter.scaling,
        latent_size=arguments.hypernet_latent_size,
        head_size=arguments.head_in_size,
        shared_heads=arguments.shared_AB_head,
        head_bias=bool(biased),
    )


def _shape(file: TorchFile, name: str, axes: int) -> list[int]:
    shape = file.tensors[name].shape if name in file.tensors else None
    if shape is None or len(shape) != axes:
        found = "missing" if shape is None else f"of shape {shape}"
        raise InvalidCheckpoint(
            f"{file.path}: {name} is {found}, a checkpoint of Text-to-LoRA has one of {axes} axes"
        )
    return shape


def _on_meta(config: TextHypernetworkConfig) -> TextToLora:
    with torch.device("meta"):
        return TextToLora(config)


def _shapes(config: TextHypernetworkConfig) -> dict[str, list[int]]:
    return {name: list(x.shape) for name, x in _on_meta(config).state_dict().items()}


_SEQUENCES = {
    "task_projection": "task_encoder.mlp",
    "layer_embedding": "layer_depth_encoder",
    "module_embedding": "layer_type_encoder",
    "side_norm": "out_emb_norm",
}
_MLPS = {
    "mixer": "mixer",
    "block_before_split": "mlp1.mlp",
    "block": "mlp2.mlp",
    "before_head": "mlp3",
}
# places in a sequence of modules, activations and dropouts among them
_IN_MLP = {"norm": 0, "up": 1, "down": 4}


def _published(ours: str, shape: list[int]) -> Iterator[tuple[str, list[int]]]:
    """The tensors, with their shapes, that one of ours is made of, one on top of the other."""
    match ours.split("."):
        case [sequence, *rest] if sequence in _SEQUENCES:
            yield ".".join([_SEQUENCES[sequence], *rest]), shape
        case [mlp, part, kind] if mlp in _MLPS:
            yield f"{_MLPS[mlp]}.{_IN_MLP[part]}.{kind}", shape
        case ["side_embedding", module]:
            yield from ((f"out_emb.{module}.{side}", shape[1:]) for side in "AB")
        case _:
            yield ours, shape


def _group_shapes(config: TextHypernetworkConfig) -> dict[str, list[int]]:
    L, R = config.layers, config.rank
    return {
        f"{group}.{side}.{module}": shape
        for group in GROUPS
        for module, (d_in, d_out) in config.modules.items()
        for side, shape in (("A", [L, R, d_in]), ("B", [L, d_out, R]))
    }


def _undo_delta_scaling(run: RunFolder, tensors: Tensors) -> None:
    """A hypernetwork that was trained to reconstruct scaled deltas makes both factors too large."""
    arguments = run.arguments
    if arguments.training_task == "recon" and not arguments.factorized:
        for name in tensors:
            if name.startswith("heads."):
                tensors[name] = tensors[name] / math.sqrt(arguments.delta_w_scaling)


def _affine(run: RunFolder, config: TextHypernetworkConfig, published: Tensors) -> Tensors:
    """The z-score and the multi-task LoRA on top of which the checkpoint was trained; nothing where
    neither changes anything."""
    arguments = run.arguments
    made = arguments.training_task == "sft" or arguments.factorized
    z_score = arguments.training_task == "recon" and arguments.factorized and arguments.pred_z_score
    affine = {}
    for module in config.modules:
        for side in "AB":
            offset, mean, deviation = (_rank_major(published, g, side, module) for g in GROUPS)
            affine[f"scale_{side}.{module}"] = (
                deviation + SMALLEST_DEVIATION if z_score else torch.ones_like(offset)
            )
            affine[f"shift_{side}.{module}"] = mean + offset if z_score else offset
    shifted = any(x.any() for name, x in affine.items() if name.startswith("shift_"))
    return affine if made and (z_score or shifted) else {}


def _rank_major(published: Tensors, group: str, side: str, module: str) -> Tensor:
    x = published[f"{group}.{side}.{module}"]
    return x if side == "A" else x.mT.contiguous()
