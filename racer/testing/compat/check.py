"""One class's model, decoded with hostile drafts in several ways and compared with transformers' own decoding."""

from __future__ import annotations

import warnings
from typing import Any

import attrs
import torch
from torch import Tensor

import racer
from racer.core.support import probe
from racer.core.tiny_models import VOCAB, tiny_model
from racer.step.request import Request
from racer.step.tree_builder import TreeBuilder
from racer.strategies.base import Drafter
from racer.testing.compat.near_tie import near_tie
from racer.testing.compat.prompts import PROMPT, Prompts
from racer.testing.trees import HostileDrafter, ReplayDrafter

NEW = 16
ALONE_AND_BOTH = (slice(1, 2), slice(0, 2))
"""Rows that are decoded together: the one without padding alone, and both."""
SEED = 5
"""Of sampled calls."""


@attrs.frozen
class Finding:
    """What the sweep found about one class."""

    name: str
    way: str
    """``tree``, ``chain``, ``plain``, ``WRONG``, or ``not buildable``."""
    reason: str = ""
    """Why not a better one."""
    batches: str = ""
    """Why left-padded rows are decoded plainly, if they are."""


class _Chain(Drafter):
    """The right tokens, and then a wrong one."""

    name = "right"

    def __init__(self, replay: ReplayDrafter) -> None:
        self._answer = replay._answer

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        right = self._answer(request)[len(request.tokens) :][: 1 + len(request.tokens) % 4]
        tree.add_chain([*right, len(request.tokens) % VOCAB])


def check(kind: type[Any], seed: int = 0) -> Finding:
    """Build a tiny model of class ``kind``, decode with it in several ways, and compare.

    :param seed: of its weights.
    """
    name = kind.__name__
    try:
        model = tiny_model(kind, seed)
    except Exception as failure:
        return Finding(name, "not buildable", _told(failure))
    try:
        prompts = Prompts.of(model)
        plain = [_plain(model, prompts.given(rows)) for rows in ALONE_AND_BOTH]
        if not torch.equal(plain[0], _plain(model, prompts.given(ALONE_AND_BOTH[0]))):
            return Finding(name, "not buildable", "transformers' own greedy text differs from call to call")
    except Exception as failure:
        return Finding(name, "not buildable", f"transformers' own generate fails: {_told(failure)}")
    try:
        support = probe(model, PROMPT + NEW)
        wrong = _differing(model, prompts, plain)
    except Exception as failure:
        return Finding(name, "WRONG", f"fails where plain decoding works: {_told(failure)}")
    if wrong:
        return Finding(name, "WRONG", wrong)
    reason = support.reason if support.way == "plain" else support.tree_reason
    return Finding(name, support.way, reason, support.padding_reason if support.way != "plain" else "")


def _plain(model: Any, given: dict[str, Any]) -> Tensor:
    text: Tensor = model.generate(**given, max_new_tokens=NEW, do_sample=False)
    return text


def _differing(model: Any, prompts: Prompts, plain: list[Tensor]) -> str:
    """In which way of decoding a text is another one; empty if in none."""
    known = {}
    for rows, texts in zip(ALONE_AND_BOTH, plain, strict=True):
        pads = list(prompts.pads)[rows]
        for ids, pad, text in zip(prompts.ids[rows].tolist(), pads, texts.tolist(), strict=True):
            known[len(texts), tuple(ids[pad:])] = text[pad:]
    for rows, texts in zip(ALONE_AND_BOTH, plain, strict=True):
        given = prompts.given(rows)

        def answer(request: Request, rows: int = len(texts)) -> list[int]:
            text: list[int] = known[rows, tuple(request.prompt)]
            return text

        for drafter in (
            ReplayDrafter(answer, VOCAB, seed=2),
            HostileDrafter(3, VOCAB),
            _Chain(ReplayDrafter(answer, VOCAB)),
        ):
            for chunk in (4, 512):
                config = racer.DecodeConfig(drafter=drafter, budget=12, prefill_chunk=chunk)
                got = _ours(model, given, config, do_sample=False)
                if not torch.equal(got, texts) and not near_tie(model, prompts, rows, texts, got):
                    return f"{len(texts)} rows, drafter {drafter.name}, pieces of {chunk}: {_where(texts, got)}"
        sampled = [
            _ours(model, given, racer.DecodeConfig(drafter=drafter, budget=12, seed=SEED), do_sample=True)
            for drafter in ("none", HostileDrafter(4, VOCAB), "racer-paper")
        ]
        if not all(torch.equal(text, sampled[0]) for text in sampled[1:]) and probe(model, PROMPT + NEW).way != "plain":
            other = next(text for text in sampled if not torch.equal(text, sampled[0]))
            if not near_tie(model, prompts, rows, sampled[0], other, SEED):
                return f"{len(texts)} rows, sampled: {_where(sampled[0], other)}"
    return ""


def _ours(model: Any, given: dict[str, Any], config: racer.DecodeConfig, *, do_sample: bool) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", racer.PlainDecodingWarning)
        text: Tensor = racer.generate(model, **given, max_new_tokens=NEW, do_sample=do_sample, config=config)
    return text


def _where(plain: Tensor, ours: Tensor) -> str:
    if plain.shape != ours.shape:
        return f"{tuple(ours.shape)} tokens in place of {tuple(plain.shape)}"
    row, place = (plain != ours).nonzero()[0].tolist()
    return f"another token in row {row}, place {place - PROMPT} of the answer"


def _told(failure: BaseException) -> str:
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:160]}"
