"""``doclora eval``: what a generator's adapters know, against the document in the context."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Measure a generator on held-out documents.")
PRETRAINED = Path(__file__).parent.parent / "pretrained" / "tiny" / "doc"


@app.callback(invoke_without_command=True)
def evaluate(
    generator: Annotated[Path, typer.Option(help="Native generator folder.")] = PRETRAINED,
    documents: Annotated[int, typer.Option(help="Documents of each sort.", min=1)] = 100,
    seed: int = 0,
    out: Annotated[Path | None, typer.Option(help="Write the figures as JSON.")] = None,
) -> None:
    """Exact match with the document in context, with the adapter only, and with neither."""
    from rich.console import Console
    from rich.progress import track

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
    if out is not None:
        out.write_text(json.dumps([result.as_json() for result in results], indent=1) + "\n")


if __name__ == "__main__":
    app()
