"""vLLM, embedded: its engine, its OpenAI app and its adapters. The only module that imports vLLM.

Importing this module takes seconds: do it where the server starts, not where the command line does.
Function names are vLLM 0.32's, whose `vllm serve` is the same chain of calls.
"""

import asyncio
import itertools
import logging
import multiprocessing
import os
import signal
import socket
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import FrameType

import torch
from fastapi import FastAPI
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import serve_http
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine import async_llm
from vllm.v1.engine import utils as engine_processes
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server import cpu_lora, prefork
from server.adapter_check import AdapterCheck, linear_layers
from server.engine_config import DRAIN_SECONDS, FORBIDDEN, EngineConfig, EngineUnusable
from server.residency import EngineRefused, EngineStopped
from server.routing import INFERENCE_PATHS

log = logging.getLogger(__name__)


class Engine:
    """vLLM running one base model, with the adapters that Residency loads into it."""

    def __init__(
        self, app: FastAPI, client: AsyncLLM, config: EngineConfig, check: AdapterCheck
    ) -> None:
        self.app = app
        self.base_model = config.served_name
        self.max_rank = config.slot_rank
        self.max_model_len: int = client.model_config.max_model_len
        self._client = client
        self._check = check
        self._adapters: dict[str, LoRARequest] = app.state.openai_serving_models.lora_requests
        self._ids = itertools.count(1)
        self._stopping = False

    @classmethod
    @asynccontextmanager
    async def running(cls, config: EngineConfig) -> AsyncIterator["Engine"]:
        """Start vLLM's processes, and stop them when the block ends.

        `app` then answers INFERENCE_PATHS and nothing else; add routes and middleware to it before
        serving. Starting blocks the event loop for most of its time. Raises EngineUnusable.
        """
        _prepare(config)
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(config.arguments())
        validate_parsed_serve_args(args)
        # a thread, to the end of which the engine's start leaves time
        layers = asyncio.create_task(
            asyncio.to_thread(linear_layers, config.model, config.target_modules)
        )
        await asyncio.sleep(0)
        with _sigterm_raises(), _client(args) as client:
            _join_log()
            app = await _build_app(client, args)
            dtype = client.model_config.dtype
            assert isinstance(dtype, torch.dtype)
            with _explained():
                found = await layers
            check = AdapterCheck(found, config.slot_rank, dtype)
            yield cls(app, client, config, check)

    @property
    def ready(self) -> bool:
        """Whether vLLM's processes live."""
        return not self._client.errored

    async def load(self, name: str, folder: Path) -> None:
        """Check the PEFT adapter in `folder` and load it as model `name`.

        A name is for one adapter and one folder for ever: vLLM's prefix cache knows an adapter by
        its name. Raises EngineRefused, EngineStopped.
        """
        await asyncio.to_thread(self._check.check, folder)
        request = LoRARequest(name, next(self._ids), str(folder.resolve()))
        try:
            await self._client.add_lora(request)
        except EngineDeadError as error:
            raise EngineStopped("The inference engine has died.") from error
        except Exception as error:
            log.exception("vLLM does not load the adapter %s", name)
            raise EngineRefused(f"vLLM does not load the adapter {name}.") from error
        self._adapters[name] = request

    async def unload(self, name: str) -> None:
        """Forget `name` and free its memory; after that its files may be deleted.

        vLLM reads an adapter's files again when a request needs it after `remove_lora`, and dies if
        they are gone. So requests that outlive their client's disconnect are aborted first; the
        engine takes both commands in this order.
        """
        request = self._adapters.pop(name)
        states = self._client.output_processor.request_states.values()
        left = [state.request_id for state in states if state.lora_name == name]
        try:
            await self._client.abort(left, internal=True)
            await self._client.remove_lora(request.lora_int_id)
        except EngineDeadError as error:
            raise EngineStopped("The inference engine has died.") from error

    async def serve(self, sock: socket.socket) -> None:
        """Answer HTTP on the listening socket until SIGTERM or SIGINT.

        Running requests may finish in DRAIN_SECONDS. Raises EngineStopped when the engine dies.
        """
        # asyncio does it for sockets that it opens itself; without, each answer waits 40 ms for an
        # acknowledgement of its headers
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host, port = sock.getsockname()[:2]
        self._client.shutdown = self._stop  # type: ignore[method-assign]
        close = await serve_http(
            self.app, sock, host=host, port=port, log_config=None, access_log=False
        )
        await close
        if not self._stopping:
            raise EngineStopped("The inference engine has died.")

    def _stop(self, timeout: float | None = None) -> None:
        """vLLM's shutdown, which `serve_http` calls on a signal and not when the engine dies."""
        self._stopping = True
        # it reports the end of its connection as a failure
        logging.getLogger(async_llm.__name__).setLevel(logging.CRITICAL)
        AsyncLLM.shutdown(self._client, timeout)


def _prepare(config: EngineConfig) -> None:
    for name in FORBIDDEN:
        if os.environ.pop(name, None) is not None:
            log.warning("%s is ignored: this server does not allow it", name)
    os.environ.update(config.environment())
    load_general_plugins()
    if current_platform.is_cpu() and current_platform.get_punica_wrapper() != cpu_lora.WRAPPER:
        raise EngineUnusable(
            "vLLM has not loaded the plug-in doclora_cpu_lora, without which requests to the base "
            "model get adapters of others: install this package, and name the plug-in in "
            "VLLM_PLUGINS if that is set."
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what is wrong with the base model or a setting into EngineUnusable."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise EngineUnusable(str(error)) from error


@contextmanager
def _client(args: Namespace) -> Iterator[AsyncLLM]:
    """vLLM's processes, and this process's end of them."""
    with _explained():
        config = AsyncEngineArgs.from_cli_args(args).create_engine_config(
            usage_context=UsageContext.OPENAI_API_SERVER
        )
    if prefork.started():  # vLLM itself spawns on a CPU, whatever it is told
        forks = multiprocessing.get_context("forkserver")
        engine_processes.get_mp_context = lambda: forks  # type: ignore[attr-defined]
    client = AsyncLLM.from_vllm_config(config, usage_context=UsageContext.OPENAI_API_SERVER)
    try:
        yield client
    finally:
        client.shutdown(timeout=DRAIN_SECONDS)


def _join_log() -> None:
    """Send vLLM's messages in this process where ours go; it has just set up its own handler."""
    messages = logging.getLogger("vllm")
    messages.handlers.clear()
    messages.propagate = True


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds the stack until `serve_http` takes it over: nothing is orphaned."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


async def _build_app(client: AsyncLLM, args: Namespace) -> FastAPI:
    """vLLM's app with the routes that this server routes, no others and no middleware."""
    tasks = await client.get_supported_tasks()
    app = build_app(args, tasks, client.model_config)
    app.router.routes[:] = [
        route for route in app.router.routes if getattr(route, "path", None) in INFERENCE_PATHS
    ]
    app.user_middleware.clear()
    app.middleware_stack = None  # built too early: ours is still to come
    await init_app_state(client, app.state, args, tasks)
    return app
