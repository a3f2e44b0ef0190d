"""What the hypernetworks have in common: the factors that they make, and settings gone wrong."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from generator.lora import MODULE_PARENTS, LoraWeights


class InvalidHypernetworkConfig(ValueError):
    """A hypernetwork's settings contradict each other or lie outside their range."""


class Factors(NamedTuple):
    """LoRA factors per module, ``A[m] [..., L, R, d_in]`` and ``B[m] [..., L, R, d_out]``.

    B is rank-major, as the hypernetwork makes it; the delta of a layer is ``scaling * B^T A``.
    """

    A: dict[str, Tensor]
    B: dict[str, Tensor]

    def weights(self, scaling: float) -> LoraWeights:
        """The only LoRA, ``A[m] [L, R, d_in]``, as a value: in float32 on the CPU."""
        return LoraWeights(
            {m: x.detach().float().cpu() for m, x in self.A.items()},
            {m: x.detach().float().cpu() for m, x in self.B.items()},
            scaling,
        )

    def each(self, count: int, scaling: float) -> list[LoraWeights]:
        """The first ``count`` of several, ``A[m] [B, L, R, d_in]``."""
        A = {m: x.cpu() for m, x in self.A.items()}
        B = {m: x.cpu() for m, x in self.B.items()}
        # copies: a view would hold on to the whole batch
        return [
            Factors(
                {m: x[index].clone() for m, x in A.items()},
                {m: x[index].clone() for m, x in B.items()},
            ).weights(scaling)
            for index in range(count)
        ]


def side_by_side(parts: Sequence[tuple[Factors, float]]) -> Factors:
    """LoRAs with their scalings, ``A[m] [N, L, R, d_in]``, as one of scaling 1 whose delta is the
    sum of theirs: the ranks of each module side by side, of those parts that have it."""
    modules = sorted({module for factors, _ in parts for module in factors.A})
    return Factors(
        {m: torch.cat([f.A[m] for f, _ in parts if m in f.A], -2) for m in modules},
        {m: torch.cat([f.B[m] * scaling for f, scaling in parts if m in f.B], -2) for m in modules},
    )


def check_modules(modules: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """The target modules with their input and output widths, in sorted order.

    Raises InvalidHypernetworkConfig.
    """
    unknown = sorted(set(modules) - set(MODULE_PARENTS))
    if not modules or unknown:
        raise InvalidHypernetworkConfig(
            f"modules must name at least one of {', '.join(MODULE_PARENTS)}; "
            + (f"unknown: {', '.join(unknown)}" if unknown else "there is none")
        )
    for module, widths in modules.items():
        if min(widths) < 1:
            raise InvalidHypernetworkConfig(f"modules.{module} widths {widths} must be >= 1")
    return dict(sorted(modules.items()))


def check_counts(config: object, least: Mapping[str, int]) -> None:
    """Each named field is at least so much. Raises InvalidHypernetworkConfig."""
    for name, minimum in least.items():
        if getattr(config, name) < minimum:
            raise InvalidHypernetworkConfig(
                f"{name} is {getattr(config, name)}, must be at least {minimum}"
            )
