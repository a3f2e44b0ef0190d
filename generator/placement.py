"""Where a generator computes, and with which numbers."""

from typing import Literal

import torch

Precision = Literal["auto", "float32", "bfloat16"]


def placed(device: str, precision: Precision) -> tuple[torch.device, torch.dtype]:
    """``device`` is "auto" (a GPU if there is one) or what torch takes; ``precision`` "auto" is
    bfloat16 on a GPU and float32 on a CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.device(device)
    if precision == "auto":
        precision = "float32" if where.type == "cpu" else "bfloat16"
    return where, torch.bfloat16 if precision == "bfloat16" else torch.float32
