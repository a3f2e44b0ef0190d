"""The training loop of every model: schedule, progress, checkpoints, resume, loss curve."""

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.optim import AdamW, Muon, Optimizer
from torch.utils.data import DataLoader, IterableDataset

CHECKPOINT = "checkpoint.pt"
LOG = "log.jsonl"


@dataclass(frozen=True, slots=True)
class Schedule:
    """Learning rates over ``steps``: linear warm-up, constant, then linear decay to a tenth."""

    steps: int
    rate: float  # AdamW: embeddings, norms and everything that is not a matrix
    matrix_rate: float  # Muon: matrices
    warm_up: int = 100
    decay_share: float = 0.4

    def factor(self, step: int) -> float:
        """Share of the full rates at ``step``."""
        decay_from = self.steps * (1 - self.decay_share)
        left = (self.steps - step) / (self.steps - decay_from)
        return min(1.0, (step + 1) / self.warm_up, 0.1 + 0.9 * left)


@dataclass(frozen=True, slots=True)
class Phase:
    """A stretch of the curriculum: what batches hold during its ``share`` of the steps."""

    share: float
    settings: dict[str, Any] = field(default_factory=dict)


def phase_at(phases: Sequence[Phase], step: int, steps: int) -> int:
    """Index of the phase that ``step`` belongs to."""
    steps_of_share = steps / sum(phase.share for phase in phases)
    done = 0.0
    for index, phase in enumerate(phases):
        done += phase.share
        if step < math.floor(done * steps_of_share):
            return index
    return len(phases) - 1


class Batches(IterableDataset[Any]):
    """Batch number ``step`` depends on the step alone, so a resumed run sees the same data."""

    def __init__(self, make: Callable[[int], Any], first: int, last: int) -> None:
        self.make, self.first, self.last = make, first, last

    def __iter__(self) -> Iterator[Any]:
        for step in range(self.first, self.last):
            yield self.make(step)


def optimizers(
    matrices: Sequence[nn.Parameter], others: Sequence[nn.Parameter], schedule: Schedule
) -> list[Optimizer]:
    """Muon for the matrices of the hidden layers, AdamW for the rest."""
    made: list[Optimizer] = [
        AdamW(others, lr=schedule.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    ]
    if matrices:
        made.append(
            Muon(
                matrices,
                lr=schedule.matrix_rate,
                weight_decay=0.05,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    return made


class TrainingRun:
    """One run in a folder: ``run`` may be killed and called again, and goes on where it was."""

    def __init__(
        self, folder: Path, model: nn.Module, optimizers: list[Optimizer], schedule: Schedule
    ) -> None:
        self.folder, self.model = folder, model
        self.optimizers, self.schedule = optimizers, schedule
        self._rates = [[group["lr"] for group in o.param_groups] for o in optimizers]

    def run(
        self,
        make_batch: Callable[[int], Any],
        loss_of: Callable[[Any], tuple[torch.Tensor, dict[str, float]]],
        evaluate: Callable[[], dict[str, float]],
        *,
        evaluate_every: int = 250,
        save_every: int = 100,
        minutes: float | None = None,
    ) -> None:
        """Trains until the schedule's last step.

        ``loss_of`` returns the loss and figures to log; ``evaluate`` runs every ``evaluate_every``
        steps and at the end. With ``minutes`` the run stops early, saved, when the time is up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        step = self._resume()
        loader = DataLoader(
            Batches(make_batch, step, self.schedule.steps),
            batch_size=None,
            num_workers=1,
            prefetch_factor=4,
        )
        started = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, refresh_per_second=0.2) as progress:
            bar = progress.add_task("loss -", total=self.schedule.steps, completed=step)
            for batch in loader:
                figures = self._step(step, batch, loss_of)
                step += 1
                if step % 20 == 0:
                    progress.update(bar, description=f"loss {figures['loss']:.3f}")
                    self._log({"step": step, **figures, "seconds": time.monotonic() - started})
                progress.update(bar, completed=step)
                if step % evaluate_every == 0 or step == self.schedule.steps:
                    self.model.eval()
                    self._log({"step": step, **evaluate()})
                    self.model.train()
                if step % save_every == 0 or step == self.schedule.steps:
                    self._save(step)
                if minutes is not None and time.monotonic() - started > 60 * minutes:
                    self._save(step)
                    break
        if (self.folder / LOG).exists():
            plot(self.folder)

    def _step(
        self,
        step: int,
        batch: Any,
        loss_of: Callable[[Any], tuple[torch.Tensor, dict[str, float]]],
    ) -> dict[str, float]:
        for optimizer, rates in zip(self.optimizers, self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.schedule.factor(step)
        loss, figures = loss_of(batch)
        loss.backward()
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        norm = nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return {"loss": loss.item(), "gradient_norm": norm.item(), **figures}

    def _log(self, figures: dict[str, float]) -> None:
        rounded = {k: round(v, 5) if isinstance(v, float) else v for k, v in figures.items()}
        with (self.folder / LOG).open("a") as log:
            log.write(json.dumps(rounded) + "\n")

    def _save(self, step: int) -> None:
        state = {
            "step": step,
            "schedule": asdict(self.schedule),
            "model": {name: tensor for name, tensor in self.model.state_dict().items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        partial = self.folder / f"{CHECKPOINT}.partial"
        torch.save(state, partial)
        partial.replace(self.folder / CHECKPOINT)

    def _resume(self) -> int:
        path = self.folder / CHECKPOINT
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        return int(state["step"])


def plot(folder: Path) -> None:
    """Draws ``curve.png`` from the folder's log: loss on the left, evaluations on the right."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in (folder / LOG).read_text().splitlines()]
    losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
    evaluations = [row for row in rows if "loss" not in row]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    left.plot(*zip(*losses, strict=True), linewidth=0.8)
    left.set(xlabel="step", ylabel="loss", yscale="log")
    for name in sorted({key for row in evaluations for key in row} - {"step"}):
        points = [(row["step"], row[name]) for row in evaluations if name in row]
        right.plot(*zip(*points, strict=True), marker=".", label=name)
    right.set(xlabel="step", ylabel="exact match", ylim=(0, 1))
    right.legend(fontsize=7)
    figure.savefig(folder / "curve.png", dpi=110)
    pyplot.close(figure)
