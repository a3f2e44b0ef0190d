"""The `doclora` command. Heavy packages are imported by the commands that need them."""

import inspect
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from pydantic import ValidationError
from pydantic.fields import FieldInfo
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table
from rich.text import Text

from server.client import Client, Json, RequestRefused, ServerUnreachable
from server.listening import CannotServe, listening
from server.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    help="A document, or the description of a task, becomes a LoRA adapter in one forward pass; "
    "chat with it by its ID.",
    epilog="Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 no server answers.",
    pretty_exceptions_show_locals=False,
)
console = Console()
notices = Console(stderr=True)

UNREACHABLE = 3
DEFAULT_URL = "http://127.0.0.1:8000"
FORWARDED = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


Url = Annotated[str, typer.Option(envvar="DOCLORA_URL", help="Address of the server")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs")]
Documents = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[FILE]...", help="UTF-8 text or Markdown", exists=True, dir_okay=False),
]
Description = Annotated[
    str | None, typer.Option(metavar="TEXT", help="A task to do, instead of documents to know")
]


def fail(message: str, status: int = 1) -> NoReturn:
    """End the command with a message on standard error."""
    notices.print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(status)


@contextmanager
def connected(url: str) -> Iterator[Client]:
    """A client whose errors end the command with a message and the right exit status."""
    try:
        with Client(url) as client:
            yield client
    except ServerUnreachable as error:
        fail(str(error), UNREACHABLE)
    except RequestRefused as error:
        fail(str(error))


