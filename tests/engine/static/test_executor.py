"""Plugins and faults on the static path are those of the dynamic one."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import racer
from racer import DecodeConfig, Decoder, hookimpl
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.testing import HostileDrafter, ReplayDrafter, decode, decode_plainly
from support.static_path import static
from support.tiny_models import tiny
from support.toy import MODEL, VOCAB


def test_a_plugin_may_change_the_verdict() -> None:
    class OneAtATime:
        @hookimpl(wrapper=True)
        def racer_verify(self, view: StepView, tree: DraftTree, logits: torch.Tensor) -> Any:
            verdict = yield
            targets = logits.argmax(-1)
            assert logits.shape[:2] == tree.tokens.shape
            return Verdict(verdict.path[:, :1], torch.ones_like(verdict.length), targets[:, 0])

    rows, plain = [[1, 2, 3], [4]], decode_plainly(MODEL, [[1, 2, 3], [4]], 20)
    drafter = ReplayDrafter(lambda request: [*request.prompt, *plain[rows.index(list(request.prompt))]], VOCAB)
    got, stats = decode(Decoder(MODEL, static(drafter=drafter, budget=8, plugins=[OneAtATime()])), rows, 20)
    assert got == plain
    assert stats.mean_accepted_tokens == 1


def test_observers_see_the_same_steps_on_both_paths() -> None:
    class Diary:
        def __init__(self) -> None:
            self.lines: list[Any] = []

        @hookimpl
        def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: Any) -> None:
            host = verdict.host
            assert host is not None
            assert view.position.tolist() == list(view.places)
            assert torch.equal(tree.tokens, torch.from_numpy(host.tokens))
            assert torch.equal(verdict.path, torch.from_numpy(host.path))
            rows = [row for row, active in enumerate(view.active) if active]  # others stay on one path only
            assert (tree.score is None) == (tree.source is None), "the drafter gives both or none"
            drafted = tree.score is not None and [[round(x, 5) for x in row] for row in tree.score[rows].tolist()]
            arrays = [host.length, host.next_token, host.path, host.tokens, host.parent, host.count, host.source]
            arrays += [host.faults, host.top_ids, host.top_probs]
            roots, places = view.root[rows].tolist(), [view.places[row] for row in rows]
            self.lines.append([roots, places, drafted, [part[rows].tolist() for part in arrays]])

    diaries = []
    for compile in ("static", "off"):
        diary = Diary()
        drafter = racer.Racer(slots=2**10, history=2**10)
        config = DecodeConfig(drafter=drafter, budget=12, plugins=[diary], compile=compile)
        decode(Decoder(tiny("llama"), config), [[3, 4, 5, 3, 4], [6, 7]], 40)
        diaries.append(diary.lines)
    assert diaries[0] == diaries[1]


def test_malformed_trees_have_the_same_faults() -> None:
    class Broken(HostileDrafter):
        def draft(self, view: StepView, budget: int) -> DraftTree | None:
            rows = len(view.requests)
            tokens = torch.ones(rows, 3, dtype=torch.long)
            return DraftTree(tokens, torch.zeros_like(tokens), torch.full((rows,), 4))  # more nodes than columns

    for compile in ("static", "off"):
        decoder = Decoder(MODEL, DecodeConfig(drafter=Broken(0, VOCAB), budget=8, compile=compile))
        with pytest.warns(racer.guard.PluginWarning, match="node count is not between 1 and the number of columns"):
            got, _ = decode(decoder, [[1, 2], [1, 3]], 10)
        assert got == decode_plainly(MODEL, [[1, 2], [1, 3]], 10)
