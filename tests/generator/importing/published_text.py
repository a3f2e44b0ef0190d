"""Text-to-LoRA runs like the published ones: files, tensors and what they compute.

Written from the description of the format and its equations alone, so that an error in the import
does not hide here.
"""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional

from tests.generator.models import HIDDEN, LAYERS

State = dict[str, Tensor]

WIDTHS = {"q_proj": (HIDDEN, 16), "v_proj": (HIDDEN, 16), "down_proj": (24, HIDDEN)}
S, H, X = 12, 10, 12  # latent size, head size, and the trunk's width that follows from the first
RANK = 2
ARGUMENTS: dict[str, Any] = {
    "model_dir": "org/base",
    "emb_model": "org/gte-tiny",
    "training_task": "sft",
    "hypernet_latent_size": S,
    "head_in_size": H,
    "shared_AB_head": False,
    "autoreg_gen": False,
    "learnable_pos_emb": False,
    "encoder_type": "linear",
    "mt_lora_path": None,
    "factorized": False,
    "pred_z_score": True,
    "delta_w_scaling": 10000,
    "use_one_hot_task_emb": False,
    "head_use_bias": False,
    "save_freq": 10**100,
    "train_ds_names": ["lol_742", "lol_1198"],
}
ADAPTER: dict[str, Any] = {
    "peft_type": "LORA",
    "r": RANK,
    "lora_alpha": 6,
    "use_rslora": True,
    "bias": "none",
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "revision": None,
}


def run_folder(
    folder: Path,
    state: State,
    arguments: dict[str, Any] | None = None,
    adapter: dict[str, Any] | None = None,
) -> Path:
    """Writes a run of these tensors, its settings changed by name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "hypermod.pt")
    (folder / "args.yaml").write_text(yaml.safe_dump(ARGUMENTS | (arguments or {})))
    modules = [name.split(".")[1] for name in state if name.startswith("heads.")]
    config = {**ADAPTER, "target_modules": sorted(set(modules)), **(adapter or {})}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def state_dict(
    modules: tuple[str, ...] = ("v_proj", "q_proj"),
    *,
    shared: bool = False,
    head_bias: bool = True,
    offset: bool = False,
    z_score: bool = False,
) -> State:
    """Random tensors, in the order of a training run over these modules."""
    torch.manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {}
    for group in ("AB_offset", "mean_recon_target", "std_recon_target"):
        for module in sorted(modules):
            d_in, d_out = WIDTHS[module]
            shapes[f"{group}.A.{module}"] = (LAYERS, RANK, d_in)
            shapes[f"{group}.B.{module}"] = (LAYERS, d_out, RANK)
    shapes |= _linear("task_encoder.mlp.0", S // 2, HIDDEN) | _norm("task_encoder.mlp.1", S // 2)
    for name, rows in (("layer_depth_encoder", LAYERS), ("layer_type_encoder", len(modules))):
        shapes |= {f"{name}.0.weight": (rows, S // 4)} | _norm(f"{name}.1", S // 4)
    shapes |= _linear("mixer.1", 4 * X, X) | _linear("mixer.4", X, 4 * X)
    for mlp, out in (("mlp1.mlp", X), ("mlp2.mlp", X), ("mlp3", H)):
        shapes |= _norm(f"{mlp}.0", X)
        shapes |= _linear(f"{mlp}.1", 4 * X, X) | _linear(f"{mlp}.4", out, 4 * X)
    for module in modules if shared else ():
        shapes |= {f"out_emb.{module}.{side}": (X,) for side in "AB"}
    if shared:
        shapes |= _norm("out_emb_norm", X)
    for module in modules:
        width = max(WIDTHS[module]) if shared else sum(WIDTHS[module])
        shapes[f"heads.{module}.weight"] = (RANK * width, H)
        if head_bias:
            shapes[f"heads.{module}.bias"] = (RANK * width,)
    state = {name: 0.7 * torch.randn(shape) for name, shape in shapes.items()}
    for name, x in state.items():
        if name.startswith("std_"):
            x.abs_()
        if (name.startswith("AB_") and not offset) or ("_recon_" in name and not z_score):
            x.zero_()
    return state


def lora(
    state: State,
    embedding: Tensor,
    module: str,
    row: int,
    arguments: dict[str, Any],
) -> tuple[Tensor, Tensor]:
    """``A [L, R, d_in]`` and ``B [L, d_out, R]`` of an embedding ``[E]``, layer by layer.

    row: which of the layer types the module was in training
    """
    settings = ARGUMENTS | arguments
    task = settings["training_task"]
    sides: dict[str, list[Tensor]] = {"A": [], "B": []}
    for layer in range(LAYERS):
        for side, x in zip("AB", _raw(state, embedding, module, row, layer, settings), strict=True):
            offset = state[f"AB_offset.{side}.{module}"][layer]
            if task == "recon" and settings["factorized"] and settings["pred_z_score"]:
                deviation = state[f"std_recon_target.{side}.{module}"][layer]
                x = x * (deviation + 1e-10) + state[f"mean_recon_target.{side}.{module}"][layer]
            if task == "recon" and not settings["factorized"]:
                x = x / settings["delta_w_scaling"] ** 0.5
            else:
                x = x + offset
            sides[side].append(x)
    return torch.stack(sides["A"]), torch.stack(sides["B"])


def _raw(
    state: State, e: Tensor, module: str, row: int, layer: int, settings: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    d_in, d_out = WIDTHS[module]

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.layer_norm(x, x.shape, state[f"{name}.weight"], state[f"{name}.bias"])

    def mlp(x: Tensor, name: str) -> Tensor:
        return functional.silu(linear(functional.silu(linear(x, f"{name}.1")), f"{name}.4"))

    def head(x: Tensor) -> Tensor:
        x = x + mlp(norm(x, "mlp2.mlp.0"), "mlp2.mlp")
        return linear(mlp(norm(x, "mlp3.0"), "mlp3"), f"heads.{module}")

    task = norm(linear(e, "task_encoder.mlp.0"), "task_encoder.mlp.1")
    depth = norm(state["layer_depth_encoder.0.weight"][layer], "layer_depth_encoder.1")
    kind = norm(state["layer_type_encoder.0.weight"][row], "layer_type_encoder.1")
    x = mlp(torch.cat([task, depth, kind]), "mixer")
    x = x + mlp(norm(x, "mlp1.mlp.0"), "mlp1.mlp")
    if settings["shared_AB_head"]:
        A, B = (
            head(x + norm(state[f"out_emb.{module}.{side}"], "out_emb_norm")).view(RANK, -1)
            for side in "AB"
        )
        return A[:, :d_in], B[:, :d_out].T
    out = head(x)
    return out[: RANK * d_in].view(RANK, d_in), out[RANK * d_in :].view(RANK, d_out).T


def _linear(name: str, size_out: int, size_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size_out, size_in), f"{name}.bias": (size_out,)}


def _norm(name: str, size: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}
