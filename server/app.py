"""The server put together: store, generators, engine, jobs and routes."""

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from adapters_store import AdapterStore, StoreError
from generator.config import DocGeneratorConfig, GeneratorConfig, InvalidGenerator
from generator.process import GeneratorProcess
from server import errors, logs, prefork
from server.access import AccessMiddleware
from server.changes import Changes
from server.engine_config import EngineConfig, EngineUnusable
from server.generators import (
    Generators,
    ServedGenerator,
    chat_template,
    kind_of,
    name_of,
    read_configs,
    splitter_of,
    target_modules,
)
from server.listening import CannotServe
from server.residency import EngineStopped
from server.routes import adapters, health, models
from server.routing import InferenceRouting
from server.service import Service
from server.settings import EMBEDDED, Settings

log = logging.getLogger(__name__)

EMBEDDED_BASE = EMBEDDED / "base"
EMBEDDED_NAME = "doclora-tiny"
EMBEDDED_KV_CACHE_GIB = 0.25  # thousands of its blocks
STOPPING_SECONDS = 0.2
DESCRIPTION = """
Turns a document, or the description of a task, into a LoRA adapter in one forward pass of a
hypernetwork. Send either to `POST /v1/adapters`; then name the adapter's ID as `model` in
`POST /v1/chat/completions` and the others, with nothing but your question in the messages.
"""


def run(settings: Settings, sock: socket.socket) -> None:
    """Serve on the listening socket until SIGTERM or SIGINT. Raises CannotServe."""
    logs.configure(settings.log_level, settings.log_format)
    with _explained():
        configs = read_configs(settings.generators, settings.model)
        engine_config = _engine_config(settings, configs)
        _keep_to_ourselves([engine_config.model, *(config.encoder_path for config in configs)])
        prefork.start(engine_config)  # before anything here imports vLLM, to do it meanwhile
        asyncio.run(_serve(settings, configs, engine_config, sock))


def _engine_config(settings: Settings, configs: Sequence[GeneratorConfig]) -> EngineConfig:
    model = settings.model or configs[0].base_path
    if model.startswith((".", "/")) and not Path(model).is_dir():
        raise CannotServe(f"there is no folder {model}; --model takes a folder or a hub name")
    embedded = Path(model).resolve() == EMBEDDED_BASE.resolve()
    kv_cache_gib = settings.kv_cache_gib
    if kv_cache_gib is None and embedded:
        kv_cache_gib = EMBEDDED_KV_CACHE_GIB
    return EngineConfig(
        model=model,
        served_name=settings.served_name or (EMBEDDED_NAME if embedded else _name_of(model)),
        max_rank=max(config.max_rank for config in configs),
        target_modules=target_modules(configs),
        max_loras=settings.max_loras,
        max_resident=settings.max_resident,
        dtype=settings.dtype,
        max_model_len=settings.max_model_len,
        kv_cache_gib=kv_cache_gib,
        chat_template=chat_template(configs),
        cpus=settings.cpus,
        # its warnings on a CPU are a page that no operator can act on
        log_level="info" if settings.log_level == "debug" else "error",
        log_format=settings.log_format,
    )


def _generators(
    settings: Settings, configs: Sequence[GeneratorConfig], engine: EngineConfig
) -> Generators:
    return {
        kind_of(config): ServedGenerator(
            name=name_of(config),
            splitter=splitter_of(folder, config),
            process=_generator_process(settings, folder, engine),
        )
        for folder, config in zip(settings.generators, configs, strict=True)
    }


def _generator_process(settings: Settings, folder: Path, engine: EngineConfig) -> GeneratorProcess:
    return GeneratorProcess(
        folder,
        device=settings.generator_device,
        mode=settings.generator_mode,
        base_name=engine.served_name,
        max_batch_tokens=settings.max_batch_tokens,
    )


async def _serve(
    settings: Settings,
    configs: Sequence[GeneratorConfig],
    engine_config: EngineConfig,
    sock: socket.socket,
) -> None:
    began = time.monotonic()
    generators = _generators(settings, configs, engine_config)
    async with AsyncExitStack() as stack:
        opened = await AdapterStore.open(settings.data_dir, settings.database_url)
        store = await stack.enter_async_context(opened)
        names = " and ".join(f"the generator {config.name}" for config in configs)
        log.info("starting the engine and %s", names)
        starting = [asyncio.create_task(generator.start()) for generator in generators.values()]
        stack.push_async_callback(_stop_generators, generators, starting)
        await asyncio.sleep(0)  # the children are spawned now; the engine's start blocks this loop

        from server.engine import Engine  # seconds of importing vLLM

        engine = await stack.enter_async_context(Engine.running(engine_config))
        await asyncio.gather(*starting)
        service = await stack.enter_async_context(
            Service.running(settings, store, generators, engine)
        )
        furnish(engine.app, service)
        _announce(settings, configs, engine_config, time.monotonic() - began)
        beside = [
            asyncio.create_task(_end_waits(engine.app, service.changes)),
            # takes a second, for vLLM's requests: not in the event loop, not in the first request
            asyncio.create_task(asyncio.to_thread(engine.app.openapi)),
        ]
        try:
            await engine.serve(sock)
        finally:
            for task in beside:
                task.cancel()
        log.info("stopped serving")


