"""A call's beginning: who scores it, and the batch before its first pass."""

from __future__ import annotations

from typing import Any

from racer.config import DecodeConfig
from racer.core.chain_cache import ChainCache
from racer.core.chain_runner import ChainRunner
from racer.core.kv_cache import TreeCache
from racer.core.model_runner import ModelRunner
from racer.core.model_state import state_of
from racer.core.packed_weights import pack
from racer.core.support import Support
from racer.engine.batch import BatchState
from racer.engine.chain_executor import ChainExecutor
from racer.engine.executor import DynamicExecutor
from racer.engine.spec import BatchSpec
from racer.engine.static.pool import DevicePool
from racer.step.cost_curve import CostCurve
from racer.step.request import signed_seeds
from racer.step.stats import DecodeStats, Stopwatch
from racer.verifiers.base import Verifier

FIRST_CAPACITY = 1024
"""New tokens for which the cache has room at once; later ones make it grow."""
FIRST_SCRATCH = 64
"""Nodes for which it has."""


def runner_for(
    model: Any, config: DecodeConfig, support: Support, spec: BatchSpec, mode: str
) -> ModelRunner | ChainRunner:
    """Who scores a call's trees or chains."""
    compiled = mode == "inductor" and config.pack == "auto"  # torch's compiler packs as it likes
    packed = pack(model, False if compiled else config.pack, max(r.limit for r in spec.requests))
    if support.plan is not None:
        return ModelRunner(model, support.plan, packed, spec.prepared)
    assert support.chain is not None  # or it would have been refused
    assert spec.prepared is not None
    return ChainRunner(model, support.chain, spec.prepared, packed)


def open_batch(
    runner: ModelRunner | ChainRunner,
    spec: BatchSpec,
    verifier: Verifier,
    stats: DecodeStats,
    mode: str,
    vocab_size: int,
) -> BatchState:
    """A batch whose prompts are still to be scored.

    :param stats: is written into.
    :param mode: see :func:`racer.engine.static.pool.step_mode`.
    """
    padding, first = list(spec.padding), spec.requests[0]
    width = spec.unseen + len(first.padding) + len(first.prompt)
    limit = max(request.limit for request in spec.requests)
    capacity, last_position = width + min(limit, FIRST_CAPACITY) + FIRST_SCRATCH, width + limit - 1
    pool = state_of(runner.model).part(DevicePool)
    watch, pooled = Stopwatch(runner.model.device), None
    cache: TreeCache | ChainCache
    executor: DynamicExecutor | ChainExecutor
    if isinstance(runner, ChainRunner):
        cache = runner.open(padding, capacity)
        executor = ChainExecutor(runner, cache, watch, last_position, spec.keeps_logits)
    else:
        static = mode != "off" and not spec.keeps_logits and not spec.unseen and spec.prepared is None
        static = static and not runner.plan.switched  # a captured pass is the model's own
        pooled = pool.acquire(runner, mode, padding, capacity) if static else None
        cache = runner.open(padding, capacity) if pooled is None else pooled.device_batch.cache
        executor = DynamicExecutor(runner, cache, watch, last_position, spec.keeps_logits)
    return BatchState(
        spec=spec,
        runner=runner,
        verifier=verifier,
        vocab_size=vocab_size,
        rows=tuple(range(len(padding))),
        pipeline=spec.pipeline,
        seeds=signed_seeds(spec.requests, runner.model.device),
        cache=cache,
        executor=executor,
        pool=pool,
        pooled=pooled,
        last_position=last_position,
        stats=stats,
        watch=watch,
        step_cost=CostCurve(),
        sends_late=pooled is not None and runner.model.device.type != "cpu",
    )
