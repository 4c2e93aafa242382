"""Typical acceptance (Medusa, arXiv 2401.10774, section 2.3.1): lossy, and declared so."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from racer.errors import ConfigError
from racer.kernels.gumbel import gumbel
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.verifiers.base import Verifier, last_of, longest_path


def _in_unit(_: object, field: attrs.Attribute[float], value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{field.name} of typical acceptance must be above 0 and at most 1, not {value!r}")


@attrs.frozen(eq=False)
class Typical(Verifier):
    """Accepts token x when ``p(x) > min(epsilon, delta * exp(-H(p)))``: plausible is enough.

    Several siblings may qualify; the longest path wins. Output differs from plain decoding. The token after the path
    is the argmax, or a sample where ``generate`` samples.
    """

    epsilon: float = attrs.field(default=0.09, validator=_in_unit)
    delta: float = attrs.field(default=0.3, validator=_in_unit)
    exact = False

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        scores = self._scores(view, tree, logits)
        logp = scores.log_softmax(-1)
        entropy = -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)  # [B, N]; 0 * log 0 is 0
        bar = torch.clamp(self.delta * (-entropy).exp(), max=self.epsilon)
        parent = tree.parent.clamp(min=0)
        rows = torch.arange(tree.batch, device=view.device)
        chance = logp[rows[:, None], parent, tree.tokens].exp()
        path, length = longest_path(tree, chance > bar.gather(1, parent))
        last = scores[rows, last_of(path, length)]
        if view.do_sample:
            last = last + gumbel(view.seeds, view.position + length, last.shape[1])
        return Verdict(path=path, length=length, next_token=last.argmax(-1))

    def _scores(self, view: StepView, tree: DraftTree, logits: Tensor) -> Tensor:
        """Processed scores ``[B, N, V]`` in float32, each node with its own prefix."""
        if view.pipeline.context_free:
            return view.pipeline.batch(logits.flatten(0, 1)).float().view(logits.shape)
        scores, tokens, counts = logits.float().clone(), tree.tokens.tolist(), tree.count.tolist()
        ancestors = tree.ancestors.tolist()
        for row, request in enumerate(view.requests):
            before = [*request.padding, *request.tokens[:-1]]
            for node in range(0 if request.done else counts[row]):
                path = [token for token, above in zip(tokens[row], ancestors[row][node], strict=True) if above]
                scores[row, node] = view.pipeline.one([*before, *path], logits[row, node], row)
        return scores
