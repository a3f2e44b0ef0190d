"""The embedded base model: a small Qwen3 that reads a document in its context and answers.

It says that it does not know when nothing in its context tells, and follows task descriptions in
the system message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from generator.training import dialogues
from generator.training.corpus import documents
from generator.training.corpus.inventory import Split
from generator.training.dialogues import DialogueEncoder, Row
from generator.training.loop import Phase, Schedule, TrainingRun, optimizers, phase_at
from generator.training.tokenizer import END, PAD, WINDOW, build_tokenizer

CONTEXT_WEIGHT = 0.05
SUPERVISED_SHARE = 4  # one position in so many gets a loss: every answer, and some of the rest


@dataclass(frozen=True, slots=True)
class Reading:
    """What a phase's rows look like: ``rows`` of ``length`` tokens about ``facts`` facts."""

    length: int
    rows: int
    facts: tuple[int, int]
    subjects: tuple[int, int]
    fillers: tuple[int, int]


# short documents first: copying from the context appears within minutes there
PHASES: tuple[Phase, ...] = (
    Phase(0.35, {"reading": Reading(128, 40, (1, 3), (1, 1), (0, 1))}),
    Phase(0.30, {"reading": Reading(256, 20, (2, 7), (1, 2), (0, 3))}),
    Phase(0.35, {"reading": Reading(512, 12, (3, 20), (1, 6), (0, 14))}),
)

EARLY_PHASES = 1  # phases that a trained base, going on, has behind it


def base_config(
    layers: int, hidden: int, vocabulary: int, tokenizer: PreTrainedTokenizerFast
) -> Qwen3Config:
    """The architecture: 64-wide heads, tied embeddings, window of 512 tokens."""
    return Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=4 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 64,
        head_dim=64,
        max_position_embeddings=WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        tie_word_embeddings=True,
        pad_token_id=tokenizer.convert_tokens_to_ids(PAD),
        bos_token_id=None,
        eos_token_id=tokenizer.convert_tokens_to_ids(END),
        use_cache=False,
    )


def initialise(model: Qwen3ForCausalLM) -> None:
    """Small weights, smaller where layers write to the residual stream."""
    layers = model.config.num_hidden_layers
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2:
            continue
        writes = name.endswith(("o_proj.weight", "down_proj.weight"))
        nn.init.normal_(parameter, std=0.02 / (2 * layers) ** 0.5 if writes else 0.02)


class BaseBatches:
    """Batch number ``step`` of the base model's training."""

    def __init__(
        self,
        encoder: DialogueEncoder,
        pad: int,
        phases: Sequence[Phase],
        steps: int,
        split: Split,
    ) -> None:
        self.encoder, self.pad, self.phases = encoder, pad, phases
        self.steps, self.split = steps, split
        self.tasks = dialogues.training_tasks()

    def __call__(self, step: int) -> tuple[Tensor, Tensor]:
        phase = self.phases[phase_at(self.phases, step, self.steps)]
        return self.batch(phase.settings["reading"], Random(f"base {self.split} {step}"))

    def batch(self, reading: Reading, rng: Random) -> tuple[Tensor, Tensor]:
        """Token IDs and target weights ``[rows, length]`` in the shapes of ``reading``."""
        rows = [self._filled_row(rng, reading) for _ in range(reading.rows)]
        return pad_rows(rows, reading.length, self.pad)

    def _filled_row(self, rng: Random, reading: Reading) -> Row:
        """Chats one after the other until the row is nearly full; a row starts with a whole one."""
        ids: list[int] = []
        weights: list[float] = []
        for _ in range(12):
            more_ids, more_weights = self._chat(rng, reading)
            if len(ids) + len(more_ids) <= reading.length:
                ids += more_ids
                weights += more_weights
            elif ids:
                break
        return ids, weights

    def _chat(self, rng: Random, reading: Reading) -> Row:
        chance = rng.random()
        if chance < 0.15:
            turns = dialogues.without_document(rng, self.split, rng.randint(1, 3))
            return self.encoder.chat(turns)
        document = documents.document(
            rng,
            self.split,
            facts=rng.randint(*reading.facts),
            subjects=rng.randint(*reading.subjects),
            fillers=rng.randint(*reading.fillers),
        )
        if chance < 0.4:
            task = rng.choice(self.tasks)
            followed = dialogues.following_a_task(rng, self.split, document, task)
            if followed is not None:
                return self.encoder.chat(*followed)
        turns, system = dialogues.reading(rng, self.split, document)
        return self.encoder.chat(turns, system)


def pad_rows(rows: list[Row], length: int, pad: int) -> tuple[Tensor, Tensor]:
    """``ids [rows, length]`` and the weights of each token as a target."""
    ids = torch.full((len(rows), length), pad, dtype=torch.long)
    weights = torch.zeros(len(rows), length)
    for i, (row_ids, row_weights) in enumerate(rows):
        ids[i, : len(row_ids)] = torch.tensor(row_ids)
        weights[i, : len(row_ids)] = torch.tensor(row_weights)
    return ids, weights


