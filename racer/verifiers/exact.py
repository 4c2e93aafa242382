"""Greedy and exact sampling: one algorithm that differs in how a token is picked.

Every node gets the target that plain decoding would choose after it; a child is right when it carries its parent's
target. Sampling picks ``argmax(scores + Gumbel noise)`` with noise keyed by (seed, position), the same for all nodes
of a position, so the tree changes nothing about the sampled text and a deterministic draft is accepted as often as is
possible at all (the probability of its token).
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import torch
from torch import Tensor

from racer.kernels import vocab_search
from racer.step.draft_tree import DraftTree
from racer.step.sampling import sampled
from racer.step.verdict import Verdict
from racer.step.view import PlacedPipeline, StepView
from racer.verifiers.base import Verifier, last_of, longest_path
from racer.verifiers.descent import Level, descents, verdict_of


class ExactVerifier(Verifier):
    """Shared by both; subclasses say how a token is picked."""

    def pick(self, scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """``[M]`` tokens from processed ``scores [M, V]``; ``positions [M]`` are those of the tokens to pick."""
        raise NotImplementedError

    def targets(self, pipeline: PlacedPipeline, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """The same from ``logits [M, V]``; :data:`racer.step.verdict.NO_TOKEN` where there is none."""
        return self.pick(pipeline.batch(logits), seeds, positions)

    def walks(self, view: StepView) -> bool:
        """Whether to process only the nodes on the accepted path, one after the other, on the host."""
        return not view.pipeline.context_free

    def _batch_key(self, view: StepView) -> Hashable | None:
        """For :meth:`capture_key`: the verifiers here have no state, so their kind and the processors settle it."""
        signature = view.pipeline.signature
        return None if self.walks(view) or signature is None else (type(self).__name__, signature)

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        return self._walk(view, tree, logits) if self.walks(view) else self._batch(view, tree, logits)

    def _batch(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        """All nodes at once."""
        batch, width, _ = logits.shape
        positions = view.position[:, None] + tree.depth + 1
        seeds = view.seeds[:, None].expand(-1, width).flatten()
        targets = self.targets(view.pipeline, logits.flatten(0, 1), seeds, positions.flatten())
        return self.verify_targets(tree, targets.view(batch, width))

    def verify_targets(self, tree: DraftTree, targets: Tensor) -> Verdict:
        """A node is right when it carries its parent's target; the deepest right path is accepted."""
        if tree.width == 1:
            return Verdict(torch.zeros_like(targets), torch.ones_like(targets[:, 0]), targets[:, 0])
        if targets.device.type == "cpu":
            return _walked(tree, targets)
        hit = tree.tokens == targets.gather(1, tree.parent.clamp(min=0))
        path, length = longest_path(tree, hit)
        next_token = targets.gather(1, last_of(path, length)[:, None])[:, 0]
        return Verdict(path=path, length=length, next_token=next_token)

    def _walk(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        """Node after node, each with its own true prefix, all rows side by side.

        Each prefix is visited once and in order, as in plain decoding, so processors with a memory stay right.
        """
        going = found = descents(view, tree)
        while going:
            level = Level.of(going, view, logits)
            targets = self.targets(level.pipeline, level.logits, level.seeds, level.positions).tolist()
            going = [descent for descent, token in zip(going, targets, strict=True) if descent.follow(token, view)]
        return verdict_of(found, tree, view.device)


def _walked(tree: DraftTree, targets: Tensor) -> Verdict:
    """What :func:`longest_path` finds, on the host; of equal siblings, the first one's path."""
    from racer.kernels.accept_path import walk  # with numba, which plain decoding does without

    path, length, next_token = np.zeros(targets.shape, np.int64), *np.empty((2, tree.batch), np.int64)
    tokens, parent, count, right = map(np.ascontiguousarray, (tree.tokens, tree.parent, tree.count, targets))
    walk(tokens, parent, count, right, path, length, next_token)
    return Verdict(torch.from_numpy(path), torch.from_numpy(length), torch.from_numpy(next_token))


class Greedy(ExactVerifier):
    """Accepts a node that is the argmax after its parent. Exact."""

    samples = False

    def capture_key(self, view: StepView) -> Hashable | None:
        return self._batch_key(view) if type(self) is Greedy else None

    def pick(self, scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        return vocab_search.best(scores)

    def needs_only_argmax(self, view: StepView) -> bool:
        return type(self) is Greedy and view.pipeline.signature == ()  # a subclass may pick otherwise


class Sampling(ExactVerifier):
    """Accepts a node that plain sampling with the same seed would draw. Exact."""

    samples = True

    def walks(self, view: StepView) -> bool:
        # A CPU has no synchronisation to save, and three visited nodes are cheaper than sixty-four.
        return super().walks(view) or view.device.type == "cpu"

    def capture_key(self, view: StepView) -> Hashable | None:
        return self._batch_key(view) if type(self) is Sampling else None

    def pick(self, scores: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        return sampled(scores, seeds, positions)

    def targets(self, pipeline: PlacedPipeline, logits: Tensor, seeds: Tensor, positions: Tensor) -> Tensor:
        """On an accelerator all rows at once, sorted where a processor sorts: less would need the host's answer."""
        if logits.device.type == "cpu" and type(self).pick is Sampling.pick:
            return pipeline.draw(logits, seeds, positions)
        return super().targets(pipeline, logits, seeds, positions)
