"""This product's own figures for Prometheus, beside the engine's."""

from collections.abc import Iterator, Mapping
from typing import Literal, Protocol

from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from adapters_store import AdapterStatus
from server.generators import Generators

Stage = Literal["extract", "generate", "store", "register"]
STAGES: tuple[Stage, ...] = ("extract", "generate", "store", "register")
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class CountsLoads(Protocol):
    """What residency counts."""

    loads: int
    evictions: int
    failures: int


class _Counters:
    """Counts that live where they are made, read when Prometheus asks."""

    def __init__(self, residency: CountsLoads, generators: Generators) -> None:
        self._residency = residency
        self._generators = generators

    def collect(self) -> Iterator[Metric]:
        for name, meaning, value in (
            ("loads", "Adapters loaded into the engine", self._residency.loads),
            ("evictions", "Adapters unloaded from the engine", self._residency.evictions),
            ("load_failures", "Loads that the engine refused", self._residency.failures),
        ):
            yield CounterMetricFamily(f"doclora_adapter_{name}", meaning, value)
        labels = ["kind", "generator"]
        restarts = CounterMetricFamily(
            "doclora_generator_restarts",
            "Times a generator's process died and was started again",
            labels=labels,
        )
        up = GaugeMetricFamily(
            "doclora_generator_up", "Whether a generator's process is ready", labels=labels
        )
        for kind, generator in self._generators.items():
            restarts.add_metric([kind, generator.name], generator.process.restarts)
            up.add_metric([kind, generator.name], generator.process.ready)
        yield restarts
        yield up


class Metrics:
    """Histograms of the stages, and gauges that are set when they are asked for."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._stages = Histogram(
            "doclora_stage_seconds",
            "Time of each stage from a document or a description to a loaded adapter",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._statuses = Gauge(
            "doclora_adapters", "Adapters by status", ["status"], registry=self._registry
        )
        self._tiers = Gauge(
            "doclora_ready_adapters",
            "Ready adapters by where they are: loaded in the engine, or on disk only",
            ["tier"],
            registry=self._registry,
        )
        for stage in STAGES:
            self._stages.labels(stage)

    def count(self, residency: CountsLoads, generators: Generators) -> None:
        """Publish the counts of residency, and each generator's state."""
        self._registry.register(_Counters(residency, generators))

    def observe(self, stage: Stage, seconds: float) -> None:
        self._stages.labels(stage).observe(seconds)

    def render(self, statuses: Mapping[AdapterStatus, int], resident: int) -> bytes:
        """The exposition text. `statuses` counts adapters, `resident` those in the engine."""
        for status, number in statuses.items():
            self._statuses.labels(status).set(number)
        self._tiers.labels("engine").set(resident)
        self._tiers.labels("disk").set(max(0, statuses.get(AdapterStatus.READY, 0) - resident))
        return generate_latest(self._registry)