def furnish(app: FastAPI, service: Service) -> None:
    """Add this product's routes, errors, middleware and OpenAPI document to vLLM's app."""
    app.state.doclora = service
    errors.install(app)
    for router in (adapters.router, models.router, health.router):
        app.include_router(router)
    app.title, app.version = "doclora", version("doclora")
    app.description = DESCRIPTION
    app.openapi_url, app.docs_url = "/openapi.json", "/docs"
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    app.setup()
    app.add_middleware(
        InferenceRouting, resolve=service.models.resolve, residency=service.residency
    )
    app.add_middleware(AccessMiddleware)  # outermost: added last


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document; FastAPI's own 422 goes, because wrong fields are answered with 400."""
    if app.openapi_schema is None:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        error = {"schema": {"$ref": "#/components/schemas/ErrorBody"}}
        wrong_fields = {"description": "Bad Request", "content": {"application/json": error}}
        for path in document["paths"].values():
            for operation in path.values():
                if operation["responses"].pop("422", None) is not None:
                    operation["responses"].setdefault("400", wrong_fields)
        for unused in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema


async def _stop_generators(generators: Generators, starting: Sequence[asyncio.Task[None]]) -> None:
    for task in starting:
        task.cancel()
    await asyncio.gather(*starting, return_exceptions=True)
    await asyncio.gather(*(generator.process.stop() for generator in generators.values()))


async def _end_waits(app: FastAPI, changes: Changes) -> None:
    """Once the server is told to stop, end what waits for adapters: it would hold up the stop."""
    while not getattr(getattr(app.state, "server", None), "should_exit", False):
        await asyncio.sleep(STOPPING_SECONDS)
    changes.close()


def _announce(
    settings: Settings,
    configs: Sequence[GeneratorConfig],
    engine: EngineConfig,
    seconds: float,
) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    cache = "as vLLM chooses" if engine.kv_cache_gib is None else f"{engine.kv_cache_gib:g} GiB"
    log.info("base model  %s (%s)", engine.served_name, engine.model)
    for config in configs:
        log.info("generator   %s: %s", name_of(config), _capacity(config))
    log.info(
        "memory      KV cache %s; %d adapters of rank %d in a batch, %d loaded",
        *(cache, engine.max_loras, engine.slot_rank, engine.max_resident),
    )
    log.info("data        %s", settings.data_dir.resolve())
    log.info("ready       http://%s:%d after %.0f s", host, settings.port, seconds)


def _capacity(config: GeneratorConfig) -> str:
    """What a generator reads and makes, for the log."""
    if isinstance(config, DocGeneratorConfig):
        return (
            f"documents, rank {config.hypernetwork.rank} a chunk of {config.max_chunk_tokens} "
            f"tokens, up to {config.max_chunks} chunks, adapters up to rank {config.max_rank}"
        )
    return (
        f"descriptions of up to {config.max_description_tokens} tokens, "
        f"adapters of rank {config.max_rank}"
    )


def _name_of(model: str) -> str:
    """What the API calls a base model that was given no name."""
    folder = Path(model)
    return folder.resolve().name if folder.is_dir() else model


def _keep_to_ourselves(models: Sequence[Path | str]) -> None:
    """No telemetry, and no question to a model hub where all models lie here."""
    os.environ["VLLM_NO_USAGE_STATS"] = "1"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if all(Path(model).is_dir() for model in models):
        os.environ["HF_HUB_OFFLINE"] = "1"


@contextmanager
def _explained() -> Iterator[None]:
    try:
        with contextlib.suppress(KeyboardInterrupt):
            yield
    except InvalidGenerator as error:
        raise CannotServe(f"{error}; --generator names another generator folder") from error
    except StoreError as error:
        raise CannotServe(str(error)) from error
    except EngineUnusable as error:
        raise CannotServe(f"the engine does not start: {error}") from error
    except EngineStopped as error:
        raise CannotServe(f"{error} What it said is above.") from error
