"""``doclora eval``: what a generator's adapters make of a base model."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import track

app = typer.Typer(help="Measure a generator on what training never saw.")
PRETRAINED = Path(__file__).parent.parent / "pretrained" / "tiny"
Figures = dict[str, Any]


@app.callback(invoke_without_command=True)
def evaluate(
    generator: Annotated[Path, typer.Option(help="Native generator folder.")] = PRETRAINED / "doc",
    documents: Annotated[int, typer.Option(help="Documents of each sort.", min=1)] = 100,
    phrasings: Annotated[
        int, typer.Option(help="Of a Text-to-LoRA generator: descriptions of each task.", min=1)
    ] = 5,
    document_generator: Annotated[
        Path, typer.Option(help="Of a Text-to-LoRA generator: whose adapters tasks go with.")
    ] = PRETRAINED / "doc",
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Exact match on what training never saw.

    Of a Doc-to-LoRA generator: with the document in context, with the adapter only, with neither.
    Of a Text-to-LoRA generator: with the task's adapter, composed with a document's, with the
    description in context.
    """
    from generator.config import DocGeneratorConfig, InvalidGenerator, read_config

    try:
        if isinstance(read_config(generator), DocGeneratorConfig):
            figures = _examine_documents(generator, documents, seed)
        else:
            figures = _examine_tasks(generator, document_generator, phrasings, seed)
    except InvalidGenerator as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        raise typer.Exit(1) from None
    if out is not None:
        out.write_text(json.dumps(figures, indent=1) + "\n")


def _examine_documents(generator: Path, documents: int, seed: int) -> list[Figures]:
    from generator.evaluation.loading import load_examiner, standard_suites
    from generator.evaluation.report import examine, kinds_table, suites_table

    examiner = load_examiner(generator)
    suites = standard_suites(examiner, documents, seed)
    results = [examine(examiner, suite) for suite in track(suites, "Asking", transient=True)]
    console = Console()
    console.print(suites_table(results))
    for result in results:
        if result.name.startswith(("4 facts", "4 chunks")):
            console.print(kinds_table(result))
    return [result.as_json() for result in results]


def _examine_tasks(
    generator: Path, document_generator: Path, phrasings: int, seed: int
) -> list[Figures]:
    from generator.evaluation.loading import load_task_examiner
    from generator.evaluation.tasks import examine_tasks, task_exams, tasks_table
    from generator.training.corpus.inventory import Split

    examiner = load_task_examiner(generator, document_generator)
    suites = (
        ("known, familiar words", Split.TRAIN, Split.TRAIN),
        ("known tasks", Split.TRAIN, Split.HELD_OUT),
        ("unseen tasks", Split.HELD_OUT, Split.HELD_OUT),
    )
    results = [
        examine_tasks(examiner, name, task_exams(split, phrasings, examiner.chunker, seed, about))
        for name, split, about in track(suites, "Asking", transient=True)
    ]
    Console().print(tasks_table(results))
    return [result.as_json() for result in results]


if __name__ == "__main__":
    app()
