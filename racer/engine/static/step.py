"""The operations of a step in static shapes: the tree in a bucket, attention over a bucket, all addresses fixed.

What one step does, captured or not: check the drafted tree, find its mask and positions, run the model, find the best
next tokens for drafters; and, if the verifier can say what its operations depend on and no plugin stands around it,
verify, commit the accepted rows, and pack all that the host wants to know. Otherwise (processors that read prefixes,
verifiers of others, plugins with ``racer_verify``) the step ends after the forward pass, and the rest runs as it is.
A drafter that lives on the device drafts at the beginning of a captured step, and learns at its end. Drafting on the
host, hooks, stop criteria and streaming are never part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import attrs
from torch import Tensor

from racer.core.model_runner import ModelRunner, call_model
from racer.engine.executor import cues
from racer.engine.static.cuda_graphs import Eager, Graphs, Key, warn_of
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.kv_window import FixedWindow
from racer.engine.static.tree_buffer import TreeBuffer
from racer.guard import check_form
from racer.step.draft_tree import DraftTree
from racer.step.request import Needs, Settled, StepView
from racer.step.verdict import Verdict, pack
from racer.strategies.device import DraftProgram

DRAFT, FORWARD, VERIFY = "draft", "forward", "verify"


@attrs.define(eq=False)
class Runner:
    """How bodies are run, from the fastest way to the plainest; kept with the stage, as a failure is worth remembering.

    :param machine: captures, or does not.
    :param call: who calls the model; compiled, or :func:`racer.core.model_runner.call_model`.
    """

    machine: Eager | Graphs
    call: Callable[..., Any] = call_model
    verifies: bool = True
    """Whether verifiers may be part of a captured step, ..."""
    drafts: bool = True
    """... and drafters."""
    doing: str = FORWARD
    """What a step that fails was at."""

    @property
    def compiled(self) -> bool:
        return self.call is not call_model

    def retreat(self, model: Any, error: Exception) -> None:
        """Give up what failed, say so, and leave a plainer way; raises ``error`` if there is none."""
        if self.doing == DRAFT:
            self.drafts = False
            warn_of(model, "has its drafter outside the CUDA graph", error)
        elif self.compiled:
            self.call = call_model
            warn_of(model, "is not compiled", error)
        elif self.machine.captures and self.doing == VERIFY:
            self.verifies = False
            warn_of(model, "has its verifier outside the CUDA graph", error)
        elif self.machine.captures:
            self.machine, self.verifies, self.drafts = Eager(), True, True
            warn_of(model, "cannot be captured in a CUDA graph and is run without", error)
        else:
            raise error
        self.machine.forget()


@attrs.frozen(eq=False)
class Draft:
    """A draft that is a part of the step."""

    program: DraftProgram
    nodes: int
    """Columns, and at most as many nodes."""

    @property
    def key(self) -> Hashable:
        """What the operations depend on; good as long as the program is kept."""
        return id(self.program), self.nodes


@attrs.frozen(eq=False)
class Outcome:
    """What a step leaves beside the sheet's tree, faults and logits; in the bucket's width."""

    top_ids: Tensor | None
    top_probs: Tensor | None
    shows: bool
    """Whether these two are what drafters asked for; otherwise they are still to be found."""
    verdict: Verdict | None = None
    packed: Tensor | None = None
    """All that the host wants to know, in one flat tensor; there with a verdict."""
    shapes: dict[str, tuple[int, ...]] = attrs.field(factory=dict)
    """Of its parts."""
    draft: Draft | None = None
    """Who has drafted here; while the step is recorded, its memory must stay."""

    def head(self, width: int) -> Verdict | None:
        """The verdict in the drafted width, of its own: padding is never accepted."""
        verdict = self.verdict
        return verdict and Verdict(
            verdict.path[:, :width],
            verdict.length,
            verdict.next_token,
            head(self.top_ids, width),
            head(self.top_probs, width),
        )


@attrs.frozen(eq=False)
class StaticStep:
    """The operations of one step; calling it runs them. Between two calls only contents may change, not addresses."""

    key: Key
    core: ModelRunner
    stage: DeviceBatch
    sheet: TreeBuffer
    window: FixedWindow
    runner: Runner
    needs: Needs
    view: StepView
    shows: bool
    """Whether the best next tokens are found here."""
    verifies: bool
    """Whether the verdict is found, committed and packed here."""
    draft: Draft | None = None
    """What is drafted here, and learned from the verdict; only where it is found here."""

    def __call__(self) -> Outcome:
        stage, sheet = self.stage, self.sheet
        if self.draft is not None:
            self.runner.doing = DRAFT
            sheet.inbox.copy_(sheet.fold(self._drafted(self.draft)))
        self.runner.doing = FORWARD
        drafted, kinds = sheet.drafted()
        faults = drafted.faults(stage.root, self.view.vocab_size, kinds)
        tree = drafted.sound(faults, stage.root, look=False)
        sheet.put(tree, faults)
        logits = sheet.hold(self._forward(tree), fixed=self.runner.machine.captures)
        ids, probs = cues(self.needs, self.view.pipeline, self.view.do_sample, logits) if self.shows else (None, None)
        if not self.verifies:
            return Outcome(ids, probs, self.shows)
        self.runner.doing = VERIFY
        verdict = self._verify(tree, logits)
        verdict.top_ids, verdict.top_probs = ids, probs
        if self.draft is not None:
            self.runner.doing = DRAFT
            self.draft.program.observe(tree, verdict, stage.active)
            self.runner.doing = VERIFY
        stage.keep(verdict.path, verdict.length, verdict.next_token)
        parts = verdict.parts(tree, faults, cues=self.needs.host)
        shapes = {name: tuple(part.shape) for name, part in parts.items()}
        packed, self.runner.doing = pack(parts), FORWARD  # whatever fails after this, it is neither of them
        return Outcome(ids, probs, self.shows, verdict, packed, shapes, self.draft)

    def _drafted(self, draft: Draft) -> DraftTree:
        """By a drafter with one name, so that the tree's own sources are nobody's."""
        if draft.nodes == 1:
            return DraftTree.root(self.stage.root)
        tree = check_form(draft.program.draft(self.stage.root, draft.nodes), len(self.stage.root), draft.nodes)
        return DraftTree(tree.tokens, tree.parent, tree.count)

    def _forward(self, tree: DraftTree) -> Tensor:
        placed = self.stage.place(tree, self.window)
        mask = self.core.plan.masks.build(placed.seen, placed.position, placed.places, self.core.model.dtype)
        self.window.aim(placed.slots)
        return self.core.run(tree.tokens, mask, placed.position, self.window, 0, self.runner.call)

    def _verify(self, tree: DraftTree, logits: Tensor) -> Verdict:
        """The verdict by the stage's own tensors: those of the view are copies, made for this step alone."""
        stage = self.stage
        view = attrs.evolve(
            self.view, root=stage.root, position=stage.lengths - stage.padding, seeds=stage.seeds, settled=Settled()
        )
        verdict: Verdict = self.view.settled.verifier.verify(view, tree, logits)
        return verdict


def head(part: Tensor | None, width: int) -> Tensor | None:
    """The first ``width`` columns of ``part [B, N, ...]``."""
    return None if part is None else part[:, :width]
