"""RACER's decoding, watched by an observer as any plugin may be."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from racer.bench import reliability
from racer.bench.adapters.base import Adapter
from racer.bench.trials import Measured
from racer.config import DecodeConfig
from racer.errors import UnsupportedGeneration
from racer.hf.generate import Decoder
from racer.hookspecs import hookimpl
from racer.loading.loaded_model import LoadedModel
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import StepStats
from racer.step.verdict import HostVerdict, Verdict
from racer.step.view import Needs, StepView


class Observer:
    """Notes what passes by; anything that costs time is left for after the call."""

    needs = Needs(host=False)

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the call before."""
        self.seeds: list[int] = []
        self.opened = 0.0
        """When decoding began: transformers has prepared the call by then."""
        self.ends: list[float] = []
        """When the last piece of prompt and each step was over."""
        self.steps: list[tuple[Tensor, HostVerdict]] = []
        """Scores and verdicts of the steps whose drafter gives scores."""

    @hookimpl
    def racer_request_opened(self, request: Request) -> None:
        self.seeds.append(request.seed)
        self.opened = self.opened or time.perf_counter()

    @hookimpl
    def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: StepStats) -> None:
        if not stats.nodes:  # a piece of prompt
            self.ends = [time.perf_counter()]
            return
        self.ends.append(time.perf_counter())
        if tree.score is not None and verdict.host is not None:
            self.steps.append((tree.score.clone(), verdict.host.copy()))  # static shapes are written to again

    def step_milliseconds(self, steps: int) -> list[float | None]:
        """Of each step; the first one's is unknown where the prompt is not shown."""
        spent: list[float | None] = [(after - before) * 1e3 for before, after in pairwise(self.ends)]
        return [None] * (steps - len(spent)) + spent

    def reliability(self) -> dict[str, reliability.Table] | None:
        """Tables of predicted and observed acceptance."""
        scored: list[tuple[NDArray[np.float32], HostVerdict]] = [
            (score.float().cpu().numpy(), host) for score, host in self.steps if score.shape[1] > 1
        ]
        return reliability.tables(scored) if scored else None


class RacerAdapter(Adapter):
    """A drafter, a verifier and a budget. What they learn is kept from call to call, until :meth:`forget`.

    :raises UnsupportedModel: the model cannot be verified with trees.
    """

    def __init__(self, loaded: LoadedModel, sampling: dict[str, Any], config: DecodeConfig) -> None:
        super().__init__(loaded, sampling)
        self._observer = Observer()
        observers: Any = (self._observer,)
        self._config = attrs.evolve(config, plugins=observers)
        self.forget()

    def forget(self) -> None:
        self._decoder = Decoder(self.loaded.model, self._config)

    def answer(self, inputs: dict[str, Tensor], limit: int, seed: int) -> Measured:
        self._observer.reset()
        output, began, seconds = self.clocked(self._decoder.generate, inputs, limit, seed, return_dict_in_generate=True)
        stats = output.racer_stats
        if stats is None:  # a figure of this method would be one of plain decoding
            raise UnsupportedGeneration("the call was decoded plainly, and the warning says why")
        return Measured(
            tokens=self.trimmed(output.sequences, inputs["input_ids"].shape[1], limit),
            accept_lengths=stats.accept_lengths,
            seconds=seconds,
            drafted=sum(stats.drafted.values()),
            kept=sum(stats.accepted.values()),
            first_token_seconds=self._observer.opened - began + stats.first_token_seconds,
            nodes=stats.nodes,
            step_milliseconds=self._observer.step_milliseconds(stats.steps),
            milliseconds=stats.milliseconds | {"call": seconds * 1e3},
            reliability=self._observer.reliability(),
            seeds=self._observer.seeds,
        )
