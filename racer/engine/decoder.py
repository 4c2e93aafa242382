"""The decode loop. :meth:`BatchDecoder.step` is the paper's step; everything else is bookkeeping around it."""

from __future__ import annotations

import time
from typing import Any

import torch

from racer.config import MAX_BUDGET, DecodeConfig
from racer.core.chain_runner import ChainRunner
from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.core.model_state import state_of
from racer.core.support import Support, probe
from racer.engine.batch import BatchState
from racer.engine.chain_executor import ChainExecutor
from racer.engine.executor import StepOutcome
from racer.engine.opening import open_batch, runner_for
from racer.engine.outside_cache import final_states
from racer.engine.prompt import Prefill
from racer.engine.spec import BatchSpec
from racer.engine.static.executor import StaticExecutor
from racer.engine.static.pool import step_mode
from racer.engine.static.shapes import slots_bucket
from racer.engine.strategy_set import StrategySet
from racer.errors import UnsupportedGeneration, UnsupportedModel
from racer.kernels import vocab_search
from racer.kernels.float_bits import BITS
from racer.step.cost_curve import CostCurve, CostCurves
from racer.step.request import add_step
from racer.step.stats import DecodeStats, StepStats
from racer.step.view import StepView


class BatchDecoder:
    """Decodes batches with one model and one configuration. Drafters keep what they learn from call to call.

    :param model: a Hugging Face causal LM, unmodified.
    :param config: how to decode.
    :param strategies: who plays; those that ``config`` names if None.
    :raises UnsupportedModel: the model cannot be verified with trees.
    :raises ConfigError: CUDA graphs are asked for, and the model is not on CUDA.
    :raises UnknownStrategy: the configuration names something that nobody registered.
    :raises PluginError: a strategy cannot be made, or a plugin is refused.
    """

    def __init__(
        self, model: Any, config: DecodeConfig | None = None, *, strategies: StrategySet | None = None
    ) -> None:
        self.model = model
        self.config = config or DecodeConfig()
        support = probe(model)
        if support.way == "plain":
            raise UnsupportedModel(f"{type(model).__name__} cannot be verified with trees: {support.reason}")
        step_mode(self.config.compile, model.device)
        self.strategies = strategies or StrategySet(self.config)
        self._make_ready()

    @property
    def support(self) -> Support:
        """What the model can do as it is now; see :func:`racer.core.support.probe`."""
        return probe(self.model)

    @property
    def mode(self) -> str:
        """How steps run where the model is now; see :func:`racer.engine.static.pool.step_mode`."""
        return step_mode(self.config.compile, self.model.device)

    def step(self, batch: BatchState) -> StepOutcome:
        """Guess a tree, score it in one forward pass, keep the longest right path, and learn from all of it."""
        started = time.perf_counter()
        curve = self._step_cost(batch)
        carried = batch.executor.carry(batch.requests) if isinstance(batch.executor, ChainExecutor) else 0
        batch.step_cost = curve.behind(carried)
        view = batch.view()
        outcome = batch.executor.run(view, self.strategies)  # draft, forward, verify, fetch, commit
        if outcome.steady:
            batch.step_cost.learn(outcome.tree.width, (time.perf_counter() - started) * 1e3)
        emitted = batch.emit(view, outcome)
        outcome.verdict.hide_missing()
        with batch.watch.phase("observe"):
            self._observe(batch, view, outcome, emitted)
        return outcome

    @torch.no_grad()
    def decode(self, spec: BatchSpec) -> DecodeStats:
        """Decode all requests to their ends; the tokens are in ``request.tokens``.

        The model is looked at anew: it may have been converted, resized or set otherwise since.

        :raises ConfigError: the configured verifier contradicts ``spec.do_sample``.
        :raises UnsupportedGeneration: the model cannot be verified with trees, or not for so many tokens, or not with
            left-padded rows; nobody was asked or told anything yet.
        """
        verifier, name = self.strategies.verifier_for(spec.do_sample)
        mode, support = self.mode, spec.support or self.supported(spec.slots, any(spec.padding))
        if support.plan is None and spec.prepared is None:
            kind, reason = type(self.model).__name__, support.tree_reason
            raise UnsupportedGeneration(f"{kind} cannot be verified with trees: {reason} (generate takes chains)")
        self._make_ready()
        stats = DecodeStats(drafter=self.strategies.drafter_name, verifier=name)
        batch, started = None, time.perf_counter()
        runner = runner_for(self.model, self.config, support, spec, mode)
        try:
            for request in spec.requests:
                self.strategies.request_opened(request)
            batch = open_batch(runner, spec, verifier, stats, mode, support.vocab_size)
            for _ in (prompts := self.prefill(batch)):
                pass
            self.begin(batch, prompts)
            stats.first_token_seconds = time.perf_counter() - started
            stats.add(batch.watch.lap())
            try:
                batch.settle()
                while not batch.done:
                    batch.drop_finished()
                    self.step(batch)
                    batch.settle()
            finally:
                batch.outbox.send()
            stats.add(batch.watch.read())
            if isinstance(batch.executor, ChainExecutor) and batch.executor.runner.call.keeps_cache:
                batch.executor.finish(spec.requests)
            elif spec.outside is not None:
                spec.outside.store(final_states(batch))
            if batch.pooled is not None:
                batch.pool.give_back(batch.pooled)
        finally:
            runner.close()
            stats.close(spec.requests, time.perf_counter() - started, batch.step_cost.points() if batch else {})
            for request in spec.requests:
                self.strategies.request_closed(request, stats)
        return stats

    def supported(self, slots: int, padded: bool) -> Support:
        """What the model can do in a call whose rows take up to so many slots.

        :param padded: whether rows are left-padded.
        :raises UnsupportedGeneration: it cannot take trees, or not so many tokens, or no padding.
        """
        if self.mode != "off":  # whose shapes are larger
            slots = slots_bucket(slots + MAX_BUDGET)
        support = probe(self.model, slots)
        if reason := support.reason or (support.padding_reason if padded else ""):
            rows = " with left-padded rows" if not support.reason else ""
            raise UnsupportedGeneration(f"{type(self.model).__name__} cannot be verified with trees{rows}: {reason}")
        return support

    def _make_ready(self) -> None:
        """Compile what searches on a CPU need, before any step is timed."""
        model = self.model
        if self.strategies.drafts and model.device.type == "cpu" and model.dtype in BITS:
            from racer.kernels import accept_path, kv_move  # with numba, which plain decoding does without

            vocab_search.make_ready(model.dtype)
            kv_move.make_ready()
            accept_path.make_ready()

    def prefill(self, batch: BatchState, wide: int | None = None) -> Prefill:
        """Score the prompts, piece by piece, behind what is cached of them already.

        :param wide: columns of a piece at most, if the configuration does not settle it alone.
        """
        batch.step_cost = self._step_cost(batch)
        if batch.spec.outside is not None:
            assert isinstance(batch.cache, TreeCache)
            batch.spec.outside.load(batch.cache)
        chunk = self.config.prefill_chunk
        return Prefill(batch, self.strategies, chunk if wide is None else min(chunk, wide), wide)

    def begin(self, batch: BatchState, prompts: Prefill) -> None:
        """Emit the first tokens; from then on steps run as the batch's executor does."""
        for row, token in enumerate(prompts.first):
            batch.append(row, [token])
        batch.keep_scores(prompts.logits[:, None])
        batch.outbox.send()
        if batch.pooled is not None and isinstance(batch.runner, ModelRunner):
            batch.pooled.device_batch.begin(prompts.first, batch.seeds, batch.last_position)
            batch.executor = StaticExecutor(
                batch.runner, batch.pooled, batch.watch, self.strategies.needs, batch.outbox.send
            )

    def _step_cost(self, batch: BatchState) -> CostCurve:
        """What steps of these rows cost by now."""
        mode = "chain" if isinstance(batch.runner, ChainRunner) else self.mode
        return step_cost(self.model, len(batch.rows), mode, batch.runner.packed is not None, batch.length)

    def _observe(self, batch: BatchState, view: StepView, outcome: StepOutcome, emitted: tuple[int, ...]) -> None:
        """Write the statistics, and let everybody observe."""
        tree = outcome.tree
        for stats in (batch.stats, *batch.own_stats):
            stats.steps += 1
            stats.nodes.append(tree.width)
        for row, count in enumerate(emitted):
            if view.active[row]:
                add_step(view.requests[row], count)
                batch.count_nodes(outcome.host, tree.sources, row, count)
        lap = batch.watch.lap()
        for stats in (batch.stats, *batch.own_stats):
            stats.add(lap)
        lap.pop("observe", None)  # of the step before
        of_step = StepStats(nodes=tree.width, budget=outcome.budget, new_tokens=emitted, milliseconds=lap)
        self.strategies.step_over(view, tree, outcome.verdict, of_step, learned=outcome.learned)


def step_cost(model: Any, rows: int, mode: str, packed: bool, length: int) -> CostCurve:
    """What steps of this model have cost so far, at its dtype, on its device.

    :param mode: see :func:`racer.engine.static.pool.step_mode`.
    :param packed: whether with packed weights.
    :param length: places that the rows take in the cache, padding included.
    """
    return state_of(model).part(CostCurves).of(rows, (model.dtype, model.device, mode, packed), length)
