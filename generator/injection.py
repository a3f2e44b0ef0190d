"""Per-example LoRA on a frozen transformers model, for training, evaluation and parity checks.

Serving does not use this: adapters are registered in the engine.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from generator.hypernetwork import Factors
from generator.lora import MODULE_PARENTS


class LoraSlot:
    """What one linear layer adds to its output at the moment: nothing, or one LoRA per example."""

    def __init__(self) -> None:
        self.A: Tensor | None = None  # [N, R, d_in]
        self.B: Tensor | None = None  # [N, R, d_out], the scaling already in it

    def add(self, _module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """Forward hook: row i of the batch uses adapter ``i // (rows / N)``."""
        if self.A is None or self.B is None:
            return output
        x = inputs[0].to(self.A.dtype)
        grouped = x.reshape(self.A.shape[0], -1, x.shape[-1])
        delta = torch.matmul(torch.matmul(grouped, self.A.transpose(-1, -2)), self.B)
        return output + delta.view(output.shape).to(output.dtype)


class LoraInjection:
    """Attaches once to a model's target modules; adds LoRAs while ``applied`` is open.

    Attach before ``torch.compile(model)``; with and without LoRA are then two compiled graphs.
    Gradients flow to A and B; the model's own parameters are left as they are.
    """

    def __init__(self, model: PreTrainedModel, modules: Iterable[str]) -> None:
        layers = model.get_decoder().layers
        self._slots = {module: [LoraSlot() for _ in layers] for module in modules}
        self._hooks = [
            getattr(getattr(layer, MODULE_PARENTS[module]), module).register_forward_hook(slot.add)
            for module, slots in self._slots.items()
            for layer, slot in zip(layers, slots, strict=True)
        ]

    @contextmanager
    def applied(self, factors: Factors, scaling: float) -> Iterator[None]:
        """While open, every forward pass adds ``scaling * B^T A x``.

        ``factors`` holds N adapters, ``A[m] [N, L, R, d_in]`` and ``B[m] [N, L, R, d_out]``; a
        batch of ``N * k`` rows uses adapter 0 for its first k rows, and so on. Modules that
        ``factors`` lacks stay unchanged.
        """
        try:
            for module, slots in self._slots.items():
                if module not in factors.A:
                    continue
                A = factors.A[module].unbind(1)
                B = (factors.B[module] * scaling).unbind(1)
                for slot, a, b in zip(slots, A, B, strict=True):
                    slot.A, slot.B = a, b
            yield
        finally:
            self._clear()

    def detach(self) -> None:
        """Removes the hooks; the model is as it was before."""
        for hook in self._hooks:
            hook.remove()
        self._clear()

    def _clear(self) -> None:
        for slots in self._slots.values():
            for slot in slots:
                slot.A = slot.B = None
