import pytest

from server.engine_config import EngineConfig, is_cpu_build


def config(**changes: object) -> EngineConfig:
    given: dict[str, object] = {
        "model": "/models/tiny",
        "served_name": "tiny",
        "max_rank": 40,
        "target_modules": ("down_proj", "q_proj"),
        **changes,
    }
    return EngineConfig(**given)  # type: ignore[arg-type]


def value(config: EngineConfig, flag: str) -> str | None:
    given = [text for text in config.arguments() if text.startswith(f"--{flag}=")]
    return given[0].partition("=")[2] if given else None


@pytest.mark.parametrize(
    ("wanted", "slot"), [(1, 1), (2, 8), (8, 8), (16, 16), (40, 64), (257, 320), (512, 512)]
)
def test_a_slot_is_the_smallest_that_vllm_has_for_the_rank(wanted: int, slot: int) -> None:
    assert config(max_rank=wanted).slot_rank == slot
    assert value(config(max_rank=wanted), "max-lora-rank") == str(slot)


@pytest.mark.parametrize("rank", [0, 513])
def test_a_rank_that_vllm_cannot_have_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"max_rank is {rank}; vLLM takes 1 to 512"):
        config(max_rank=rank)


def test_only_the_layers_that_adapters_change_are_wrapped() -> None:
    assert config().arguments()[-3:] == ["--lora-target-modules", "down_proj", "q_proj"]


def test_every_resident_adapter_has_a_place_in_memory_so_that_none_is_read_again() -> None:
    assert value(config(max_resident=100, max_loras=4), "max-cpu-loras") == "100"
    assert value(config(max_resident=2, max_loras=4), "max-cpu-loras") == "4"


def test_the_kv_cache_is_given_in_bytes_or_left_to_vllm() -> None:
    assert value(config(kv_cache_gib=0.25), "kv-cache-memory-bytes") == str(2**28)
    assert value(config(kv_cache_gib=None), "kv-cache-memory-bytes") is None


def test_what_is_not_set_is_left_to_vllm() -> None:
    text = " ".join(config().arguments())
    for flag in ("max-model-len", "chat-template", "gpu-memory-utilization", "api-key"):
        assert flag not in text


def test_nothing_is_reported_to_vllm_s_makers() -> None:
    assert config().environment()["VLLM_NO_USAGE_STATS"] == "1"


on_cpu = pytest.mark.skipif(not is_cpu_build(), reason="vLLM's build for GPUs")


@on_cpu
def test_threads_sleep_while_they_wait_unless_they_have_cores_of_their_own() -> None:
    shared = config().environment()
    assert shared["OMP_WAIT_POLICY"] == "PASSIVE"
    assert shared["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    own = config(cpus="0-3").environment()
    assert "OMP_WAIT_POLICY" not in own
    assert own["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"


@on_cpu
def test_nothing_is_compiled_while_requests_wait() -> None:
    assert config().environment()["TORCH_COMPILE_DISABLE"] == "1"
