"""Texts that an engine decodes, and what is drafted for them."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from typing import Any

import attrs
import numpy as np
import torch
from numpy.typing import NDArray

from racer.config import Choice
from racer.discovery import plugins
from racer.drafting.pace import Pace
from racer.drafting.scored import Scored, scored_of, together
from racer.drafting.told import Draft, Figures, Told
from racer.errors import ConfigError
from racer.guard import Guard
from racer.step.best_path import best_path, width_before
from racer.step.draft_tree import DraftTree
from racer.step.request import Request, add_tokens
from racer.step.view import StepView
from racer.strategies.adapt import as_drafter
from racer.strategies.base import Drafter

NOTHING = Draft(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))


class Session:
    """Drafts for the texts of one model, whoever decodes them.

    An engine opens a text when its prompt is there, says after each step what has become of its texts, in any order and
    number, and gets a draft for each. What it makes of drafts is its own affair: it may score some, cut them, or none.
    A drafter that fails is warned of, once, and drafts nothing. One thread at a time is let in.

    ::

        session = Session("racer", vocab_size=49152)
        session.open("a", prompt)
        (draft,) = session.step([Told("a", emitted=[first_token])])
        ...  # score draft.tokens, accept what is right
        (draft,) = session.step([Told("a", emitted=accepted + [next_token], tokens=..., top_ids=..., top_probs=...)])
        session.close("a")

    :param drafter: name, :class:`racer.Choice` or object, as in :class:`racer.DecodeConfig`.
    :param vocab_size: token ids are smaller.
    :param most: tokens of a draft, at most.
    :param trees: whether the engine can verify trees; else drafts are chains.
    :param cues: whether the engine shows the model's best tokens (:attr:`needs` says how many).
    :param least_score: guesses less probable than this are left out; None: where they do not pay, by what steps take.
    :raises ConfigError: an argument out of range, or a drafter that needs cues where there are none.
    :raises UnknownStrategy: nobody registered a drafter of this name.
    """

    def __init__(
        self,
        drafter: str | Choice | Drafter = "racer",
        *,
        vocab_size: int,
        most: int = 8,
        trees: bool = False,
        cues: bool = True,
        least_score: float | None = None,
    ) -> None:
        for name, value in (("vocab_size", vocab_size), ("most", most)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number from 1, not {value!r}")
        if least_score is not None and not 0 <= least_score <= 1:
            raise ConfigError(f"least_score must be a probability or None, not {least_score!r}")
        self._guard = Guard(as_drafter(plugins.make("drafter", drafter)))
        self.needs = self._guard.needs if cues else attrs.evolve(self._guard.needs, top_k=0, probs=False)
        """How many best tokens the drafter wants to be shown, and whether with probabilities."""
        if self._guard.needs.top_k and not cues and not self._guard.needs.optional:
            raise ConfigError(
                f"drafter {self._guard.label!r} drafts from the model's best tokens, and the engine shows none: "
                "show them (cues=True), or take 'racer', 'retrieval' or 'prompt-lookup'"
            )
        self._vocab_size, self._most, self._trees, self._least_score = vocab_size, most, trees, least_score
        self._texts: dict[Hashable, _Text] = {}
        self._pace = Pace()
        self._lock = threading.Lock()
        self.figures = Figures()

    def __len__(self) -> int:
        """Texts that are open."""
        return len(self._texts)

    def open(self, key: Hashable, text: Sequence[int], *, limit: int | None = None) -> None:
        """Begin a text, or go on with one: after preemption, say, when ``text`` begins with what is known of it.

        :param text: all tokens that are there.
        :param limit: new tokens that it may get, if that is known: less memory is kept for a short one.
        :raises ValueError: it is empty, or has tokens that are none of the vocabulary.
        """
        tokens = self._checked(text)
        if not tokens:
            raise ValueError("a text needs a token to go on from")
        with self._lock:
            known = self._texts.get(key)
            if known is not None and known.request.tokens == tokens[: len(known.request.tokens)]:
                add_tokens(known.request, tokens[len(known.request.tokens) :])
                known.drafted = NOTHING
                return
            self._close(key)
            request = Request(tuple(tokens), limit=2**31 if limit is None else limit)
            self._guard.opened(request)
            self._texts[key] = _Text(request)

    def step(self, told: Sequence[Told], *, milliseconds: float | None = None) -> list[Draft]:
        """Learn what has become of some texts, and draft for each of them, in this order.

        :param milliseconds: what the engine's step over just these texts has taken, if it is known.
        :raises KeyError: a text that is not open.
        :raises ValueError: a text twice, tokens that are none of the vocabulary, parents or best tokens of another
            shape. Nothing is learned then.
        """
        with self._lock:
            scored = [self._scored(one) for one in told]
            if len({one.key for one in told}) < len(told):
                raise ValueError("a text is told of twice in one step")
            self._count(scored, milliseconds)
            self._learn([one for one in scored if one.emitted])
            return self._draft([one.text for one in scored])

    def close(self, key: Hashable) -> None:
        """A text has ended; what was learned from it stays. One that is not open is none."""
        with self._lock:
            self._close(key)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _close(self, key: Hashable) -> None:
        text = self._texts.pop(key, None)
        if text is not None:
            self._guard.closed(text.request)

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        checked = [int(token) for token in tokens]
        if wrong := next((token for token in checked if not 0 <= token < self._vocab_size), None):
            raise ValueError(f"token {wrong} is none of the vocabulary's {self._vocab_size}")
        return checked

    def _scored(self, told: Told) -> Scored[_Text]:
        text = self._texts.get(told.key)
        if text is None:
            raise KeyError(f"text {told.key!r} is not open: open it with all its tokens")
        shown = self.needs.top_k or 1
        return scored_of(told, text, text.request.tokens[-1], self._checked(told.emitted), shown, self._vocab_size)

    def _count(self, scored: Sequence[Scored[_Text]], milliseconds: float | None) -> None:
        figures, new = self.figures, [one for one in scored if one.emitted]
        for one in new:
            drafted = one.text.drafted
            accepted = _right(drafted, one.emitted)
            figures.steps += 1
            figures.drafted_steps += len(drafted) > 0
            figures.drafted += len(drafted)
            figures.accepted += accepted
            figures.emitted += len(one.emitted)
        if milliseconds is not None and new:
            tokens = sum(1 + len(one.text.drafted) for one in new)
            self._pace.heard(tokens, sum(len(one.emitted) for one in new), milliseconds)

    def _learn(self, scored: Sequence[Scored[_Text]]) -> None:
        if not scored:
            return
        requests = [one.text.request for one in scored]
        view = self._view(requests)
        for one in scored:
            add_tokens(one.text.request, one.emitted)
        tree, verdict = together(scored)
        self._guard.observe(view, tree, verdict)

    def _draft(self, texts: Sequence[_Text]) -> list[Draft]:
        if not texts:
            return []
        nodes = self._most + 1
        view = self._view([text.request for text in texts])
        tree = self._guard.draft(view, width_before(view, self._guard.drafter.drafts_chains, nodes))
        least = self._pace.least_score(len(texts)) if self._least_score is None else self._least_score
        if tree is not None:
            tree = tree.to(torch.device("cpu"))
            tree = tree.head(nodes) if self._trees else best_path(tree, nodes)
            tree = tree if tree.score is None else tree.prune(least)
        drafts = [NOTHING] * len(texts) if tree is None else _apart(tree)
        for text, draft in zip(texts, drafts, strict=True):
            text.drafted = draft
        return drafts

    def _view(self, requests: Sequence[Request]) -> StepView:
        """Of the texts as they are."""
        nobody: Any = None  # there are no logits here that a pipeline could process
        return StepView(
            requests=tuple(requests),
            active=(True,) * len(requests),
            root=torch.tensor([request.tokens[-1] for request in requests]),
            position=torch.tensor([len(request.tokens) - 1 for request in requests]),
            vocab_size=self._vocab_size,
            pipeline=nobody,
            do_sample=False,
            chain=not self._trees,
            joined=True,
        )


@attrs.define(eq=False)
class _Text:
    """A text that is open."""

    request: Request
    drafted: Draft = NOTHING
    """The last draft."""


def _right(draft: Draft, emitted: Sequence[int]) -> int:
    """How many drafted tokens, one behind the other, are what was emitted."""
    at = -1
    for count, token in enumerate(emitted):
        near = np.flatnonzero((draft.parents == at) & (draft.tokens == token))
        if not len(near):
            return count
        at = int(near[0])
    return len(emitted)


def _apart(tree: DraftTree) -> list[Draft]:
    """Each text's draft, without its root."""
    counts: list[int] = tree.count.tolist()
    score: NDArray[np.float64] = (
        np.full(tuple(tree.tokens.shape), np.nan) if tree.score is None else tree.score.double().numpy()
    )
    return [
        Draft(tree.tokens[row, 1:count].numpy(), tree.parent[row, 1:count].numpy() - 1, score[row, 1:count])
        for row, count in enumerate(counts)
    ]
