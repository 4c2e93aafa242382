"""The operations of a step in static shapes: the tree in a bucket, attention over a bucket, all addresses fixed.

What one step does, captured or not: check the drafted tree, find its mask and positions, run the model, find the best
next tokens for drafters; and, if the verifier can say what its operations depend on and no plugin stands around it,
verify, commit the accepted rows, and pack all that the host wants to know. Otherwise (processors that read prefixes,
verifiers of others, plugins with ``racer_verify``) the step ends after the forward pass, and the rest runs as it is.
A drafter that lives on the device drafts at the beginning of a captured step, and learns at its end. Drafting on the
host, hooks, stop criteria and streaming are never part of it.
"""

from __future__ import annotations

from collections.abc import Hashable

import attrs
from torch import Tensor

from racer.core.model_runner import ModelRunner
from racer.engine.static.cuda_graphs import Key
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.kv_window import FixedWindow
from racer.engine.static.launcher import DRAFT, FORWARD, VERIFY, Launcher
from racer.engine.static.tree_buffer import TreeBuffer
from racer.engine.top_tokens import TopTokens, top_tokens
from racer.guard import check_form
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict, pack
from racer.step.view import Needs, StepView
from racer.strategies.device import DraftProgram


@attrs.frozen(eq=False)
class CapturedDraft:
    """A draft that is a part of the step."""

    program: DraftProgram
    nodes: int
    """Columns, and at most as many nodes."""

    @property
    def key(self) -> Hashable:
        """What the operations depend on; good as long as the program is kept."""
        return id(self.program), self.nodes


@attrs.frozen(eq=False)
class PackedVerdict:
    """A verdict that was found within the step, and all that the host wants to know, ready to be fetched."""

    verdict: Verdict
    """In the bucket's width."""
    packed: Tensor
    """Flat, int64."""
    shapes: dict[str, tuple[int, ...]]
    """Of its parts."""

    def head(self, width: int) -> Verdict:
        """The verdict in the drafted width: padding is never accepted."""
        verdict = self.verdict
        top = TopTokens(verdict.top_ids, verdict.top_probs).head(width)
        return Verdict(verdict.path[:, :width], verdict.length, verdict.next_token, *top)


@attrs.frozen(eq=False)
class StaticResult:
    """What a step leaves beside the buffer's tree, faults and logits."""

    top: TopTokens | None
    """In the bucket's width; None: what drafters asked for is still to be found."""
    verified: PackedVerdict | None = None
    """None: the tree is still to be verified, and nothing is committed."""
    draft: CapturedDraft | None = None
    """Who has drafted here, and has learned from the verdict; while the step is recorded, its memory must stay."""


@attrs.frozen(eq=False)
class StaticStep:
    """The operations of one step; calling it runs them. Between two calls only contents may change, not addresses."""

    key: Key
    runner: ModelRunner
    device_batch: DeviceBatch
    buffer: TreeBuffer
    window: FixedWindow
    launcher: Launcher
    needs: Needs
    view: StepView
    shows: bool
    """Whether the best next tokens are found here."""
    verifies: bool
    """Whether the verdict is found, committed and packed here."""
    draft: CapturedDraft | None = None
    """What is drafted here, and learned from the verdict; only where it is found here."""

    def __call__(self) -> StaticResult:
        if self.draft is not None:
            self.launcher.doing = DRAFT
            self.buffer.data.copy_(self.buffer.pack(self._drafted(self.draft)))
        self.launcher.doing = FORWARD
        tree, faults = self._checked()
        logits = self.buffer.hold(self._forward(tree), fixed=self.launcher.backend.captures)
        view = self.view
        top = top_tokens(self.needs, view.pipeline, view.do_sample, logits) if self.shows else None
        if not self.verifies:
            return StaticResult(top)
        self.launcher.doing = VERIFY
        verdict = self._verify(tree, logits)
        assert top is not None  # the executor sees to it
        verdict.top_ids, verdict.top_probs = top
        self.device_batch.keep(verdict.path, verdict.length, verdict.next_token)
        parts = verdict.parts(tree, faults, top=self.needs.host)
        shapes = {name: tuple(part.shape) for name, part in parts.items()}
        packed = PackedVerdict(verdict, pack(parts), shapes)
        if self.draft is not None:  # when all is decided, whatever the drafter writes into what it is shown
            self.launcher.doing = DRAFT
            seen = attrs.evolve(verdict, next_token=verdict.next_token.clamp(min=0))  # behind a row's end: no token
            self.draft.program.observe(tree, seen, self.device_batch.active)
        self.launcher.doing = FORWARD  # whatever fails after this, it is neither draft nor verifier
        return StaticResult(top, packed, self.draft)

    def _drafted(self, draft: CapturedDraft) -> DraftTree:
        """By a drafter with one name, so that the tree's own sources are nobody's."""
        root = self.device_batch.root
        if draft.nodes == 1:
            return DraftTree.root(root)
        tree = check_form(draft.program.draft(root, draft.nodes), len(root), draft.nodes)
        return DraftTree(tree.tokens, tree.parent, tree.count)

    def _checked(self) -> tuple[DraftTree, Tensor]:
        """The tree in the buffer, its faulty rows cut back to their roots there too; and its faults."""
        drafted, kinds = self.buffer.drafted()
        faults = drafted.faults(self.device_batch.root, self.view.vocab_size, kinds)
        tree = drafted.sound(faults, self.device_batch.root, look=False)
        self.buffer.put(tree, faults)
        return tree, faults

    def _forward(self, tree: DraftTree) -> Tensor:
        placed = self.device_batch.place(tree, self.window)
        dtype = self.runner.model.dtype
        mask = self.runner.plan.masks.build(placed.seen, placed.position, placed.places, dtype)
        self.window.aim(placed.slots)
        return self.runner.run(tree.tokens, mask, placed.position, self.window, call=self.launcher.call)

    def _verify(self, tree: DraftTree, logits: Tensor) -> Verdict:
        """The verdict by the batch's own tensors: those of the view are copies, made for this step alone."""
        batch = self.device_batch
        view = attrs.evolve(self.view, root=batch.root, position=batch.lengths - batch.padding, seeds=batch.seeds)
        verdict: Verdict = self.view.verifier.verify(view, tree, logits)
        return verdict
