"""The embedded Doc-to-LoRA hypernetwork: a document moves from the context to the weights.

The base is frozen. The student answers with the generated LoRA and without the document; its
answers are pulled to the truth (cross-entropy) and to the base that does read the document (KL
divergence), as in Doc-to-LoRA (arXiv 2602.15902, section 3).

Shape suffixes: G documents, n chunks of each, C chunks of the batch, M chunks that a document's
LoRA is combined from, T tokens of a chunk, k rows of each document, R tokens of a row, P positions,
V vocabulary.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from generator.checkpoint import load_doc, save
from generator.chunks import Chunk, Chunker
from generator.config import Chunking, DocGeneratorConfig
from generator.context import ContextEncoder
from generator.doc_to_lora import DocToLora, HypernetworkConfig
from generator.hypernetwork import Factors
from generator.injection import LoraInjection
from generator.prompt import PromptFormat
from generator.training import dialogues
from generator.training.base import answers_right, pad_rows, weighted_positions
from generator.training.corpus import conversations, documents
from generator.training.corpus.documents import Document
from generator.training.corpus.facts import Fact
from generator.training.corpus.inventory import Split
from generator.training.dialogues import DialogueEncoder, Row
from generator.training.loop import Phase, Schedule, TrainingRun, optimizers, phase_at
from generator.training.tokenizer import ASSISTANT, END, PAD, USER, WINDOW

MAX_CHUNK_TOKENS = 124
CHUNKING: Chunking = "passages"
MAX_CHUNKS = 39  # with the bias, rank 320: a size that vLLM keeps places of
ANSWER_TOKENS = 12  # of an answer, the most that the teacher is asked for
ANSWERED = 6  # answer tokens a row is given on average, at the most


@dataclass(frozen=True, slots=True)
class Study:
    """What a batch of a phase holds: every tensor of the phase has these shapes.

    A document's LoRA is combined from its own chunks and up to ``company`` more, of the batch's
    other documents and of ``idle`` chunks that say nothing: a long document at the price of a
    short one.
    """

    documents: int  # G
    chunks: int  # n; documents have 1 to n
    tokens: int  # T
    questions: int  # k
    row: int  # R
    facts: tuple[int, int]  # of each chunk
    fillers: tuple[int, int]  # of each chunk
    idle: int = 0
    company: int = 0


# one fact first: with several at once the loss stays on the prior for long
PHASES: tuple[Phase, ...] = (
    Phase(0.06, {"study": Study(64, 1, 48, 2, 32, (1, 1), (0, 1))}),
    Phase(0.12, {"study": Study(48, 1, 80, 3, 32, (1, 3), (0, 1))}),
    Phase(0.45, {"study": Study(32, 1, 128, 5, 32, (1, 6), (0, 4), idle=2, company=3)}),
    Phase(0.37, {"study": Study(10, 4, 128, 14, 32, (0, 5), (0, 6), idle=16, company=28)}),
)
EARLY_PHASES = 2  # phases that a trained hypernetwork, going on, has behind it


@dataclass(frozen=True, slots=True)
class StudyBatch:
    """Chunks, questions and what the teacher reads.

    ``chunk_ids [C, T]``, and for each document the chunks of its LoRA, ``members [G, M]``, with
    ``member_scale [G, M]`` zero where there is none; ``row_ids [G k, R]`` with the weight of each
    token as a target; ``teacher_ids [G, W]``. ``student_at`` and ``teacher_at`` ``[G, A]`` are the
    positions that predict the same answer's tokens in the first row of each document and in the
    teacher's text, ``taught [G, A]`` says which of them are in use.
    """

    chunk_ids: Tensor
    members: Tensor
    member_scale: Tensor
    row_ids: Tensor
    row_weights: Tensor
    teacher_ids: Tensor
    student_at: Tensor
    teacher_at: Tensor
    taught: Tensor


class StudyBatches:
    """Batch number ``step`` of the hypernetwork's training."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        encoder: DialogueEncoder,
        phases: Sequence[Phase],
        steps: int,
        split: Split,
    ) -> None:
        self.encoder, self.phases, self.steps, self.split = encoder, phases, steps, split
        self.pad = int(tokenizer.convert_tokens_to_ids(PAD))
        self.prompt = prompt_format(tokenizer)
        self.chunker = Chunker(
            tokenizer,
            self.prompt,
            max_chunk_tokens=MAX_CHUNK_TOKENS,
            max_chunks=MAX_CHUNKS,
            chunking=CHUNKING,
        )

    def __call__(self, step: int) -> StudyBatch:
        study: Study = self.phases[phase_at(self.phases, step, self.steps)].settings["study"]
        return self.batch(study, Random(f"doc {self.split} {step}"))

    def batch(self, study: Study, rng: Random) -> StudyBatch:
        """A batch in the shapes of ``study``."""
        lessons = [self._lesson(study, rng) for _ in range(study.documents)]
        row_ids, row_weights = pad_rows(
            [row for lesson in lessons for row in lesson.rows], study.row, self.pad
        )
        idle = [self._idle_chunk(study, rng) for _ in range(study.idle)]
        chunk_ids, members, member_scale = self._chunks(study, lessons, idle, rng)
        width = min(study.chunks * study.tokens, WINDOW) + study.row
        teacher_rows: list[Row] = []
        student_at = torch.zeros(study.documents, ANSWER_TOKENS, dtype=torch.long)
        teacher_at = torch.zeros_like(student_at)
        taught = torch.zeros(study.documents, ANSWER_TOKENS, dtype=torch.bool)
        for g, lesson in enumerate(lessons):
            teacher_rows.append(lesson.teacher)
            answer = [i for i, weight in enumerate(lesson.rows[0][1]) if weight == 1]
            behind = len(lesson.rows[0][0]) - answer[0]
            count = min(len(answer), ANSWER_TOKENS)
            offset = torch.arange(count) - 1
            student_at[g, :count] = g * study.questions * study.row + answer[0] + offset
            teacher_at[g, :count] = g * width + len(lesson.teacher[0]) - behind + offset
            taught[g, :count] = True
        teacher_ids, _ = pad_rows(teacher_rows, width, self.pad)
        return StudyBatch(
            chunk_ids, members, member_scale, row_ids, row_weights,
            teacher_ids, student_at, teacher_at, taught,
        )  # fmt: skip

    def _chunks(
        self, study: Study, lessons: Sequence["_Lesson"], idle: Sequence[Chunk], rng: Random
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``chunk_ids``, ``members`` and ``member_scale`` of a batch."""
        count = study.documents * study.chunks + study.idle
        chunk_ids = torch.full((count, study.tokens), self.pad, dtype=torch.long)
        own: list[list[int]] = []
        for g, lesson in enumerate(lessons):
            own.append([g * study.chunks + c for c in range(len(lesson.chunks))])
            for index, chunk in zip(own[g], lesson.chunks, strict=True):
                chunk_ids[index, : len(chunk)] = torch.tensor(chunk)
        idle_at = range(study.documents * study.chunks, count)
        for index, chunk in zip(idle_at, idle, strict=True):
            chunk_ids[index, : len(chunk)] = torch.tensor(chunk)
        members = torch.zeros(study.documents, study.chunks + study.company, dtype=torch.long)
        scale = torch.zeros(members.shape)
        for g, chunks in enumerate(own):
            others = [index for h, indices in enumerate(own) if h != g for index in indices]
            together = [*chunks, *_company(study.company, others, idle_at, rng)]
            members[g, : len(together)] = torch.tensor(together)
            scale[g, : len(together)] = 1
        return chunk_ids, members, scale

    def _idle_chunk(self, study: Study, rng: Random) -> Chunk:
        while True:
            paragraphs = [
                documents.filler_paragraph(rng, self.split, rng.randint(1, 6))
                for _ in range(rng.randint(1, 3))
            ]
            chunks = self.chunker.split("\n\n".join(paragraphs))
            if len(chunks[0]) <= study.tokens:
                return chunks[0]

    def _lesson(self, study: Study, rng: Random) -> "_Lesson":
        while True:
            count = rng.randint(1, study.chunks)
            facts = max(1, sum(rng.randint(*study.facts) for _ in range(count)))
            document = documents.document(
                rng,
                self.split,
                facts=facts,
                subjects=rng.randint(1, max(1, facts // 2)),
                fillers=sum(rng.randint(*study.fillers) for _ in range(count)),
            )
            chunks = self.chunker.split(document.text)
            if len(chunks) > study.chunks or max(map(len, chunks)) > study.tokens:
                continue
            turns = self._turns(document, study.questions, rng)
            rows = [self.encoder.chat([turn]) for turn in turns]
            fact = next((f for f in document.facts if f.question == turns[0][0]), document.facts[0])
            teacher = self.encoder.chat(
                [(f"{self._passage(document, fact)}\n\n{turns[0][0]}", turns[0][1])]
            )
            width = min(study.chunks * study.tokens, WINDOW) + study.row
            if max(len(ids) for ids, _ in rows) <= study.row and len(teacher[0]) <= width:
                return _Lesson(chunks, rows, teacher)

    def _turns(self, document: Document, count: int, rng: Random) -> list[dialogues.Turn]:
        """As many facts as fit, some questions that the document leaves open, some small talk."""
        facts = rng.sample(document.facts, min(count, len(document.facts)))
        turns = [(fact.question, fact.value) for fact in facts]
        for index in range(len(turns)):
            if rng.random() < 0.15 and index > 0:
                turns[index] = self._unanswered(document, rng)
        while len(turns) < count:
            chance = rng.random()
            if chance < 0.8:
                turns.append(self._unanswered(document, rng))
            else:
                make = conversations.small_talk if chance < 0.9 else conversations.echo
                turns.append(make(rng))
        return turns

    def _unanswered(self, document: Document, rng: Random) -> dialogues.Turn:
        return documents.unanswerable(document, rng, self.split), conversations.UNKNOWN

    def _passage(self, document: Document, fact: Fact) -> str:
        """What the teacher reads: the document, or where it outgrows the window the paragraphs
        that name the subject."""
        if len(self.encoder.context(document.text)) <= WINDOW - 2 * ANSWER_TOKENS:
            return document.text
        name = fact.subject.removeprefix("the ").lower()
        return "\n\n".join(p for p in document.text.split("\n\n") if name in p.lower())


def _company(most: int, others: Sequence[int], idle: Sequence[int], rng: Random) -> list[int]:
    """Chunks beside a document's own: often none, then a few of any sort, seldom many that say
    nothing."""
    chance = rng.random()
    if most == 0 or chance < 0.35:
        return []
    if chance < 0.7 or len(idle) < 8:
        pool = [*others, *idle]
        return rng.sample(pool, min(rng.randint(1, min(most, 4)), len(pool)))
    return rng.choices(idle, k=rng.randint(4, most))


@dataclass(frozen=True, slots=True)
class _Lesson:
    chunks: tuple[Chunk, ...]
    rows: list[Row]
    teacher: Row


def prompt_format(tokenizer: PreTrainedTokenizerFast) -> PromptFormat:
    """A document is a user turn of its own, and the assistant's turn begins."""
    user, end, assistant = tokenizer.convert_tokens_to_ids([USER, END, ASSISTANT])
    return PromptFormat(context_prefix_ids=(user,), context_suffix_ids=(end, assistant))


def tiny_config(
    base: Qwen3ForCausalLM, latent: int, latents: int, blocks: int
) -> HypernetworkConfig:
    """The embedded hypernetwork: rank 8 on ``down_proj``, one pass per base layer."""
    config = base.config
    return HypernetworkConfig(
        modules={"down_proj": (config.intermediate_size, config.hidden_size)},
        layers=config.num_hidden_layers,
        feature_size=config.hidden_size,
        rank=8,
        latent_size=latent,
        latents=latents,
        blocks=blocks,
        heads=latent // 64,
        kv_heads=latent // 64,
        head_dim=64,
        normalise_features=True,
    )


class Student:
    """The frozen base with generated LoRAs, and the same base as its own teacher."""

    def __init__(self, base: Qwen3ForCausalLM, hypernetwork: DocToLora, pad: int) -> None:
        self.base, self.pad = base, pad
        self.hypernetwork, self.config = hypernetwork, hypernetwork.config
        self.encoder = ContextEncoder(base, self.config)
        self.injection = LoraInjection(base, self.config.modules)
        self._generate = torch.compile(hypernetwork, dynamic=False)
        self._logits = torch.compile(self._logits_at, dynamic=False)
        # evaluation meets every phase's shapes a few times each: not worth a compilation
        self._generate_once: Callable[[Tensor, Tensor], Factors] = hypernetwork
        self._logits_once = self._logits_at

    def _logits_at(self, ids: Tensor, positions: Tensor) -> Tensor:
        hidden = self.base.model(input_ids=ids, use_cache=False).last_hidden_state
        logits: Tensor = self.base.lm_head(hidden.flatten(0, 1)[positions]).float()
        return logits

    def logits(self, batch: StudyBatch, positions: Tensor, *, compiled: bool) -> Tensor:
        """Logits ``[P, V]`` at positions of the flattened rows, with each document's LoRA."""
        generate = self._generate if compiled else self._generate_once
        logits_at = self._logits if compiled else self._logits_once
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                features = self.encoder(batch.chunk_ids)
            chunks = generate(features, batch.chunk_ids != self.pad)
            lora = self.hypernetwork.combine(
                _chosen(chunks, batch.members.flatten()),
                batch.members.shape[1],
                chunk_scale=batch.member_scale.flatten(),
            )
            with self.injection.applied(lora, self.config.scaling):
                logits: Tensor = logits_at(batch.row_ids, positions)
        return logits

    @torch.no_grad()
    def teacher_logits(self, batch: StudyBatch, positions: Tensor) -> Tensor:
        """Logits ``[P, V]`` of the base that reads the document."""
        with torch.autocast("cpu", torch.bfloat16):
            return self._logits_at(batch.teacher_ids, positions)

    def loss(self, batch: StudyBatch, kl_weight: float) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy on every answer plus ``kl_weight`` times the teacher's divergence."""
        answered = weighted_positions(batch.row_weights, ANSWERED * len(batch.row_ids))
        taught = batch.student_at.flatten()
        logits = self.logits(batch, torch.cat([answered, taught]), compiled=True)
        weight = (batch.row_weights.flatten()[answered + 1] == 1).float()
        entropies = functional.cross_entropy(
            logits[: len(answered)], batch.row_ids.flatten()[answered + 1], reduction="none"
        )
        entropy = (entropies * weight).sum() / weight.sum()
        wanted = self.teacher_logits(batch, batch.teacher_at.flatten()).log_softmax(-1)
        given = logits[len(answered) :].log_softmax(-1)
        divergences = (wanted.exp() * (wanted - given)).sum(-1)
        divergence = (divergences * batch.taught.flatten()).sum() / batch.taught.sum()
        figures = {"cross_entropy": entropy.item(), "divergence": divergence.item()}
        return entropy + kl_weight * divergence, figures

    @torch.no_grad()
    def exact_match(self, batch: StudyBatch) -> tuple[int, int]:
        """Answers right and answers asked; questions that the document leaves open count too."""
        everywhere = torch.arange(batch.row_ids.numel())
        predicted = self.logits(batch, everywhere, compiled=False).argmax(-1).view_as(batch.row_ids)
        return answers_right(predicted[:, :-1], batch.row_ids, batch.row_weights)


def _chosen(chunks: Factors, indices: Tensor) -> Factors:
    """The LoRAs of chosen chunks, a chunk as often as it is named."""
    return Factors(
        {module: x.index_select(0, indices) for module, x in chunks.A.items()},
        {module: x.index_select(0, indices) for module, x in chunks.B.items()},
    )


def train_doc(
    base_folder: Path,
    out: Path,
    run_folder: Path,
    *,
    steps: int,
    latent: int,
    latents: int,
    blocks: int,
    rate: float,
    matrix_rate: float,
    kl_weight: float,
    minutes: float | None,
    start_from: Path | None,
) -> None:
    """Trains the Doc-to-LoRA hypernetwork of a base model and writes its generator folder.

    ``start_from`` is a trained generator to go on from, past the first phases; its shape is kept.
    """
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder)
    base = Qwen3ForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
    base.requires_grad_(False).eval()
    phases = PHASES
    if start_from is None:
        hypernetwork = DocToLora(tiny_config(base, latent, latents, blocks))
    else:
        hypernetwork = load_doc(start_from)[1].train().requires_grad_(True)
        phases = PHASES[EARLY_PHASES:]
    encoder = DialogueEncoder(tokenizer, context_weight=0.0)
    train = StudyBatches(tokenizer, encoder, phases, steps, Split.TRAIN)
    held_out = StudyBatches(tokenizer, encoder, phases, steps, Split.HELD_OUT)
    student = Student(base, hypernetwork, train.pad)
    schedule = Schedule(steps, rate, matrix_rate)
    matrices = [
        p
        for m in hypernetwork.perceiver.modules()
        if isinstance(m, nn.Linear)
        for p in m.parameters()
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in hypernetwork.parameters() if id(p) not in chosen]
    run = TrainingRun(run_folder, hypernetwork, optimizers(matrices, others, schedule), schedule)

    def evaluate() -> dict[str, float]:
        found = {}
        for index, phase in enumerate(phases):
            study: Study = phase.settings["study"]
            right, total = student.exact_match(held_out.batch(study, Random(f"held out {index}")))
            found[f"held out, {study.chunks} chunks, up to {study.facts[1]} facts"] = right / total
        return found

    with _bfloat16_products():
        run.run(train, lambda batch: student.loss(batch, kl_weight), evaluate, minutes=minutes)
    config = DocGeneratorConfig(
        name="doclora-tiny-doc",
        base_model=os.path.relpath(base_folder, out),
        prompt=train.prompt,
        max_chunk_tokens=MAX_CHUNK_TOKENS,
        max_chunks=MAX_CHUNKS,
        chunking=CHUNKING,
        hypernetwork=hypernetwork.config,
    )
    save(out, config, hypernetwork, torch.bfloat16)


@contextmanager
def _bfloat16_products() -> Iterator[None]:
    """The head stays in float32 as published; its products run on a CPU's bfloat16 units."""
    matmul: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, matmul.fp32_precision = matmul.fp32_precision, "bf16"
    try:
        yield
    finally:
        matmul.fp32_precision = before
