"""Steps in static shapes: a :class:`~racer.engine.static.step.StaticStep` is prepared, run, its result fetched."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import attrs
from torch import Tensor

from racer.core.model_runner import ModelRunner
from racer.engine.executor import StepOutcome, advances
from racer.engine.static.cuda_graphs import Key
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.launcher import Launcher
from racer.engine.static.pool import PooledBatch
from racer.engine.static.shapes import nodes_bucket
from racer.engine.static.step import CapturedDraft, PackedVerdict, StaticResult, StaticStep
from racer.engine.static.tree_buffer import TreeBuffer
from racer.engine.strategy_set import StrategySet
from racer.engine.top_tokens import top_tokens
from racer.step.draft_tree import DraftTree
from racer.step.request import Request
from racer.step.stats import Stopwatch
from racer.step.verdict import Verdict, host_verdict, unpack
from racer.step.view import Needs, StepView


@attrs.frozen(eq=False)
class _Draft:
    """A draft before its step is run: what comes from the host, or who will draft within the step."""

    tree: DraftTree
    """In the drafted width, a view of the buffer: it can be read once the step has run."""
    buffer: TreeBuffer
    packed: Tensor | None = None
    """What is sent to the buffer, ..."""
    captured: CapturedDraft | None = None
    """... or what is drafted there."""


@attrs.define(eq=False)
class StaticExecutor:
    """Takes a batch over after its prefill; see :class:`racer.engine.executor.Executor`."""

    runner: ModelRunner
    pooled: PooledBatch
    """Begun, its cache filled by the prefill."""
    watch: Stopwatch
    needs: Needs
    """What drafters want to see."""
    meanwhile: Callable[[], None]
    """What the host does while the device is at work."""
    _done: tuple[bool, ...] = ()

    @property
    def batch(self) -> DeviceBatch:
        return self.pooled.device_batch

    @property
    def launcher(self) -> Launcher:
        return self.pooled.launcher

    def pending(self, requests: Sequence[Request]) -> Tensor:
        done = tuple(request.done for request in requests)
        if done != self._done:
            self._done = done
            self.batch.rest(done, [r.tokens[-1] for r in requests], [len(r.tokens) - 1 for r in requests])
        return self.batch.pending()

    def run(self, view: StepView, strategies: StrategySet) -> StepOutcome:
        phase, alone = self.watch.phase, strategies.verifies_alone
        with phase("draft"):
            budget = self.runner.plan.room(strategies.nodes(view), self.batch.cache.end)
            draft = self._within_the_step(view, strategies, budget) or self._from_the_host(view, strategies, budget)
        with phase("forward"):  # and, as far as they are part of the step, drafting, verifying and committing
            step, draft, steady = self._prepare(view, draft, alone)
            result = self._launch(view, step, draft)
        self.meanwhile()
        with phase("verify"):
            if result.verified is not None:
                verdict = self._fetch(result.verified, draft.tree.width)
            else:
                verdict = self._verify(view, strategies, draft, result)
        assert verdict.host is not None
        with phase("commit"):
            self.batch.cache.advance(advances(verdict.host, view))  # the device has moved the rows already
        return StepOutcome(draft.tree, verdict, budget, steady, learned=draft.captured is not None)

    # -- draft --------------------------------------------------------------------------------------------------------

    def _from_the_host(self, view: StepView, strategies: StrategySet, nodes: int) -> _Draft:
        drafts: list[_Draft] = []

        def intake(view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
            drafts.append(self._packed(tree or DraftTree.root(view.root)))
            return drafts[-1].tree, drafts[-1].buffer.faults

        strategies.draft(view, nodes, intake)
        return drafts[-1]

    def _packed(self, tree: DraftTree) -> _Draft:
        buffer = self.batch.tree_buffer(nodes_bucket(tree.width))
        # not sent before the step runs, as a capture that comes in between uses the buffer
        return _Draft(buffer.shown(tree), buffer, packed=buffer.pack(tree))

    def _within_the_step(self, view: StepView, strategies: StrategySet, nodes: int) -> _Draft | None:
        """A draft that the captured step makes itself, where the drafter can; else None."""
        if not self._captures_drafts(self._verify_key(view, strategies.verifies_alone)):
            return None
        program = strategies.program(view)
        if program is None:
            return None
        name = strategies.drafter_name
        if nodes > 1:
            unseen = self.batch.tree_buffer(nodes_bucket(nodes)).reserved(nodes, name)
            nodes = strategies.width_of_unseen(view, unseen, nodes)
        buffer = self.batch.tree_buffer(nodes_bucket(nodes))
        return _Draft(buffer.reserved(nodes, name), buffer, captured=CapturedDraft(program, nodes))

    def _captures_drafts(self, verify_key: Hashable | None) -> bool:
        """Whether a drafter may be part of the step; ``verify_key``: of the verifier, without which it is not."""
        return self.launcher.backend.captures and self.launcher.drafts and verify_key is not None

    # -- forward ------------------------------------------------------------------------------------------------------

    def _prepare(self, view: StepView, draft: _Draft, alone: bool) -> tuple[StaticStep, _Draft, bool]:
        """A step that is ready to run, the draft that it takes, and whether it was ready before.

        Rehearsals and captures change nothing but scratch rows and the buffer.
        """
        if self.batch.reserve(draft.buffer.nodes):
            self.launcher.backend.forget()
        window, steady = self.batch.window(draft.buffer.nodes), True
        while True:
            top_key, verify_key = _top_key(self.needs, view), self._verify_key(view, alone)
            if draft.captured is not None and not self._captures_drafts(verify_key):
                root = DraftTree.root(view.root)  # this step goes without
                draft = attrs.evolve(draft, packed=draft.buffer.pack(root), captured=None)
            draft_key = None if draft.captured is None else draft.captured.key
            key = Key(draft.buffer.nodes, window.length, (verify_key, top_key, draft_key))
            step = StaticStep(
                key, self.runner, self.batch, draft.buffer, window, self.launcher, self.needs, view,
                shows=top_key is not None, verifies=verify_key is not None, draft=draft.captured,
            )  # fmt: skip
            if self.launcher.backend.ready(key):
                return step, draft, steady
            steady = False
            try:
                with self.batch.rehearsal():
                    self.launcher.backend.prepare(key, step, check=not self.launcher.compiled)
                return step, draft, steady
            except Exception as error:
                self.launcher.retreat(self.runner.model, error)

    def _launch(self, view: StepView, step: StaticStep, draft: _Draft) -> StaticResult:
        self.batch.act(view.active)
        if draft.packed is not None:
            draft.buffer.data.copy_(draft.packed, non_blocking=True)
        result: StaticResult = self.launcher.backend.run(step.key, step)
        return result

    def _verify_key(self, view: StepView, alone: bool) -> Hashable | None:
        """What the verifier's operations depend on, if it is to be part of the step."""
        joins = alone and self.launcher.verifies and _top_key(self.needs, view) is not None
        return view.verifier.capture_key(view) if joins else None

    # -- verify and fetch ---------------------------------------------------------------------------------------------

    def _fetch(self, verified: PackedVerdict, width: int) -> Verdict:
        """The step's only host synchronisation, where the verdict was found within it (else :meth:`_verify` has it)."""
        verdict = verified.head(width)
        verdict.host = host_verdict(unpack(self.batch.fetch(verified.packed), verified.shapes)).head(width)
        return verdict

    def _verify(self, view: StepView, strategies: StrategySet, draft: _Draft, result: StaticResult) -> Verdict:
        """Verify, commit and fetch what the step left open."""
        tree, buffer = draft.tree, draft.buffer
        assert buffer.logits is not None
        logits = buffer.logits[:, : tree.width]
        if result.top is None:
            top = top_tokens(self.needs, view.pipeline, view.do_sample, logits)
        else:
            top = result.top.head(tree.width)
        verdict = strategies.verify(view, tree, logits)
        self.batch.keep(*(part.to(view.device) for part in (verdict.path, verdict.length, verdict.next_token)))
        verdict.top_ids, verdict.top_probs = top
        verdict.to_host(tree, buffer.faults, top=self.needs.host)
        return verdict


def _top_key(needs: Needs, view: StepView) -> Hashable | None:
    """What the captured search for the best next tokens depends on; None if it has to stay outside."""
    if not (needs.top_k and needs.probs and view.do_sample):
        return (needs,)
    signature = view.pipeline.signature
    return None if signature is None else (needs, signature)
