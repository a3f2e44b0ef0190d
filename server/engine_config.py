"""How vLLM is started. Light: importing this does not import vLLM."""

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values of vLLM's --max-lora-rank
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


class EngineUnusable(RuntimeError):
    """vLLM cannot run this base model with these settings; the message says why."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The settings of the engine.

    model: the base model's folder or hub name; served_name: its name in the API
    max_rank: the largest rank an adapter may have; target_modules: the layers adapters change
    max_loras: distinct adapters in one batch; max_resident: adapters loaded at once
    kv_cache_gib: memory of the KV cache, None for vLLM's choice by `gpu_memory_utilization`
    chat_template: Jinja text or a file, None for the tokenizer's own
    cpus: cores that vLLM binds its threads to on a CPU, like "0-3"; None for unbound threads that
        sleep while they wait, which is right where other programs use the cores too
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
        """Variables that vLLM and its libraries read in all of its processes."""
        variables = {
            "VLLM_LOGGING_LEVEL": self.log_level.upper(),
            "VLLM_NO_USAGE_STATS": "1",
            "PYTHONWARNINGS": "ignore",  # of its libraries, about each other
            "TORCH_CPP_LOG_LEVEL": "ERROR",
        }
        if is_cpu_build():
            # vLLM compiles no model that has adapters on a CPU, but still its sampler: the first
            # request would hold up all others for ten seconds, and need a C++ compiler
            variables["TORCH_COMPILE_DISABLE"] = "1"
            variables["VLLM_CPU_OMP_THREADS_BIND"] = self.cpus or "nobind"
            if self.cpus is None:
                variables["OMP_WAIT_POLICY"] = "PASSIVE"
        return variables


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed runs on CPUs."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
