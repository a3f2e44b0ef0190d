"""vLLM, embedded: its engine, its OpenAI app and its adapters. The only module that imports vLLM.

Importing this module takes seconds: do it where the server starts, not where the command line does.
Function names are vLLM 0.32's, whose `vllm serve` is the same chain of calls.
"""

import asyncio
import itertools
import logging
import os
import signal
import socket
from argparse import Namespace
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

from fastapi import FastAPI
from vllm.entrypoints.launchers.api_server.app_state import init_app_state
from vllm.entrypoints.launchers.api_server.entry import build_async_engine_client
from vllm.entrypoints.launchers.app import build_app
from vllm.entrypoints.launchers.cli_args import make_arg_parser, validate_parsed_serve_args
from vllm.entrypoints.launchers.launcher import serve_http
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.plugins import load_general_plugins
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError

from server import cpu_lora
from server.adapter_check import AdapterCheck
from server.residency import EngineRefused, EngineStopped
from server.routing import INFERENCE_PATHS

log = logging.getLogger(__name__)

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of --max-lora-rank
GIB = 2**30
DRAIN_SECONDS = 5  # running requests may finish in this time after SIGTERM

# Variables of vLLM that would open what this server keeps shut: loading any path as an adapter,
# answering for unknown models, reading other callers' responses, debugging routes.
FORBIDDEN = (
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_SKIP_MODEL_NAME_VALIDATION",
    "VLLM_ENABLE_RESPONSES_API_STORE",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_API_KEY",
)


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """How vLLM is started.

    model: the base model's folder or hub name; served_name: its name in the API
    max_rank: the largest rank an adapter may have; target_modules: the layers adapters change
    max_loras: distinct adapters in one batch; max_resident: adapters loaded at once
    kv_cache_gib: memory of the KV cache, None for vLLM's choice by `gpu_memory_utilization`
    chat_template: Jinja text or a file, None for the tokenizer's own
    cpus: cores of the engine on CPU, like "0-3"; None for all that this process may use
    log_level, log_format: of vLLM's own messages
    """

    model: Path | str
    served_name: str
    max_rank: int
    target_modules: tuple[str, ...]
    max_loras: int = 4
    max_resident: int = 64
    dtype: str = "auto"
    max_model_len: int | None = None
    kv_cache_gib: float | None = 1.0
    gpu_memory_utilization: float | None = None
    chat_template: str | None = None
    cpus: str | None = None
    log_level: str = "error"
    log_format: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        if not 1 <= self.max_rank <= RANKS[-1]:
            raise ValueError(f"max_rank is {self.max_rank}; vLLM takes 1 to {RANKS[-1]}.")

    @property
    def slot_rank(self) -> int:
        """The smallest rank vLLM knows that takes `max_rank`."""
        return next(rank for rank in RANKS if rank >= self.max_rank)

    def arguments(self) -> list[str]:
        """The command line of `vllm serve`."""
        given = {
            "model": str(self.model),
            "served-model-name": self.served_name,
            "dtype": self.dtype,
            "max-model-len": self.max_model_len,
            "chat-template": self.chat_template,
            "gpu-memory-utilization": self.gpu_memory_utilization,
            "kv-cache-memory-bytes": self.kv_cache_gib and int(self.kv_cache_gib * GIB),
            "max-loras": self.max_loras,
            "max-cpu-loras": max(self.max_resident, self.max_loras),
            "max-lora-rank": self.slot_rank,
            "logging-config.formatter": self.log_format,
            "shutdown-timeout": DRAIN_SECONDS,
        }
        flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
        switches = ["--enable-lora", "--disable-fastapi-docs", "--no-use-tqdm-on-load"]
        return [*flags, *switches, "--lora-target-modules", *self.target_modules]

    def environment(self) -> dict[str, str]:
        """Variables that vLLM reads in all of its processes."""
        return {
            "VLLM_LOGGING_LEVEL": self.log_level.upper(),
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONWARNINGS": "ignore",  # of its libraries, about each other
            "TORCH_CPP_LOG_LEVEL": "ERROR",
            "VLLM_CPU_OMP_THREADS_BIND": self.cpus
            or ",".join(map(str, sorted(os.sched_getaffinity(0)))),
        }


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

    @classmethod
    @asynccontextmanager
    async def running(cls, config: EngineConfig) -> AsyncIterator["Engine"]:
        """Start vLLM's processes, and stop them when the block ends.

        `app` then answers INFERENCE_PATHS and nothing else; add routes and middleware to it before
        serving. Starting blocks the event loop for most of its time.
        """
        _prepare(config)
        args = make_arg_parser(FlexibleArgumentParser()).parse_args(config.arguments())
        validate_parsed_serve_args(args)
        with _sigterm_raises():
            async with build_async_engine_client(args) as client:
                assert isinstance(client, AsyncLLM)
                _join_log()
                app = await _build_app(client, args)
                check = await asyncio.to_thread(
                    AdapterCheck.for_base,
                    config.model,
                    config.target_modules,
                    config.slot_rank,
                    client.model_config.dtype,
                )
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
            raise EngineRefused(f"vLLM does not load the adapter {name}: {error}") from error
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
        """Answer HTTP on the bound socket until SIGTERM or SIGINT, or until the engine dies."""
        host, port = sock.getsockname()[:2]
        stopped = await serve_http(
            self.app,
            sock,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
        )
        await stopped


def _prepare(config: EngineConfig) -> None:
    for name in FORBIDDEN:
        if os.environ.pop(name, None) is not None:
            log.warning("%s is ignored: this server does not allow it", name)
    os.environ.update(config.environment())
    load_general_plugins()
    if current_platform.is_cpu() and current_platform.get_punica_wrapper() != cpu_lora.WRAPPER:
        raise RuntimeError(
            "vLLM has not loaded the plug-in doclora_cpu_lora, without which requests to the base "
            "model get adapters of others: install this package, and name the plug-in in "
            "VLLM_PLUGINS if that is set."
        )


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
