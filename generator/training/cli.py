"""``doclora train``: the embedded default model from scratch."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train the embedded default model from scratch.", no_args_is_help=True)
PRETRAINED = Path(__file__).parent.parent / "pretrained" / "tiny"

Out = Annotated[Path, typer.Option(help="Where the trained model is written.")]
Run = Annotated[Path, typer.Option(help="Folder of checkpoints, log and loss curve; resumed.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps.", min=1)]
Minutes = Annotated[float | None, typer.Option(help="Stop, saved, after so many minutes.")]


@app.callback()
def training() -> None:
    """Train the embedded default model from scratch."""


@app.command()
def base(
    out: Out = PRETRAINED / "base",
    run: Run = Path("runs/base"),
    steps: Steps = 3000,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    hidden: Annotated[int, typer.Option(min=64)] = 256,
    rate: float = 2e-3,
    matrix_rate: float = 2e-3,
    minutes: Minutes = None,
) -> None:
    """Train the base language model."""
    from generator.training.base import train_base

    train_base(
        out,
        run,
        steps=steps,
        layers=layers,
        hidden=hidden,
        rate=rate,
        matrix_rate=matrix_rate,
        minutes=minutes,
    )


if __name__ == "__main__":
    app()
