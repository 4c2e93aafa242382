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
from racer.kernels.gumbel import gumbel_at
from racer.step.request import Request, row_seed
from racer.step.tree_builder import TreeBuilder
from racer.strategies.base import Drafter
from racer.testing.compat.prompts import PROMPT, Prompts
from racer.testing.trees import HostileDrafter, ReplayDrafter

NEW = 16
ALONE_AND_BOTH = (slice(1, 2), slice(0, 2))
"""Rows that are decoded together: the one without padding alone, and both."""
CLOSE = 1e-3
"""Logits that are nearer to each other than this share of their deviation may be told apart by rounding."""
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
        pads = prompts.pads[rows]
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
                if not torch.equal(got, texts) and not _near_tie(model, prompts, rows, texts, got):
                    return f"{len(texts)} rows, drafter {drafter.name}, pieces of {chunk}: {_where(texts, got)}"
        sampled = [
            _ours(model, given, racer.DecodeConfig(drafter=drafter, budget=12, seed=SEED), do_sample=True)
            for drafter in ("none", HostileDrafter(4, VOCAB), "racer-paper")
        ]
        if not all(torch.equal(text, sampled[0]) for text in sampled[1:]) and probe(model, PROMPT + NEW).way != "plain":
            other = next(text for text in sampled if not torch.equal(text, sampled[0]))
            if not _near_tie(model, prompts, rows, sampled[0], other, SEED):
                return f"{len(texts)} rows, sampled: {_where(sampled[0], other)}"
    return ""


def _ours(model: Any, given: dict[str, Any], config: racer.DecodeConfig, *, do_sample: bool) -> Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", racer.PlainDecodingWarning)
        text: Tensor = racer.generate(model, **given, max_new_tokens=NEW, do_sample=do_sample, config=config)
    return text


def _near_tie(model: Any, prompts: Prompts, rows: slice, plain: Tensor, ours: Tensor, seed: int | None = None) -> bool:
    """Whether both tokens at the first place where rows part are as good as each other to the model."""
    if plain.shape != ours.shape:
        return False
    for row in range(len(plain)):
        places = (plain[row] != ours[row]).nonzero().flatten().tolist()
        if not places:
            continue
        if places[0] < prompts.ids.shape[1]:
            return False
        scores, deviation = scores_at(model, prompts, rows, plain, row, places[0], seed)
        gap = float((scores[plain[row, places[0]]] - scores[ours[row, places[0]]]).abs())
        if gap > CLOSE * deviation:
            return False
    return True


def scores_at(
    model: Any, prompts: Prompts, rows: slice, texts: Tensor, row: int, place: int, seed: int | None
) -> tuple[Tensor, float]:
    """``[V]`` what a row's token at ``place`` is the argmax of, and the deviation of its logits.

    :param texts: ``[B, T]`` of these rows, padding included.
    :param seed: of the call whose noise a sampled text's tokens draw; None: a greedy one.
    """
    given = prompts.given(rows, texts[:, :place])
    how: Any = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    logits = model.generate(**given, **how).logits[0][row].double()
    deviation = float(logits.std().clamp(min=1e-9))
    if seed is None:
        return logits, deviation
    position = place - prompts.pads[rows][row]
    return logits + gumbel_at(row_seed(seed, row), position, torch.arange(len(logits))), deviation


def _where(plain: Tensor, ours: Tensor) -> str:
    if plain.shape != ours.shape:
        return f"{tuple(ours.shape)} tokens in place of {tuple(plain.shape)}"
    row, place = (plain != ours).nonzero()[0].tolist()
    return f"another token in row {row}, place {place - PROMPT} of the answer"


def _told(failure: BaseException) -> str:
    lines = str(failure).strip().splitlines() or [""]
    return f"{type(failure).__name__}: {lines[0][:160]}"
