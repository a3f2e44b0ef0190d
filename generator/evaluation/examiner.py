"""Answers under three conditions, scored whole: right is what greedy decoding would write.

An answer counts when every one of its tokens, the end included, is the most likely one after those
before it: that is the case exactly when greedy decoding writes the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from generator.chunks import Chunker
from generator.document import DocumentGenerator
from generator.evaluation.suites import Exam, Question
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.lora import LoraWeights

QUESTIONS_AT_ONCE = 64


class Condition(StrEnum):
    """What the base model has to go by."""

    IN_CONTEXT = "document in context"
    ADAPTER = "adapter only"
    NEITHER = "neither"


@dataclass(frozen=True, slots=True)
class Examiner:
    """A base model with its generator, ready to be asked."""

    base: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    generator: DocumentGenerator
    chunker: Chunker
    injection: LoraInjection
    window: int

    def right(self, exam: Exam, condition: Condition) -> list[bool] | None:
        """Which questions are answered right; None where the document outgrows the window."""
        match condition:
            case Condition.IN_CONTEXT:
                prompts = [self._prompt(f"{exam.text}\n\n{q.text}") for q in exam.questions]
                longest = max(
                    len(prompt) + len(self._answer(question))
                    for prompt, question in zip(prompts, exam.questions, strict=True)
                )
                return self._matches(prompts, exam.questions) if longest <= self.window else None
            case Condition.ADAPTER:
                [lora] = self.generator.internalise([self.chunker.split(exam.text)])
                return self.with_adapter(lora, exam.questions)
            case Condition.NEITHER:
                return self._matches([self._prompt(q.text) for q in exam.questions], exam.questions)

    def with_adapter(self, lora: LoraWeights, questions: Sequence[Question]) -> list[bool]:
        """Which questions alone, without the document, the adapter answers."""
        factors = Factors(
            {module: x[None] for module, x in lora.A.items()},
            {module: x[None] for module, x in lora.B.items()},
        )
        with self.injection.applied(factors, lora.scaling):
            return self._matches([self._prompt(q.text) for q in questions], questions)

    def _prompt(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False
        )
        return ids

    def _answer(self, question: Question) -> list[int]:
        ids: list[int] = self.tokenizer.encode(question.answer, add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id]

    @torch.inference_mode()
    def _matches(self, prompts: Sequence[list[int]], questions: Sequence[Question]) -> list[bool]:
        rows = [
            (prompt, self._answer(question))
            for prompt, question in zip(prompts, questions, strict=True)
        ]
        return [
            match
            for start in range(0, len(rows), QUESTIONS_AT_ONCE)
            for match in self._matches_of(rows[start : start + QUESTIONS_AT_ONCE])
        ]

    def _matches_of(self, rows: Sequence[tuple[list[int], list[int]]]) -> list[bool]:
        longest = max(len(prompt) + len(answer) for prompt, answer in rows)
        ids = torch.zeros(len(rows), -(-longest // 16) * 16, dtype=torch.long)
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
