"""What decoding did, and what it cost."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from racer.step.request import Request
from racer.step.verdict import HostVerdict

PHASES = ("prefill", "draft", "forward", "verify", "commit", "observe")


@attrs.frozen
class StepStats:
    """What one step was and took."""

    nodes: int
    """Columns of the tree that the forward pass scored; 0 for a piece of prompt."""
    budget: int
    """Nodes that the step might score, the root included."""
    new_tokens: tuple[int, ...]
    """Per row; 0 for finished rows."""
    milliseconds: dict[str, float]
    """Per phase (``draft``, ``forward``, ``verify``, ``commit``). On an accelerator known only when the request
    closes, so empty here."""


@attrs.define
class DecodeStats:
    """The statistics of one ``generate`` call. Times are wall-clock milliseconds, summed over the steps."""

    drafter: str
    verifier: str
    prompt_tokens: int = 0
    """Of all rows, padding not counted."""
    new_tokens: int = 0
    """Of all rows."""
    steps: int = 0
    """Forward passes after the prefill."""
    accept_lengths: list[list[int]] = attrs.field(factory=list)
    """Per row: new tokens of each step, bonus token included. The prefill's one token is not in it."""
    nodes: list[int] = attrs.field(factory=list)
    """Columns that each step's forward pass scored."""
    drafted: Counter[str] = attrs.field(factory=Counter)
    """Nodes by the drafter that proposed them, roots not counted."""
    accepted: Counter[str] = attrs.field(factory=Counter)
    """Accepted (and emitted) nodes, likewise."""
    milliseconds: dict[str, float] = attrs.field(factory=lambda: dict.fromkeys(PHASES, 0.0))
    """By phase: prefill, draft, forward, verify (with the step's synchronisation), commit, observe."""
    seconds: float = 0.0
    """Wall-clock time of the whole call, prefill included."""
    first_token_seconds: float = float("nan")
    """Wall-clock time until every row had its first token; NaN if the prefill did not end."""
    step_costs: dict[int, float] = attrs.field(factory=dict)
    """Milliseconds of a step by its nodes, as measured by now, for as many rows and about as much context as the call
    ended with."""

    @property
    def mean_accepted_tokens(self) -> float:
        """New tokens per row and step (MAT); plain decoding has 1. NaN when there was no step."""
        return _mean([length for row in self.accept_lengths for length in row])

    @property
    def mean_accepted_tokens_drafted(self) -> float:
        """The same of steps that drafted, which is what some engines call their acceptance length: vLLM counts only
        those. NaN when there was none."""
        return _mean(of_drafted_steps(self.accept_lengths, self.nodes))

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows by the whole call's time."""
        return self.new_tokens / self.seconds if self.seconds else float("nan")

    def add(self, milliseconds: dict[str, float]) -> None:
        """Add times by phase."""
        for phase, spent in milliseconds.items():
            self.milliseconds[phase] = self.milliseconds.get(phase, 0.0) + spent

    def close(self, requests: Sequence[Request], seconds: float, step_costs: dict[int, float]) -> None:
        """Fill in what is known at the end, whether the call succeeded or not."""
        self.prompt_tokens = sum(len(request.prompt) for request in requests)
        self.new_tokens = sum(len(request.emitted) for request in requests)
        self.accept_lengths = [list(request.accept_lengths) for request in requests]
        self.seconds, self.step_costs = seconds, step_costs

    def count_nodes(self, host: HostVerdict, sources: tuple[str, ...], row: int, emitted: int) -> None:
        """Credit the nodes of one row's step, of which the row emitted ``emitted`` tokens."""
        if not sources:
            return
        names = [sources[source] for source in host.source[row, 1 : host.count[row]].tolist()]
        kept = host.path[row, 1 : min(int(host.length[row]), emitted + 1)].tolist()
        self.drafted.update(names)
        self.accepted.update(names[node - 1] for node in kept)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, which has no NaN: None in its place."""
        data = attrs.asdict(self)
        for name in ("mean_accepted_tokens", "mean_accepted_tokens_drafted", "tokens_per_second"):
            data[name] = getattr(self, name)
        return {name: None if value != value else value for name, value in data.items()}


def of_drafted_steps(accept_lengths: Iterable[Sequence[int]], nodes: Sequence[int]) -> list[int]:
    """New tokens of each row and step that scored more than a root.

    :param accept_lengths: per row, of each step; rows begin together.
    :param nodes: that each step scored.
    """
    return [length for row in accept_lengths for length, scored in zip(row, nodes, strict=False) if scored > 1]


def _mean(lengths: Sequence[int]) -> float:
    return sum(lengths) / len(lengths) if lengths else float("nan")


class Stopwatch:
    """Times phases without synchronising: by the clock on a CPU, by events on CUDA, which are read at the end."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._cuda = device.type == "cuda"
        self._spans: list[tuple[str, Any, Any]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time the block under ``name``."""
        start = self._now()
        try:
            yield
        finally:
            self._spans.append((name, start, self._now()))

    def lap(self) -> dict[str, float]:
        """Milliseconds since the last lap, by phase; on CUDA empty, as reading would synchronise."""
        return {} if self._cuda else self.read()

    def read(self) -> dict[str, float]:
        """Milliseconds by phase since the last reading, which this one forgets. Synchronises CUDA."""
        if self._cuda:
            torch.cuda.synchronize(self._device)
        total: dict[str, float] = {}
        for name, start, end in self._spans:
            total[name] = total.get(name, 0.0) + (start.elapsed_time(end) if self._cuda else (end - start) * 1e3)
        self._spans.clear()
        return total

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event