def weighted_positions(weights: Tensor, count: int) -> Tensor:
    """``count`` positions of the flattened rows that predict a weighted token, answers first."""
    targets = weights.clone()
    targets[:, 0] = 0  # nothing stands before a row's first token
    priority = targets.flatten() + torch.rand(targets.numel()) * (targets.flatten() > 0) * 0.01
    return priority.topk(count).indices - 1


def answers_right(predicted: Tensor, ids: Tensor, weights: Tensor) -> tuple[int, int]:
    """How many answers are predicted whole, and how many there are.

    ``predicted [rows, length - 1]`` are the most likely next tokens; an answer is a run of
    weight 1. Equal to greedy decoding of each answer by itself.
    """
    targets, answer = ids[:, 1:], weights[:, 1:] == 1
    starts = answer & ~functional.pad(answer, (1, 0))[:, :-1]
    run = starts.cumsum(1) + torch.arange(len(ids))[:, None] * (ids.shape[1] + 1)
    wrong = run[answer & (predicted != targets)].unique()
    total = int(starts.sum())
    return total - len(wrong), total


def train_base(
    out: Path,
    run_folder: Path,
    *,
    steps: int,
    layers: int,
    hidden: int,
    rate: float,
    matrix_rate: float,
    minutes: float | None,
    start_from: Path | None,
) -> None:
    """Trains the base model and writes it, with its tokenizer, to ``out``.

    ``start_from`` is a trained base to go on from with a new schedule; its shape is kept.
    """
    torch.manual_seed(0)
    tokenizer = _tokenizer_of(run_folder, start_from)
    pad = tokenizer.convert_tokens_to_ids(PAD)
    phases = PHASES
    if start_from is None:
        model = Qwen3ForCausalLM(base_config(layers, hidden, len(tokenizer), tokenizer))
        initialise(model)
    else:
        model = Qwen3ForCausalLM.from_pretrained(start_from, dtype=torch.float32)
        model.config.use_cache = False
        phases = PHASES[EARLY_PHASES:]
    model.train()
    encoder = DialogueEncoder(tokenizer, CONTEXT_WEIGHT)
    schedule = Schedule(steps, rate, matrix_rate)
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "layers." in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "layers." not in n]
    run = TrainingRun(run_folder, model, optimizers(matrices, others, schedule), schedule)

    # one graph a row length; every further shape would cost a compilation
    @torch.compile(dynamic=False)
    def losses_at(ids: Tensor, positions: Tensor) -> Tensor:
        hidden = model.model(input_ids=ids).last_hidden_state.flatten(0, 1)[positions]
        logits = model.lm_head(hidden).float()
        return functional.cross_entropy(logits, ids.flatten()[positions + 1], reduction="none")

    def loss_of(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, float]]:
        ids, weights = batch
        positions = weighted_positions(weights, ids.numel() // SUPERVISED_SHARE)
        with torch.autocast("cpu", torch.bfloat16):
            losses = losses_at(ids, positions)
        weight = weights.flatten()[positions + 1]
        answers = losses.detach()[weight == 1].mean().item()
        return (losses * weight).sum() / weight.sum(), {"answers": answers}

    def predictions(ids: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            predicted: Tensor = model(input_ids=ids).logits[:, :-1].argmax(-1)
        return predicted

    held_out = BaseBatches(encoder, pad, PHASES, steps, Split.HELD_OUT)

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        found: dict[str, float] = {}
        for phase in PHASES:
            reading: Reading = phase.settings["reading"]
            right = total = 0
            for k in range(4):
                ids, weights = held_out.batch(reading, Random(f"held out {k}"))
                some_right, some = answers_right(predictions(ids), ids, weights)
                right, total = right + some_right, total + some
            found[f"held out, {reading.length} tokens"] = right / total
        return found

    train = BaseBatches(encoder, pad, phases, steps, Split.TRAIN)
    run.run(train, loss_of, evaluate, minutes=minutes)
    save_base(model, tokenizer, out)


def _tokenizer_of(run_folder: Path, start_from: Path | None) -> PreTrainedTokenizerFast:
    """The run's tokenizer, made at its start: a resumed run keeps the tokens it was trained on."""
    folder = start_from or run_folder / "tokenizer"
    if not folder.exists():
        build_tokenizer().save_pretrained(folder)
    loaded: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    return loaded


def save_base(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes a transformers folder: bfloat16 weights, tokenizer, chat template, greedy decoding."""
    out.mkdir(parents=True, exist_ok=True)
    model.config.use_cache = True
    model.generation_config = GenerationConfig(
        eos_token_id=model.config.eos_token_id,
        pad_token_id=model.config.pad_token_id,
        # greedy, in words that vLLM reads too: it knows no do_sample
        do_sample=True,
        top_k=1,
    )
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
