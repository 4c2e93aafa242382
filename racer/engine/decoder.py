"""The decode loop. :meth:`Decoder.step` is the paper's step; everything else is bookkeeping around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.config import DecodeConfig
from racer.core.model_runner import ModelRunner, PromptPiece
from racer.core.packed_weights import pack
from racer.core.support import probe
from racer.engine.batch import BatchSpec, BatchState
from racer.engine.executor import DynamicExecutor, cues
from racer.engine.static.executor import StaticExecutor
from racer.engine.static.pool import borrow, give_back, way_of
from racer.engine.strategies import StrategySet
from racer.errors import UnsupportedModel
from racer.guard import fault_text
from racer.kernels import vocab_search
from racer.step.cost_curve import CostCurve, curve_of
from racer.step.draft_tree import DraftTree
from racer.step.request import Request, Settled, StepStats, StepView, signed_seeds
from racer.step.stats import DecodeStats, Stopwatch
from racer.step.verdict import Verdict


class Decoder:
    """Decodes with one model and one configuration. Drafters keep what they learn from call to call.

    :param model: a Hugging Face causal LM, unmodified.
    :param config: how to decode.
    :raises UnsupportedModel: the model cannot be verified with trees.
    :raises ConfigError: CUDA graphs are asked for, and the model is not on CUDA.
    """

    def __init__(
        self, model: Any, config: DecodeConfig | None = None, *, strategies: StrategySet | None = None
    ) -> None:
        self.model = model
        self.config = config or DecodeConfig()
        self.support = probe(model)
        if self.support.plan is None:
            raise UnsupportedModel(f"{type(model).__name__} cannot be verified with trees: {self.support.reason}")
        self.core = ModelRunner(model, self.support.plan)
        self.way = way_of(self.config.compile, model.device)
        compiled = self.way == "inductor" and self.config.pack == "auto"  # torch's compiler packs as it likes
        self._pack = False if compiled else self.config.pack
        self.strategies = strategies or StrategySet(self.config)
        if self.strategies.drafts and model.device.type == "cpu" and model.dtype in vocab_search.BITS:
            from racer.kernels import (
                accept_path,  # with numba, which plain decoding does without
                kv_move,
            )

            vocab_search.make_ready(model.dtype)
            kv_move.make_ready()
            accept_path.make_ready()

    def generate(self, **kwargs: Any) -> Any:
        """``model.generate(**kwargs)``, decoded by this decoder; see :func:`racer.generate`."""
        from racer.hf.generate import generate  # the public face is above this module; this is its shorthand

        return generate(self, **kwargs)

    @torch.no_grad()
    def decode(self, spec: BatchSpec) -> DecodeStats:
        """Decode all requests to their ends; the tokens are in ``request.tokens``.

        :raises ConfigError: the configured verifier contradicts ``spec.do_sample``.
        """
        verifier, name = self.strategies.verifier_for(spec.do_sample)
        stats = DecodeStats(drafter=self.strategies.drafter_name, verifier=name)
        batch, started = None, time.perf_counter()
        self.core.packs = pack(self.model, self._pack)
        try:
            for request in spec.requests:
                self.strategies.tell("racer_request_opened", request=request)
            batch = self._open(spec, verifier, stats)
            self._prefill(batch)
            stats.first_token_seconds = time.perf_counter() - started
            stats.add(batch.watch.lap())
            try:
                while not all(request.done for request in spec.requests):
                    batch.let_go()
                    self.step(batch)
            finally:
                batch.send()
            stats.add(batch.watch.read())
            if batch.lease is not None:
                give_back(self.core, batch.lease)
        finally:
            stats.close(spec.requests, time.perf_counter() - started, batch.curve.points() if batch else {})
            for request in spec.requests:
                self.strategies.tell("racer_request_closed", request=request, stats=stats)
        return stats

    def step(self, batch: BatchState) -> None:
        """Guess a tree, score it in one forward pass, keep the longest right path."""
        started, lane, phase = time.perf_counter(), batch.lane, batch.watch.phase
        batch.curve = self._curve(batch.requests)
        view = self._view(batch)
        with phase("draft"):
            nodes = self.strategies.nodes(view)
            tree, faults = lane.promise(view, self.strategies, nodes) or self.strategies.draft(view, nodes, lane.take)
        with phase("forward"):
            logits = lane.forward(view, tree, self.strategies.verifies_alone)
        batch.send()
        with phase("verify"):
            shown = lane.look(view, tree, logits)
            verdict = self.strategies.verify(view, tree, logits)
            host = lane.settle(view, tree, faults, verdict, shown)  # the step's only host synchronisation
        with phase("commit"):
            lane.commit(verdict, [int(n) if on else 0 for n, on in zip(host.length, view.active, strict=True)])
        if lane.steady:
            batch.curve.learn(tree.width, (time.perf_counter() - started) * 1e3)
        emitted = [batch.emit(row, host.accepted(row)) if on else 0 for row, on in enumerate(view.active)]
        if not batch.late:
            batch.send()
        with phase("observe"):
            self._account(batch, view, tree, verdict, emitted)

    # -- the parts of a step ----------------------------------------------------------------------------------------

    def _account(
        self, batch: BatchState, view: StepView, tree: DraftTree, verdict: Verdict, emitted: list[int]
    ) -> None:
        """Write the bill, and let everybody observe."""
        host, stats = verdict.host, batch.stats
        assert host is not None
        stats.steps += 1
        stats.nodes.append(tree.width)
        for row, count in enumerate(emitted):
            if view.active[row]:
                view.requests[row].accept_lengths.append(count)
                stats.count_nodes(host, tree.sources, row, count)
                if bits := int(host.faults[row]):
                    self.strategies.warn_once.about(f"drafter {self.strategies.drafter_name!r}", fault_text(bits))
        lap = batch.watch.lap()
        stats.add(lap)
        lap.pop("observe", None)  # of the step before
        bill = StepStats(nodes=tree.width, new_tokens=tuple(emitted), milliseconds=lap)
        self.strategies.tell("racer_step", view=view, tree=tree, verdict=verdict, stats=bill)

    def _curve(self, requests: Sequence[Request]) -> CostCurve:
        """What steps of these rows cost by now."""
        length = max(len(request.padding) + len(request.tokens) for request in requests)
        return curve_of(self.model, len(requests), self.way, self.core.packs, length)

    # -- before the first step --------------------------------------------------------------------------------------

    def _open(self, spec: BatchSpec, verifier: Any, stats: DecodeStats) -> BatchState:
        device = self.model.device
        padding = [len(request.padding) for request in spec.requests]
        width = padding[0] + len(spec.requests[0].prompt)
        limit = max(request.limit for request in spec.requests)
        capacity, last_position = width + min(limit, 1024) + 64, width + limit - 1
        lease = borrow(self.core, self.way, padding, capacity)
        cache = self.core.open(padding, capacity) if lease is None else lease.stage.cache
        lane = DynamicExecutor(self.core, cache, self.strategies.needs, last_position)
        seeds = signed_seeds(spec.requests, device)
        curve = self._curve(spec.requests)
        return BatchState(
            spec, verifier, tuple(range(len(padding))), spec.pipeline, seeds, cache, lane, lease, last_position, stats,
            Stopwatch(device), curve, late=lease is not None and device.type != "cpu",
        )  # fmt: skip

    def _prefill(self, batch: BatchState) -> None:
        """Score the prompts, show them to the drafters that want to see them, and choose the first tokens."""
        spec, needs = batch.spec, self.strategies.needs
        shown = -(-needs.prompt // len(spec.requests)) if needs.top_k else 0
        prompts = torch.tensor([[*r.padding, *r.prompt] for r in spec.requests], device=self.model.device)
        first = prompts[:, -1]
        with batch.watch.phase("prefill"):
            chunk = max(1, self.config.prefill_chunk // len(prompts))
            for piece in self.core.prefill(prompts, batch.cache, chunk, keep=max(shown, 1)):
                end = piece.start + piece.tokens.shape[1]
                if end < prompts.shape[1]:
                    follow = prompts[:, end]
                else:
                    view = self._view(batch)
                    first = follow = self.strategies.verify(
                        view, DraftTree.root(view.root), piece.logits[:, -1:]
                    ).next_token
                if shown:
                    self._show(batch, piece, follow)
        roots = first.tolist()
        for row, token in enumerate(roots):
            batch.emit(row, [token])
        batch.send()
        if batch.lease is not None:
            batch.lease.stage.begin(roots, batch.seeds, batch.last_position)
            batch.lane = StaticExecutor(self.core, batch.lease.stage, batch.lease.runner, needs)

    def _show(self, batch: BatchState, piece: PromptPiece, follow: Tensor) -> None:
        """Let drafters observe a piece of prompt: a chain, all of it accepted, rows moved left over their padding."""
        padding = torch.tensor(batch.cache.padding, device=follow.device)
        width = piece.tokens.shape[1]
        skip = (padding - piece.start).clamp(0, width)
        columns = torch.arange(width, device=follow.device).expand(len(padding), -1)
        source = (columns + skip[:, None]).clamp(max=width - 1)
        count = width - skip
        tree = DraftTree.chain(piece.tokens.gather(1, source), count)
        verdict = Verdict(path=columns, length=count, next_token=follow)
        rows = torch.arange(len(padding), device=follow.device)[:, None]
        logits = piece.logits[rows, source] if skip.any() else piece.logits
        verdict.top_ids, verdict.top_probs = cues(self.strategies.needs, batch.pipeline, batch.spec.do_sample, logits)
        verdict.to_host(tree, torch.zeros_like(count), cues=self.strategies.needs.host)
        places = tuple(max(piece.start - pad, 0) for pad in batch.cache.padding)
        position = (piece.start - padding).clamp(min=0)
        view = attrs.evolve(self._view(batch), root=tree.tokens[:, 0], position=position, places=places)
        bill = StepStats(nodes=0, new_tokens=(0,) * len(padding), milliseconds={})
        self.strategies.tell("racer_step", view=view, tree=tree, verdict=verdict, stats=bill)

    def _view(self, batch: BatchState) -> StepView:
        requests = batch.requests
        root, position = batch.lane.ends(requests)
        return StepView(
            requests=requests,
            active=tuple(not request.done for request in requests),
            root=root,
            position=position,
            vocab_size=self.support.vocab_size,
            pipeline=batch.pipeline,
            do_sample=batch.spec.do_sample,
            stop_tokens=batch.spec.stop_tokens,
            step_cost=batch.curve,
            step=batch.stats.steps,
            seeds=batch.seeds,
            settled=Settled(batch.verifier),
        )
