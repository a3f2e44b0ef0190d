"""Reads the reference fixtures of the published systems through this project's own import."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from generator import checkpoint
from generator.doc_to_lora import DocToLora, HypernetworkConfig
from generator.hypernetwork import Factors
from generator.importing.doc_to_lora import Choices, import_doc_to_lora
from generator.importing.families import GEMMA_2, MISTRAL, QWEN_3
from generator.importing.task_families import chat_template_of
from generator.importing.text_to_lora import Choices as TextChoices
from generator.importing.text_to_lora import import_text_to_lora
from generator.text_to_lora import TextToLora

CASES = ("d2l_gemma2_l2l", "d2l_mistral_multi", "d2l_qwen3_early_exit")
TEXT_CASES = ("t2l_gemma2_sft", "t2l_mistral_recon_z")
TASK_FAMILIES = {"gemma2": "gemma-2-2b-it", "mistral": "Mistral-7B-Instruct-v0.2"}
FAMILIES = {"gemma2": GEMMA_2, "mistral": MISTRAL, "qwen3": QWEN_3}


@dataclass
class Fixture:
    """One fixture folder: a published system's inputs, intermediate values and outputs.

    ``native`` is its checkpoint, imported as a user would.
    """

    folder: Path
    native: Path
    info: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.info = json.loads((self.folder / "case.json").read_text())

    @cached_property
    def io(self) -> dict[str, Tensor]:
        return load_file(self.folder / "io.safetensors")

    @cached_property
    def base(self) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            self.folder / "base_model", dtype=torch.float32, attn_implementation="eager"
        )
        return model.eval().requires_grad_(False)


@dataclass
class Case(Fixture):
    """Doc-to-LoRA's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        prompt_format = self.native.with_suffix(".json")
        prompt_format.write_text(json.dumps(self._prompt_format()))
        choices = Choices(
            base=str(self.folder / "base_model"),
            prompt_format=prompt_format,
            # makes one chunk of the first text, and of the third the published three
            max_chunk_tokens=self.io["c1.ctx_ids"].shape[1],
        )
        import_doc_to_lora(self.folder / "checkpoint-1" / "pytorch_model.bin", self.native, choices)

    def _prompt_format(self) -> dict[str, Any]:
        """The family's template; the tokenizer is another, and so are its IDs."""
        affixes = self.info["ctx_affixes"]
        return {
            "context_prefix_ids": affixes["prefix"],
            "context_suffix_ids": affixes["suffix"],
            "chat_template": FAMILIES[self.info["family"]].prompt.chat_template,
        }

    @property
    def config(self) -> HypernetworkConfig:
        return self.hypernetwork.config

    @cached_property
    def hypernetwork(self) -> DocToLora:
        return checkpoint.load_doc(self.native)[1]

    def features(self, run: str) -> tuple[Tensor, Tensor]:
        """The published features ``[B, streams, T, F]`` and mask of run ``c1`` or ``c3``."""
        features = self.io[f"{run}.ctx_features"]
        if features.ndim == 3:
            features = features[:, None]
        return features, self.io[f"{run}.ctx_attn_mask"].bool()


@dataclass
class TextCase(Fixture):
    """Text-to-LoRA's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # the models' names do not say of which family they are
        chat_template = self.native.with_suffix(".jinja")
        chat_template.write_text(chat_template_of(TASK_FAMILIES[self.info["family"]]))
        choices = TextChoices(
            base=str(self.folder / "base_model"),
            description_encoder=str(self.folder / "emb_gte_tiny"),
            chat_template=chat_template,
        )
        import_text_to_lora(self.folder, self.native, choices)

    @cached_property
    def hypernetwork(self) -> TextToLora:
        return checkpoint.load_text(self.native)[1]

    def lora(self, run: str) -> Factors:
        """The published LoRA of run ``fixed`` or ``text``, ``A[m] [L, R, d_in]``."""
        layers = range(self.hypernetwork.config.layers)
        sides = {}
        for side in "AB":
            keys = (
                f"{run}.lora.base_model.model.model.layers.{{}}.self_attn.{{}}.lora_{side}.weight"
            )
            sides[side] = {
                module: torch.stack([self.io[keys.format(layer, module)] for layer in layers])
                for module in self.info["module_order"]
            }
        return Factors(sides["A"], {m: x.mT for m, x in sides["B"].items()})


def assert_close(got: Tensor, want: Tensor, tolerance: float = 2e-5) -> None:
    """Largest difference at most ``tolerance`` relative to ``max(1, max|want|)``."""
    assert got.shape == want.shape, f"shape {tuple(got.shape)}, want {tuple(want.shape)}"
    error = (got - want).abs().max().item() / max(1.0, want.abs().max().item())
    assert error <= tolerance, f"relative difference {error:.2e} above {tolerance:.0e}"
