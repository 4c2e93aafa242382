"""Prometheus' figures: the engine's own counters, read when they are asked for, and distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from racer.engine.continuous.figures import EngineFigures
from racer.engine.continuous.stream import Stream

SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
STEP_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2)
ACCEPTED = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32)

COUNTERS = {
    "submitted": ("racer_submitted", "Requests that the engine took"),
    "finished": ("racer_finished", "Requests that ended by their own rules"),
    "cancelled": ("racer_cancelled", "Requests whose client went away, or that took too long"),
    "failed": ("racer_failed", "Requests that ended with an error"),
    "prompt_tokens": ("racer_prompt_tokens", "Tokens of prompts of requests that have begun"),
    "cached_prompt_tokens": ("racer_cached_prompt_tokens", "Of these the ones that did not have to be scored"),
    "new_tokens": ("racer_new_tokens", "Tokens of answers"),
    "steps": ("racer_steps", "Forward passes over all rows"),
    "row_steps": ("racer_row_steps", "Steps, each counted once for every row in it"),
    "drafted": ("racer_drafted_tokens", "Guessed tokens of requests that have ended"),
    "accepted": ("racer_accepted_tokens", "Of these the ones that became text"),
}
"""By the engine's figure: the counter's name, which gets ``_total`` behind it, and what it counts."""
GAUGES = {
    "running": ("racer_requests_running", "Requests that are being decoded"),
    "waiting": ("racer_requests_waiting", "Requests in the queue"),
    "cache_tokens": ("racer_cache_tokens", "Slots of the cache that running requests have taken"),
    "max_tokens": ("racer_cache_tokens_limit", "Slots of the cache that there may be"),
    "kept_tokens": ("racer_cache_kept_tokens", "Slots kept of requests that have ended, for those that begin alike"),
}


class Engine(Collector):
    """The engine's figures of one moment, so that they add up. What it did before, to warm up, is left out."""

    def __init__(self, figures: Callable[[], EngineFigures]) -> None:
        self._figures, self._before = figures, figures()

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        found = self._figures()
        for field, (name, text) in COUNTERS.items():
            yield CounterMetricFamily(name, text, value=getattr(found, field) - getattr(self._before, field))
        for field, (name, text) in GAUGES.items():
            yield GaugeMetricFamily(name, text, value=getattr(found, field))


class Metrics:
    """All figures of one server, in a registry of its own."""

    def __init__(self, figures: Callable[[], EngineFigures]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Engine(figures))
        self._http = self._counter("racer_http_requests", "HTTP requests", ("endpoint", "status"))
        self._steps = self._histogram("racer_step_seconds", "A step of all rows", STEP_SECONDS)
        self._accepted = self._histogram(
            "racer_accepted_tokens_per_step", "Guessed tokens that became text, per row and step", ACCEPTED
        )
        self._queued = self._histogram("racer_queue_seconds", "From a request's arrival until it is begun", SECONDS)
        self._first = self._histogram(
            "racer_time_to_first_token_seconds", "From a request's arrival to its first token", SECONDS
        )
        self._whole = self._histogram("racer_request_seconds", "From a request's arrival to its end", SECONDS)

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, text, buckets=buckets, registry=self.registry)

    def answered(self, endpoint: str, status: int) -> None:
        """An HTTP request has its answer, or the beginning of one."""
        self._http.labels(endpoint, str(status)).inc()

    def step(self, rows: int, nodes: int, new_tokens: int, seconds: float) -> None:
        """A step of the engine; called on its thread."""
        self._steps.observe(seconds)

    async def follow(self, stream: Stream) -> None:
        """Take note of a request to its end, whoever else listens."""
        first = True
        async for chunk in stream:
            if not first:  # the prompt's own pass drafts nothing
                self._accepted.observe(chunk.accepted)
            first = False
        completion = await stream.completion()
        if completion.tokens:
            self._queued.observe(completion.queued_seconds)
            self._first.observe(completion.first_token_seconds)
        self._whole.observe(completion.seconds)

    def text(self) -> bytes:
        """As Prometheus reads it."""
        return generate_latest(self.registry)
