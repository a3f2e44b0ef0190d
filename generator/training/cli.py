"""``doclora train``: the embedded default model from scratch."""

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Train the embedded default model from scratch.", no_args_is_help=True)
PRETRAINED = Path(__file__).parent.parent / "pretrained" / "tiny"

Out = Annotated[Path, typer.Option(help="Where the trained model is written.")]
Run = Annotated[Path, typer.Option(help="Folder of checkpoints, log and loss curve; resumed.")]
Steps = Annotated[int, typer.Option(help="Optimizer steps.", min=1)]
StartFrom = Annotated[
    Path | None,
    typer.Option(
        help="A trained folder to go on from, with a schedule of its own.",
        exists=True,
        file_okay=False,
    ),
]
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
    start_from: StartFrom = None,
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
        start_from=start_from,
    )


@app.command()
def doc(
    base: Annotated[Path, typer.Option(help="The base model's folder.")] = PRETRAINED / "base",
    out: Out = PRETRAINED / "doc",
    run: Run = Path("runs/doc"),
    steps: Steps = 6000,
    latent: Annotated[int, typer.Option(help="Width of the aggregator.", min=64)] = 256,
    latents: Annotated[int, typer.Option(help="Latent queries for each layer.", min=1)] = 16,
    blocks: Annotated[int, typer.Option(help="Cross-attention blocks.", min=1)] = 3,
    rate: float = 1e-3,
    matrix_rate: float = 2e-3,
    kl_weight: Annotated[float, typer.Option(help="Of the divergence from the teacher.")] = 0.5,
    minutes: Minutes = None,
    start_from: StartFrom = None,
) -> None:
    """Train the Doc-to-LoRA hypernetwork of a trained base model."""
    from generator.training.doc import train_doc

    train_doc(
        base,
        out,
        run,
        steps=steps,
        latent=latent,
        latents=latents,
        blocks=blocks,
        rate=rate,
        matrix_rate=matrix_rate,
        kl_weight=kl_weight,
        minutes=minutes,
        start_from=start_from,
    )


@app.command()
def text(
    base: Annotated[Path, typer.Option(help="The base model's folder.")] = PRETRAINED / "base",
    documents: Annotated[
        Path, typer.Option(help="Doc-to-LoRA generator whose adapters tasks are composed with.")
    ] = PRETRAINED / "doc",
    out: Out = PRETRAINED / "text",
    run: Run = Path("runs/text"),
    steps: Steps = 4000,
    modules: Annotated[list[str], typer.Option(help="Target modules.")] = ["down_proj"],  # noqa: B006
    latent: Annotated[int, typer.Option(help="Width of the trunk.", min=64)] = 256,
    head: Annotated[int, typer.Option(help="Width before the heads.", min=16)] = 256,
    rate: float = 1e-3,
    matrix_rate: float = 2e-3,
    encoder: Annotated[
        Literal["minilm", "base"], typer.Option(help="What embeds descriptions.")
    ] = "minilm",
    minutes: Minutes = None,
    start_from: StartFrom = None,
) -> None:
    """Train the Text-to-LoRA hypernetwork of a trained base model."""
    from generator.training.text import train_text

    train_text(
        base,
        documents,
        out,
        run,
        steps=steps,
        modules=modules,
        latent=latent,
        head=head,
        rate=rate,
        matrix_rate=matrix_rate,
        encoder=encoder,
        minutes=minutes,
        start_from=start_from,
    )


if __name__ == "__main__":
    app()
