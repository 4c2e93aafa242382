"""Decoding in static shapes: a :class:`~racer.engine.static.step.StaticStep` is prepared, run, its outcome fetched."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import attrs
from torch import Tensor

from racer.core.model_runner import ModelRunner
from racer.engine.executor import Cues, cues
from racer.engine.static.cuda_graphs import Key
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.shapes import nodes_bucket
from racer.engine.static.step import Draft, Outcome, Runner, StaticStep, head
from racer.engine.static.tree_buffer import TreeBuffer
from racer.engine.strategies import StrategySet
from racer.step.draft_tree import DraftTree
from racer.step.request import Needs, Request, StepView
from racer.step.verdict import HostVerdict, Verdict, host_verdict, unpack


@attrs.define(eq=False)
class StaticExecutor:
    """Takes a batch over after its prefill; see :class:`racer.engine.executor.Executor`.

    :param stage: begun, its cache filled by the prefill.
    :param needs: what drafters want to see.
    """

    core: ModelRunner
    stage: DeviceBatch
    runner: Runner
    needs: Needs
    steady: bool = True
    _done: tuple[bool, ...] = ()
    _sheet: TreeBuffer = attrs.field(init=False)
    _letter: Tensor = attrs.field(init=False)
    _outcome: Outcome = attrs.field(init=False)
    _draft: Draft | None = None

    def ends(self, requests: Sequence[Request]) -> Tensor:
        done = tuple(request.done for request in requests)
        if done != self._done:
            self._done = done
            self.stage.rest(done, [r.tokens[-1] for r in requests], [len(r.tokens) - 1 for r in requests])
        return self.stage.ends()

    def promise(self, view: StepView, strategies: StrategySet, nodes: int) -> tuple[DraftTree, Tensor] | None:
        if (
            not self._drafts(self._joined(view, strategies.verifies_alone))
            or (program := strategies.program(view)) is None
        ):
            return None
        if nodes > 1:
            nodes = strategies.unseen(
                view, self.stage.sheet(nodes_bucket(nodes)).promised(nodes, strategies.drafter_name)
            )
        self._sheet, self._draft = self.stage.sheet(nodes_bucket(nodes)), Draft(program, nodes)
        return self._sheet.promised(nodes, strategies.drafter_name), self._sheet.faults

    def take(self, view: StepView, tree: DraftTree | None) -> tuple[DraftTree, Tensor]:
        tree = tree or DraftTree.root(view.root)
        sheet = self.stage.sheet(nodes_bucket(tree.width))
        # not sent before the step runs, as a capture that comes in between uses the inbox
        self._sheet, self._letter, self._draft = sheet, sheet.fold(tree), None
        return sheet.shown(tree), sheet.faults

    def forward(self, view: StepView, tree: DraftTree, alone: bool) -> Tensor:
        if self.stage.reserve(self._sheet.nodes):
            self.runner.machine.forget()
        step = self._prepared(view, alone)
        self.stage.act(view.active)
        if step.draft is None:
            self._sheet.inbox.copy_(self._letter, non_blocking=True)
        view.settled.joined = step.draft is not None
        outcome = self._outcome = self.runner.machine.run(step.key, step)
        if outcome.verdict is not None:
            view.settled.captured = outcome.head(tree.width)
        assert self._sheet.logits is not None
        return self._sheet.logits[:, : tree.width]

    def look(self, view: StepView, tree: DraftTree, logits: Tensor) -> Cues:
        outcome = self._outcome
        if outcome.shows:
            return Cues(head(outcome.top_ids, tree.width), head(outcome.top_probs, tree.width))
        return cues(self.needs, view.pipeline, view.do_sample, logits)

    def settle(self, view: StepView, tree: DraftTree, faults: Tensor, verdict: Verdict, shown: Cues) -> HostVerdict:
        outcome = self._outcome
        if outcome.packed is not None:
            parts = unpack(self.stage.fetch(outcome.packed), outcome.shapes)
            verdict.host = host_verdict(parts).head(tree.width)
            return verdict.host
        self.stage.keep(*(part.to(view.device) for part in (verdict.path, verdict.length, verdict.next_token)))
        verdict.top_ids, verdict.top_probs = shown
        return verdict.to_host(tree, faults, cues=self.needs.host)

    def commit(self, verdict: Verdict, advance: Sequence[int]) -> None:
        self.stage.cache.advance(advance)  # the device has moved the rows already

    def _joined(self, view: StepView, alone: bool) -> Hashable | None:
        """What the verifier's operations depend on, if it is to be part of the step."""
        return _verify_key(view) if alone and self.runner.verifies and _cue_key(self.needs, view) is not None else None

    def _drafts(self, verify_key: Hashable | None) -> bool:
        """Whether a drafter may be part of the step; ``verify_key``: of the verifier, without which it is not."""
        return self.runner.machine.captures and self.runner.drafts and verify_key is not None

    def _prepared(self, view: StepView, alone: bool) -> StaticStep:
        """A step that is ready to run. Rehearsals and captures change nothing but scratch rows and the inbox."""
        window, self.steady = self.stage.window(self._sheet.nodes), True
        while True:
            cue_key, verify_key = _cue_key(self.needs, view), self._joined(view, alone)
            if self._draft is not None and not self._drafts(verify_key):
                self._draft, self._letter = None, self._sheet.fold(DraftTree.root(view.root))  # this step goes without
            draft_key = None if self._draft is None else self._draft.key
            key = Key(self._sheet.nodes, window.length, (verify_key, cue_key, draft_key))
            step = StaticStep(
                key, self.core, self.stage, self._sheet, window, self.runner, self.needs, view,
                shows=cue_key is not None, verifies=verify_key is not None, draft=self._draft,
            )  # fmt: skip
            if self.runner.machine.ready(key):
                return step
            self.steady = False
            try:
                with self.stage.rehearsal():
                    self.runner.machine.prepare(key, step, check=not self.runner.compiled)
                return step
            except Exception as error:
                self.runner.retreat(self.core.model, error)


def _verify_key(view: StepView) -> Hashable | None:
    """What a captured verification depends on; None if the verifier has to stay outside."""
    ask = getattr(view.settled.verifier, "capture_key", None)
    key: Hashable | None = None if ask is None else ask(view)
    return key


def _cue_key(needs: Needs, view: StepView) -> Hashable | None:
    """What the captured search for the best next tokens depends on; None if it has to stay outside."""
    if not (needs.top_k and needs.probs and view.do_sample):
        return (needs,)
    signature = getattr(view.pipeline, "signature", None)
    return None if signature is None else (needs, signature)
