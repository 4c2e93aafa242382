"""The decode loop. :meth:`Decoder.step` is the paper's step; everything else is bookkeeping around it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.config import DecodeConfig
from racer.core.model_runner import Core, PromptPiece
from racer.core.packed_weights import pack
from racer.core.support import examine
from racer.engine.batch import Run, Task
from racer.engine.executor import DynamicLane, cues
from racer.engine.static.executor import StaticLane
from racer.engine.static.pool import borrow, give_back, way_of
from racer.engine.strategies import Lineup
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

    def __init__(self, model: Any, config: DecodeConfig | None = None, *, lineup: Lineup | None = None) -> None:
        self.model = model
        self.config = config or DecodeConfig()
        self.traits = examine(model)
        if self.traits.plan is None:
            raise UnsupportedModel(f"{type(model).__name__} cannot be verified with trees: {self.traits.reason}")
        self.core = Core(model, self.traits.plan)
        self.way = way_of(self.config.compile, model.device)
        compiled = self.way == "inductor" and self.config.pack == "auto"  # torch's compiler packs as it likes
        self._pack = False if compiled else self.config.pack
        self.lineup = lineup or Lineup(self.config)
        if self.lineup.drafts and model.device.type == "cpu" and model.dtype in vocab_search.BITS:
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
    def decode(self, task: Task) -> DecodeStats:
        """Decode all requests to their ends; the tokens are in ``request.tokens``.

        :raises ConfigError: the configured verifier contradicts ``task.do_sample``.
        """
        verifier, name = self.lineup.verifier_for(task.do_sample)
        stats = DecodeStats(drafter=self.lineup.drafter_name, verifier=name)
        run, started = None, time.perf_counter()
        self.core.packs = pack(self.model, self._pack)
        try:
            for request in task.requests:
                self.lineup.tell("racer_request_opened", request=request)
            run = self._open(task, verifier, stats)
            self._prefill(run)
            stats.first_token_seconds = time.perf_counter() - started
            stats.add(run.watch.lap())
            try:
                while not all(request.done for request in task.requests):
                    run.let_go()
                    self.step(run)
            finally:
                run.send()
            stats.add(run.watch.read())
            if run.lease is not None:
                give_back(self.core, run.lease)
        finally:
            stats.close(task.requests, time.perf_counter() - started, run.curve.points() if run else {})
            for request in task.requests:
                self.lineup.tell("racer_request_closed", request=request, stats=stats)
        return stats

    def step(self, run: Run) -> None:
        """Guess a tree, score it in one forward pass, keep the longest right path."""
        started, lane, phase = time.perf_counter(), run.lane, run.watch.phase
        run.curve = self._curve(run.requests)
        view = self._view(run)
        with phase("draft"):
            nodes = self.lineup.nodes(view)
            tree, faults = lane.promise(view, self.lineup, nodes) or self.lineup.draft(view, nodes, lane.take)
        with phase("forward"):
            logits = lane.forward(view, tree, self.lineup.verifies_alone)
        run.send()
        with phase("verify"):
            shown = lane.look(view, tree, logits)
            verdict = self.lineup.verify(view, tree, logits)
            host = lane.settle(view, tree, faults, verdict, shown)  # the step's only host synchronisation
        with phase("commit"):
            lane.commit(verdict, [int(n) if on else 0 for n, on in zip(host.length, view.active, strict=True)])
        if lane.steady:
            run.curve.learn(tree.width, (time.perf_counter() - started) * 1e3)
        emitted = [run.emit(row, host.accepted(row)) if on else 0 for row, on in enumerate(view.active)]
        if not run.late:
            run.send()
        with phase("observe"):
            self._account(run, view, tree, verdict, emitted)

    # -- the parts of a step ----------------------------------------------------------------------------------------

    def _account(self, run: Run, view: StepView, tree: DraftTree, verdict: Verdict, emitted: list[int]) -> None:
        """Write the bill, and let everybody observe."""
        host, stats = verdict.host, run.stats
        assert host is not None
        stats.steps += 1
        stats.nodes.append(tree.width)
        for row, count in enumerate(emitted):
            if view.active[row]:
                view.requests[row].accept_lengths.append(count)
                stats.count_nodes(host, tree.sources, row, count)
                if bits := int(host.faults[row]):
                    self.lineup.complaints.about(f"drafter {self.lineup.drafter_name!r}", fault_text(bits))
        lap = run.watch.lap()
        stats.add(lap)
        lap.pop("observe", None)  # of the step before
        bill = StepStats(nodes=tree.width, new_tokens=tuple(emitted), milliseconds=lap)
        self.lineup.tell("racer_step", view=view, tree=tree, verdict=verdict, stats=bill)

    def _curve(self, requests: Sequence[Request]) -> CostCurve:
        """What steps of these rows cost by now."""
        length = max(len(request.padding) + len(request.tokens) for request in requests)
        return curve_of(self.model, len(requests), self.way, self.core.packs, length)

    # -- before the first step --------------------------------------------------------------------------------------

    def _open(self, task: Task, verifier: Any, stats: DecodeStats) -> Run:
        device = self.model.device
        padding = [len(request.padding) for request in task.requests]
        width = padding[0] + len(task.requests[0].prompt)
        limit = max(request.limit for request in task.requests)
        capacity, last_position = width + min(limit, 1024) + 64, width + limit - 1
        lease = borrow(self.core, self.way, padding, capacity)
        cache = self.core.open(padding, capacity) if lease is None else lease.stage.cache
        lane = DynamicLane(self.core, cache, self.lineup.needs, last_position)
        seeds = signed_seeds(task.requests, device)
        curve = self._curve(task.requests)
        return Run(
            task, verifier, tuple(range(len(padding))), task.pipeline, seeds, cache, lane, lease, last_position, stats,
            Stopwatch(device), curve, late=lease is not None and device.type != "cpu",
        )  # fmt: skip

    def _prefill(self, run: Run) -> None:
        """Score the prompts, show them to the drafters that want to see them, and choose the first tokens."""
        task, needs = run.task, self.lineup.needs
        shown = -(-needs.prompt // len(task.requests)) if needs.top_k else 0
        prompts = torch.tensor([[*r.padding, *r.prompt] for r in task.requests], device=self.model.device)
        first = prompts[:, -1]
        with run.watch.phase("prefill"):
            chunk = max(1, self.config.prefill_chunk // len(prompts))
            for piece in self.core.prefill(prompts, run.cache, chunk, keep=max(shown, 1)):
                end = piece.start + piece.tokens.shape[1]
                if end < prompts.shape[1]:
                    follow = prompts[:, end]
                else:
                    view = self._view(run)
                    first = follow = self.lineup.verify(
                        view, DraftTree.root(view.root), piece.logits[:, -1:]
                    ).next_token
                if shown:
                    self._show(run, piece, follow)
        roots = first.tolist()
        for row, token in enumerate(roots):
            run.emit(row, [token])
        run.send()
        if run.lease is not None:
            run.lease.stage.begin(roots, run.seeds, run.last_position)
            run.lane = StaticLane(self.core, run.lease.stage, run.lease.runner, needs)

    def _show(self, run: Run, piece: PromptPiece, follow: Tensor) -> None:
        """Let drafters observe a piece of prompt: a chain, all of it accepted, rows moved left over their padding."""
        padding = torch.tensor(run.cache.padding, device=follow.device)
        width = piece.tokens.shape[1]
        skip = (padding - piece.start).clamp(0, width)
        columns = torch.arange(width, device=follow.device).expand(len(padding), -1)
        source = (columns + skip[:, None]).clamp(max=width - 1)
        count = width - skip
        tree = DraftTree.chain(piece.tokens.gather(1, source), count)
        verdict = Verdict(path=columns, length=count, next_token=follow)
        rows = torch.arange(len(padding), device=follow.device)[:, None]
        logits = piece.logits[rows, source] if skip.any() else piece.logits
        verdict.top_ids, verdict.top_probs = cues(self.lineup.needs, run.pipeline, run.task.do_sample, logits)
        verdict.to_host(tree, torch.zeros_like(count), cues=self.lineup.needs.host)
        places = tuple(max(piece.start - pad, 0) for pad in run.cache.padding)
        position = (piece.start - padding).clamp(min=0)
        view = attrs.evolve(self._view(run), root=tree.tokens[:, 0], position=position, places=places)
        bill = StepStats(nodes=0, new_tokens=(0,) * len(padding), milliseconds={})
        self.lineup.tell("racer_step", view=view, tree=tree, verdict=verdict, stats=bill)

    def _view(self, run: Run) -> StepView:
        requests = run.requests
        root, position = run.lane.ends(requests)
        return StepView(
            requests=requests,
            active=tuple(not request.done for request in requests),
            root=root,
            position=position,
            vocab_size=self.traits.vocab_size,
            pipeline=run.pipeline,
            do_sample=run.task.do_sample,
            stop_tokens=run.task.stop_tokens,
            step_cost=run.curve,
            step=run.stats.steps,
            seeds=run.seeds,
            settled=Settled(run.verifier),
        )
