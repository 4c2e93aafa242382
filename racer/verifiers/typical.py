"""Typical acceptance (Medusa, arXiv 2401.10774, section 2.3.1): lossy, and declared so."""

from __future__ import annotations

import attrs
import torch
from torch import Tensor

from racer.errors import ConfigError
from racer.step.draft_tree import DraftTree
from racer.step.sampling import sampled
from racer.step.verdict import Verdict
from racer.step.view import Prefix, StepView
from racer.verifiers.base import Verifier, last_of, longest_path
from racer.verifiers.descent import Level, descents, verdict_of


def _in_unit(_: object, field: attrs.Attribute[float], value: float) -> None:
    if not 0 < value <= 1:
        raise ConfigError(f"{field.name} of typical acceptance must be above 0 and at most 1, not {value!r}")


@attrs.frozen(eq=False)
class Typical(Verifier):
    """Accepts token x when ``p(x) > min(epsilon, delta * exp(-H(p)))``: plausible is enough.

    Several siblings may qualify; the longest path wins (where a logits processor has a memory, that of the likeliest
    ones). Output differs from plain decoding. The token after the path
    is the argmax, or a sample where ``generate`` samples.
    """

    epsilon: float = attrs.field(default=0.09, validator=_in_unit)
    delta: float = attrs.field(default=0.3, validator=_in_unit)
    exact = False

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        if view.pipeline.remembers:
            return self._descend(view, tree, logits)
        scores = self._scores(view, tree, logits)
        parent = tree.parent.clamp(min=0)
        rows = torch.arange(tree.batch, device=view.device)
        logp = scores.log_softmax(-1)
        chance = logp[rows[:, None], parent, tree.tokens].exp()
        path, length = longest_path(tree, chance > self._bar(logp).gather(1, parent))
        last = scores[rows, last_of(path, length)]
        next_token = sampled(last, view.seeds, view.position + length) if view.do_sample else last.argmax(-1)
        return Verdict(path=path, length=length, next_token=next_token)

    def _bar(self, logp: Tensor) -> Tensor:
        """What the probability of a token must be above: ``[...]`` for log-probabilities ``[..., V]``."""
        entropy = -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(-1)  # 0 * log 0 is 0
        return torch.clamp(self.delta * (-entropy).exp(), max=self.epsilon)

    def _scores(self, view: StepView, tree: DraftTree, logits: Tensor) -> Tensor:
        """Processed scores ``[B, N, V]`` in float32, each node with its own prefix."""
        if view.pipeline.context_free:
            return view.pipeline.batch(logits.flatten(0, 1)).float().view(logits.shape)
        scores, places = logits.to(torch.float32, copy=True), _places(view, tree)
        if places:
            rows, nodes = [prefix.row for prefix, _ in places], [node for _, node in places]
            scores[rows, nodes] = view.pipeline.at([prefix for prefix, _ in places]).batch(scores[rows, nodes])
        return scores

    def _descend(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        """Of the children that qualify the likeliest is followed: processors with a memory cannot be asked about more
        than one."""
        going = found = descents(view, tree)
        while going:
            level, left = Level.of(going, view, logits), []
            scores = level.pipeline.batch(level.logits).float()
            tokens = sampled(scores, level.seeds, level.positions) if view.do_sample else scores.argmax(-1)
            logp = scores.log_softmax(-1)
            for descent, chances, bar, token in zip(going, logp.exp(), self._bar(logp), tokens.tolist(), strict=True):
                choices = {choice: float(chances[choice]) for choice in descent.choices}
                best = max(choices, key=choices.__getitem__, default=None)
                if best is None or not choices[best] > bar:
                    descent.next_token = token
                elif descent.follow(best, view):
                    left.append(descent)
            going = left
        return verdict_of(found, tree, view.device)


def _places(view: StepView, tree: DraftTree) -> list[tuple[Prefix, int]]:
    """Every node of rows that are not finished, and what stands before the token behind it."""
    tokens, counts, ancestors = tree.tokens.tolist(), tree.count.tolist(), tree.ancestors.tolist()
    places = []
    for row, request in enumerate(view.requests):
        for node in range(0 if request.done else counts[row]):
            above = [token for token, on in zip(tokens[row], ancestors[row][node], strict=True) if on]
            places.append((Prefix(row, request, above[1:]), node))
    return places
