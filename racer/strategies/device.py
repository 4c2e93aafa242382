"""Drafting on the model's device, in operations that a CUDA graph can hold."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.base import Drafter


class DraftProgram(Protocol):
    """What of a drafter lives on one device, for one vocabulary.

    Its operations may be captured with the forward pass and replayed. So they work on the device alone: they ask for no
    value on the host, bring none over, and find all memory where it was (whatever is learned is written in place).
    Plain numbers on the object are constants of a graph. An index beyond a tensor ends a CUDA process, so token ids
    that come from elsewhere are to be clamped: there are heads of more rows than the vocabulary, and of fewer.
    """

    def draft(self, root: Tensor, nodes: int) -> DraftTree:
        """Trees of ``nodes`` columns, 2 or more, below the pending tokens ``root [B]``; in a graph all of them are paid
        for, used or not. It is rehearsed too, so it writes nothing.

        Nodes are credited to the drafter; scores, if there are any, only count outside of a graph.
        """

    def observe(self, tree: DraftTree, verdict: Verdict, active: Tensor) -> None:
        """Learn from scored trees.

        :param verdict: with ``top_ids`` and ``top_probs`` as the drafter needs, and without ``host``.
        :param active: ``[B]`` bool: of other rows nothing may be learned. A rehearsal has none that is active.
        """


class DeviceDrafter(Drafter):
    """A drafter whose memory and work are on the model's device. Subclasses say what lives there: :meth:`make`.

    With ``DecodeConfig(compile="graphs")`` it becomes part of the captured step, unless the verifier cannot be
    captured, or somebody would see its trees before they are scored: a plugin, a budget that cuts them by what is in
    them, or a subclass with its own :meth:`draft` or :meth:`observe`. Everywhere else it is called like any drafter.
    """

    def __init__(self) -> None:
        self._programs: dict[tuple[torch.device, int], DraftProgram] = {}

    def make(self, device: torch.device, vocab_size: int) -> DraftProgram:
        """A new one, its memory taken."""
        raise NotImplementedError(f"{self.label} must define make")

    def program(self, view: StepView) -> DraftProgram:
        """The one for this step's model; each is kept, as graphs hold its addresses."""
        place = view.device, view.vocab_size
        if place not in self._programs:
            with torch.inference_mode(False):  # memory that is made inside could not be written to outside
                self._programs[place] = self.make(*place)
        return self._programs[place]

    def draft(self, view: StepView, budget: int) -> DraftTree:
        tree = self.program(view).draft(view.root, budget)
        return DraftTree(tree.tokens, tree.parent, tree.count, tree.score, sources=(self.label,))

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        self.program(view).observe(tree, verdict, torch.tensor(view.active, device=view.device))
