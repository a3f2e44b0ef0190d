"""A killed run goes on where it was."""

import json
from pathlib import Path

import torch
from torch import Tensor, nn

from generator.training.loop import (
    LOG,
    Phase,
    Schedule,
    TrainingRun,
    optimizers,
    phase_at,
)

STEPS = 200


def batch_of(step: int) -> Tensor:
    return torch.randn(16, 8, generator=torch.Generator().manual_seed(step))


def trained(folder: Path, minutes: tuple[float | None, ...]) -> nn.Module:
    """A little regression, interrupted and resumed between the entries of ``minutes``."""
    torch.manual_seed(0)
    target = torch.randn(8, 4)
    for limit in minutes:
        torch.manual_seed(1)
        model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))
        schedule = Schedule(STEPS, rate=3e-2, matrix_rate=3e-2, warm_up=2)
        matrices = [p for p in model.parameters() if p.dim() == 2]
        others = [p for p in model.parameters() if p.dim() != 2]

        def loss_of(x: Tensor, model: nn.Module = model) -> tuple[Tensor, dict[str, float]]:
            return (model(x) - x @ target).square().mean(), {}

        run = TrainingRun(folder, model, optimizers(matrices, others, schedule), schedule)
        run.run(batch_of, loss_of, lambda: {"held out": 0.5}, save_every=5, minutes=limit)
    return model


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = trained(tmp_path / "whole", (None,))
    resumed = trained(tmp_path / "resumed", (0.0, 0.0, None))
    for expected, found in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(found, expected)


def test_training_lowers_the_loss_and_leaves_a_log_and_a_curve(tmp_path: Path) -> None:
    trained(tmp_path, (None,))
    rows = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < losses[0]
    assert (tmp_path / "curve.png").stat().st_size > 1000


def test_phases_follow_each_other_by_their_shares() -> None:
    phases = (Phase(0.5), Phase(0.3), Phase(0.2))
    found = [phase_at(phases, step, 10) for step in range(10)]
    assert found == [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]


def test_the_rate_warms_up_holds_and_decays_to_a_tenth() -> None:
    schedule = Schedule(1000, rate=1.0, matrix_rate=1.0, warm_up=100, decay_share=0.4)
    assert schedule.factor(0) == 0.01
    assert schedule.factor(500) == 1.0
    assert abs(schedule.factor(1000) - 0.1) < 1e-9
