"""Whether a base model answers right: whether greedy decoding would write exactly the answer."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.lora import LoraWeights

PROMPTS_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class GreedyMatcher:
    """A base model with a place for an adapter, ready to be asked.

    An answer counts when every one of its tokens, the end included, is the most likely one after
    those before it: that is the case exactly when greedy decoding writes the answer.
    """

    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    injection: LoraInjection

    def prompt(self, text: str, system: str = "") -> list[int]:
        """Token IDs of a chat of one user message."""
        messages = [{"role": "system", "content": system}] if system else []
        ids: list[int] = self.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": text}],
            add_generation_prompt=True,
            return_dict=False,
        )
        return ids

    def answer(self, text: str) -> list[int]:
        """Token IDs of an answer and its end."""
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id]

    def matches(
        self,
        prompts: Sequence[list[int]],
        answers: Sequence[str],
        loras: Sequence[LoraWeights] = (),
    ) -> list[bool]:
        """Which prompts get the answers that belong to them.

        Without adapters, or with several of one rank: the prompts are shared out among them in
        equal parts, in order.
        """
        rows = list(zip(prompts, map(self.answer, answers), strict=True))
        if not loras:
            batches = range(0, len(rows), PROMPTS_AT_ONCE)
            return [
                match
                for start in batches
                for match in self._matches(rows[start : start + PROMPTS_AT_ONCE])
            ]
        factors = Factors(
            {m: torch.stack([lora.A[m] for lora in loras]) for m in loras[0].A},
            {m: torch.stack([lora.B[m] * lora.scaling for lora in loras]) for m in loras[0].B},
        )
        with self.injection.applied(factors, 1.0):
            return self._matches(rows)

    @torch.inference_mode()
    def _matches(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        # to few lengths: each costs a compilation of kernels
        ids = torch.zeros(len(rows), -(-longest // 32) * 32, dtype=torch.long)
        for row, (prompt, answer) in zip(ids, rows, strict=True):
            row[: len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        hidden: Tensor = self.base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        before = [
            hidden[i, len(prompt) - 1 : len(prompt) + len(answer) - 1]
            for i, (prompt, answer) in enumerate(rows)
        ]
        # the head, a fifth of a small model, for the answers only
        likely = self.base.get_output_embeddings()(torch.cat(before)).argmax(-1)
        lengths = [len(answer) for _, answer in rows]
        return [
            found.tolist() == answer
            for found, (_, answer) in zip(likely.split(lengths), rows, strict=True)
        ]
