"""``doclora import``: published checkpoints become native generator folders."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(help="Make a generator folder of a published checkpoint.", no_args_is_help=True)


@app.callback()
def importing() -> None:
    """Make a generator folder of a published checkpoint."""


@contextmanager
def _refusals() -> Iterator[None]:
    from generator.importing.models import CannotImport

    try:
        yield
    except (CannotImport, OSError) as error:
        # names in a checkpoint are others' choice, and must not steer the terminal
        shown = "".join(letter if letter.isprintable() else "?" for letter in str(error))
        typer.secho(f"error: {shown}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None


@app.command("doc-to-lora")
def doc_to_lora(
    checkpoint: Annotated[
        Path, typer.Argument(help="Its pytorch_model.bin", exists=True, dir_okay=False)
    ],
    out: Annotated[Path, typer.Option(help="Generator folder to write")],
    base: Annotated[
        str | None, typer.Option(help="Base model: folder or hub ID (default: the checkpoint's)")
    ] = None,
    context_encoder: Annotated[
        str | None,
        typer.Option(help="Context encoder: folder or hub ID (default: the checkpoint's)"),
    ] = None,
    prompt_format: Annotated[
        Path | None,
        typer.Option(
            help="JSON with context_prefix_ids, context_suffix_ids and chat_template "
            "(default: as published for the base model)",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    max_chunk_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a chunk (default: as published)")
    ] = None,
    max_chunks: Annotated[
        int | None, typer.Option(min=1, help="Chunks of the longest document (default: 7)")
    ] = None,
) -> None:
    """Import a Doc-to-LoRA checkpoint. Its pickle is read without being trusted."""
    from generator.importing.doc_to_lora import Choices, import_doc_to_lora

    choices = Choices(
        base=base,
        context_encoder=context_encoder,
        prompt_format=prompt_format,
        max_chunk_tokens=max_chunk_tokens,
        max_chunks=max_chunks,
    )
    with _refusals():
        config = import_doc_to_lora(checkpoint, out, choices)
    typer.echo(
        f"{out}  {', '.join(config.hypernetwork.modules)} of {config.base_model}, "
        f"rank {config.hypernetwork.rank} a chunk of {config.max_chunk_tokens} tokens"
    )


@app.command("text-to-lora")
def text_to_lora(
    run: Annotated[
        Path,
        typer.Argument(
            help="Its folder with hypermod.pt, args.yaml and adapter_config.json, or a folder "
            "checkpoints/it_N in it"
        ),
    ],
    out: Annotated[Path, typer.Option(help="Generator folder to write")],
    base: Annotated[
        str | None, typer.Option(help="Base model: folder or hub ID (default: the checkpoint's)")
    ] = None,
    description_encoder: Annotated[
        str | None,
        typer.Option(help="Description encoder: folder or hub ID (default: the checkpoint's)"),
    ] = None,
    pooling: Annotated[
        Literal["cls", "last_token", "mean"] | None,
        typer.Option(help="Which of the encoder's states embed (default: as published for it)"),
    ] = None,
    chat_template: Annotated[
        Path | None,
        typer.Option(
            help="Jinja template of chats with its adapters (default: as published for the base "
            "model, or the base model's own)",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
) -> None:
    """Import a Text-to-LoRA checkpoint. Its pickle is read without being trusted."""
    from generator.importing.text_to_lora import Choices, import_text_to_lora

    choices = Choices(
        base=base,
        description_encoder=description_encoder,
        pooling=pooling,
        chat_template=chat_template,
    )
    with _refusals():
        config = import_text_to_lora(run, out, choices)
    typer.echo(
        f"{out}  {', '.join(config.hypernetwork.modules)} of {config.base_model}, "
        f"rank {config.hypernetwork.rank}, descriptions of {config.max_description_tokens} tokens "
        f"read by {config.description_encoder or 'the base model'}"
    )