def _with_a_flag_for_each_setting(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command` an option for each field of Settings; unset ones stay None."""
    flags = [
        inspect.Parameter(
            setting.alias or name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                setting.annotation | None,  # type: ignore[operator]
                typer.Option(help=_described(setting), show_default=False),
            ],
        )
        for name, setting in Settings.model_fields.items()
    ]
    command.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    command.__annotations__ = {flag.name: flag.annotation for flag in flags}
    return command


def _described(setting: FieldInfo) -> str | None:
    """The setting's description with its default, unless the description tells that itself."""
    told = setting.default is None or "default: " in (setting.description or "")
    return setting.description if told else f"{setting.description} (default: {setting.default})"


@app.command(epilog="Every option is also an environment variable, such as DOCLORA_MAX_WAIT.")
@_with_a_flag_for_each_setting
def serve(**flags: Any) -> None:
    """Run the server."""
    settings = _settings(flags)
    try:
        with listening(settings.host, settings.port) as sock:
            from server.app import run

            run(settings, sock)
    except CannotServe as error:
        fail(str(error))
    # everything is closed; at a regular exit the engine's libraries print a page about leaks
    os._exit(0)


def _settings(flags: Mapping[str, Any]) -> Settings:
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        fault = error.errors()[0]
        name = str(fault["loc"][0])
        option = f"--{name.replace('_', '-')} (DOCLORA_{name.upper()})"
        fail(f"{option}: {fault['msg']}, not {fault['input']!r}", 2)


def _require_one_source(files: list[Path] | None, description: str | None) -> None:
    if bool(files) == (description is not None):
        found = "both came" if files else "neither came"
        raise typer.BadParameter(
            f"an adapter is made from documents or a description; {found}",
            param_hint="FILE or --description",
        )


@app.command()
def add(
    files: Documents = None,
    description: Description = None,
    name: Annotated[str | None, typer.Option(help="Name of the adapter (one only)")] = None,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Turn documents, or the description of a task, into adapters on the server.

    A document that is refused does not keep the others from being made.
    """
    _require_one_source(files, description)
    if name is not None and files and len(files) > 1:
        raise typer.BadParameter("one name cannot name several adapters", param_hint="--name")
    finished: list[Json] = []
    faults: list[str] = []
    try:
        with connected(url) as client, _stages() as stages:
            accepted = []
            if description is not None:
                with _noting_refusal("the description", faults):
                    accepted.append(client.describe(description, name))
            for file in files or []:
                with _noting_refusal(str(file), faults):
                    accepted.append(client.add(file, name))
            for adapter in accepted:
                with _noting_refusal(_title(adapter), faults):
                    finished.append(_follow(client, adapter, stages))
    finally:  # also when the server goes away meanwhile
        _print_made(finished, as_json)
    broken = [adapter for adapter in finished if adapter["status"] != "ready"]
    faults += [f"{_title(adapter)}: {_reason(adapter)}" for adapter in broken]
    if faults:
        fail("; ".join(faults))


@app.command("ls")
def list_adapters(
    limit: Annotated[int, typer.Option(min=1, max=100, help="Newest adapters to show")] = 20,
    as_json: AsJson = False,
    url: Url = DEFAULT_URL,
) -> None:
    """List the server's adapters, newest first."""
    with connected(url) as client:
        page = client.adapters(limit)
    if as_json:
        typer.echo(json.dumps(page))
        return
    if not page["data"]:
        notices.print("No adapters yet; make one with `doclora add FILE`.")
        return
    console.print(_table(page["data"]))
    if page["has_more"]:
        notices.print(f"There are more than {limit}.", style="dim")


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="Adapter ID or name, or the base model")],
    question: Annotated[str | None, typer.Argument(help="Ask this and leave")] = None,
    url: Url = DEFAULT_URL,
) -> None:
    """Talk to an adapter; without a question, until end of input."""
    with connected(url) as client:
        if question is not None:
            _answer(client, model, [{"role": "user", "content": question}])
            return
        notices.print(f"Chatting with {model}; end with Ctrl-D.", style="dim", markup=False)
        conversation: list[Json] = []
        while (line := _ask()) is not None:
            turn = {"role": "user", "content": line}
            try:
                answer = _answer(client, model, [*conversation, turn])
            except RequestRefused as error:
                if error.status != 400 or not conversation:
                    raise
                notices.print("The conversation no longer fits; starting afresh.", style="yellow")
                conversation.clear()
                answer = _answer(client, model, [turn])
            conversation += [turn, {"role": "assistant", "content": answer}]


@app.command("rm")
def remove(
    adapters: Annotated[list[str], typer.Argument(help="Adapter IDs", metavar="ID...")],
    url: Url = DEFAULT_URL,
) -> None:
    """Delete adapters and what they were made from for good."""
    with connected(url) as client:
        for adapter in adapters:
            client.remove(adapter)
            typer.echo(f"{adapter} deleted")


@app.command()
def generate(
    out: Annotated[
        Path,
        typer.Option(
            help="Folder for the PEFT adapter folders, which are named like the documents, or by "
            "the first words of the description"
        ),
    ],
    files: Documents = None,
    description: Description = None,
    generator: Annotated[
        Path | None,
        typer.Option(
            help="Native generator folder (default: DOCLORA_GENERATOR, or the embedded ones)",
            show_default=False,
        ),
    ] = None,
    max_chunk_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Tokens of a document's chunk (default: the generator's)"),
    ] = None,
) -> None:
    """Turn documents, or the description of a task, into PEFT adapter folders without a server."""
    _require_one_source(files, description)
    generators = _settings({}).generators if generator is None else [generator]

    from server import offline

    with _stages() as stages:
        labels = [offline.DESCRIPTION] if description is not None else list(map(str, files or []))
        tasks = {label: stages.add_task(escape(label), total=None, stage="") for label in labels}

        def report(label: str, done: int, total: int) -> None:
            stages.update(tasks[label], completed=done, total=total)

        try:
            if description is not None:
                written = offline.generate_from_description(description, out, generators, report)
            else:
                written = offline.generate_from_documents(
                    *(files or [], out, generators, max_chunk_tokens), report
                )
        except offline.CannotGenerate as error:
            fail(str(error))
    for adapter in written:
        made = adapter.generated
        typer.echo(
            f"{adapter.folder}  {made.tokens} tokens, {made.chunks} chunks, rank {made.rank}, "
            f"{made.seconds:.2f} s"
        )


@app.command("import", context_settings=FORWARDED)
def import_generator(context: typer.Context) -> None:
    """Make generators of published checkpoints."""
    from generator.importing.cli import app as importing

    importing(context.args, prog_name="doclora import")


@app.command(context_settings=FORWARDED)
def train(context: typer.Context) -> None:
    """Train the embedded base model and its generators."""
    from generator.training.cli import app as training

    training(context.args, prog_name="doclora train")


@app.command("eval", context_settings=FORWARDED)
def evaluate(context: typer.Context) -> None:
    """Measure what a generator's adapters remember."""
    from generator.evaluation.cli import app as evaluation

    evaluation(context.args, prog_name="doclora eval")


@contextmanager
def _noting_refusal(what: str, faults: list[str]) -> Iterator[None]:
    """Note in `faults` what the server refuses in the block, and go on."""
    try:
        yield
    except RequestRefused as error:
        faults.append(f"{what}: {error}")


def _print_made(adapters: list[Json], as_json: bool) -> None:
    """A line for each adapter; for people, of those that are ready."""
    for adapter in adapters:
        if as_json:
            typer.echo(json.dumps(adapter))
        elif adapter["status"] == "ready":
            typer.echo(f"{adapter['id']}  {_title(adapter)}  {_measures(adapter)}")


def _stages() -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[stage]}"),
        console=notices,
        transient=True,
    )


def _follow(client: Client, adapter: Json, stages: Progress) -> Json:
    """The adapter in its final state, its way there shown."""
    task = stages.add_task(escape(_title(adapter)), total=None, stage=adapter["status"])
    for state in client.follow(adapter["id"]):
        adapter = state
        chunks = adapter["progress"]
        stages.update(
            task,
            stage=adapter["status"],
            completed=chunks["done"],
            total=chunks["total"] or None,
        )
    return adapter


def _ask() -> str | None:
    """A line of the user's that says something; None at the end of input."""
    while True:
        try:
            line = console.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            return None
        if line:
            return line


def _answer(client: Client, model: str, messages: list[Json]) -> str:
    pieces = []
    for piece in client.chat(model, messages):
        typer.echo(piece, nl=False)
        pieces.append(piece)
    typer.echo()
    return "".join(pieces)


def _title(adapter: Json) -> str:
    if adapter["name"]:
        return f"{adapter['name']} v{adapter['version']}"
    return str(adapter["source_name"] or adapter["id"])


def _reason(adapter: Json) -> str:
    return str(adapter["error"]["message"] if adapter["error"] else adapter["status"])


def _measures(adapter: Json) -> str:
    seconds = sum(time for time in adapter["timings_ms"].values() if time) / 1000
    return (
        f"{adapter['tokens']} tokens, {adapter['chunks']} chunks, rank {adapter['rank']}, "
        f"{adapter['bytes'] / 2**20:.1f} MiB, {seconds:.2f} s"
    )


def _table(adapters: list[Json]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("ID", no_wrap=True)
    table.add_column("KIND")
    table.add_column("NAME")
    table.add_column("STATUS")
    for measure in ("TOKENS", "RANK", "SIZE"):
        table.add_column(measure, justify="right")
    table.add_column("RESIDENT")
    for adapter in adapters:
        size = f"{adapter['bytes'] / 2**20:.1f} MiB" if adapter["bytes"] else ""
        title = _title(adapter) if adapter["name"] or adapter["source_name"] else ""
        table.add_row(
            adapter["id"],
            adapter["kind"],
            Text(title),  # as it is: a file's name may look like markup
            adapter["status"],
            str(adapter["tokens"] or ""),
            str(adapter["rank"] or ""),
            size,
            "yes" if adapter["resident"] else "",
        )
    return table
