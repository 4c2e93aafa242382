"""Drafts for an engine that is not ours: it may do what it likes with them, and every text stays right."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from racer.config import Choice
from racer.drafting import Session, Told
from racer.errors import ConfigError, UnknownStrategy
from racer.guard import PluginWarning
from racer.step.best_path import CHAIN_FROM
from racer.step.view import StepView
from racer.strategies.base import Drafter
from support.chain_engine import VOCAB, ChainEngine, plain

SMALL = Choice("racer", {"slots": 2**10, "history": 2**12})
PROMPTS = [[n, 1, 2, 3, *range(n % 5)] for n in range(6)]


@pytest.mark.parametrize("drafter", [SMALL, "racer-paper", "retrieval", "logits", "recycling", "prompt-lookup", "none"])
@pytest.mark.parametrize("trees", [False, True])
def test_every_drafter_drafts_and_no_text_is_wrong(drafter: Any, trees: bool) -> None:
    engine = ChainEngine(Session(drafter, vocab_size=VOCAB, trees=trees, least_score=0.0), random.Random(0))
    for key, prompt in enumerate(PROMPTS):
        engine.add(key, prompt, 120)
    texts: dict[Any, list[int]] = {}
    while engine.rows:
        for key, row in engine.rows.items():
            texts[key] = row.text
        engine.step(list(engine.rows))
    for key, prompt in enumerate(PROMPTS):
        known = texts[key]
        assert known == plain(prompt, len(known) - len(prompt))
    figures = engine.session.figures
    assert figures.emitted == 120 * len(PROMPTS)
    assert not len(engine.session)
    assert (figures.accepted > 0) == (drafter != "none")
    assert figures.accepted <= figures.drafted
    if drafter is SMALL:
        assert 1 < figures.accepted_per_step <= figures.accepted_per_drafted_step


@settings(max_examples=30)
@given(st.data(), st.booleans(), st.booleans())
def test_rows_come_move_are_preempted_and_end(data: st.DataObject, cues: bool, trees: bool) -> None:
    session = Session(SMALL, vocab_size=VOCAB, most=data.draw(st.integers(1, 12)), trees=trees, cues=cues)
    engine = ChainEngine(session, random.Random(data.draw(st.integers(0, 999))), cues)
    starts: dict[int, list[int]] = {}
    for turn in range(data.draw(st.integers(5, 40))):
        what = data.draw(st.sampled_from(["add", "step", "step", "step", "preempt", "cancel"]))
        keys: list[Any] = list(engine.rows)
        if what == "add" or not keys:
            starts[turn] = data.draw(st.sampled_from(PROMPTS))  # some share a prompt
            engine.add(turn, starts[turn], data.draw(st.integers(1, 60)))
        elif what == "step":
            engine.step(data.draw(st.permutations(keys))[: data.draw(st.integers(1, len(keys)))])
        elif what == "preempt":
            engine.preempt(data.draw(st.sampled_from(keys)))
        else:
            engine.cancel(data.draw(st.sampled_from(keys)))
        assert len(session) == len(engine.rows)
        for key, row in engine.rows.items():
            assert row.text == plain(starts[key], len(row.text) - len(starts[key]))
            assert session._texts[key].request.tokens == row.text
            assert row.draft is None or len(row.draft) <= session._most


def test_memory_does_not_grow_with_texts() -> None:
    session = Session(SMALL, vocab_size=VOCAB)
    engine = ChainEngine(session, random.Random(0))
    guard: Any = session._guard
    for key in range(60):
        engine.add(key, PROMPTS[key % 6], 20)
        while engine.rows:
            engine.step(list(engine.rows))
    assert not guard.drafter._open
    assert not session._texts


def test_without_cues_less_is_accepted_and_some() -> None:
    accepted = {}
    for cues in (True, False):
        session = Session(SMALL, vocab_size=VOCAB, cues=cues, least_score=0.0)
        engine = ChainEngine(session, random.Random(0), cues)
        for key, prompt in enumerate(PROMPTS):
            engine.add(key, prompt, 200)
        while engine.rows:
            engine.step(list(engine.rows))
        accepted[cues] = session.figures.accepted
    assert accepted[True] > accepted[False] > 0


def test_a_chain_is_a_chain_and_scores_fall_along_it() -> None:
    engine = ChainEngine(Session(SMALL, vocab_size=VOCAB, most=5, least_score=0.0), random.Random(0))
    engine.add(0, PROMPTS[0], 300)
    while engine.rows:
        engine.step([0])
        if not engine.rows:
            break
        draft = engine.rows[0].draft
        assert draft is not None
        assert draft.parents.tolist() == list(range(-1, len(draft) - 1))
        assert (np.diff(draft.scores) <= 1e-6).all()


def test_what_is_not_worth_its_cost_is_not_drafted() -> None:
    lengths = {}
    for dear in (0.0, 15.0):
        session = Session(SMALL, vocab_size=VOCAB)
        engine = ChainEngine(session, random.Random(0))
        for key, prompt in enumerate(PROMPTS):
            engine.add(key, prompt, 300)
        step = session.step

        def timed(told: Any, *, milliseconds: float, step: Any = step, dear: float = dear) -> Any:
            scored = sum(len(one.tokens) for one in told)
            return step(told, milliseconds=20 + dear * scored)

        session.step = timed  # type: ignore[method-assign]
        while engine.rows:
            engine.step(list(engine.rows))
        lengths[dear] = session.figures.drafted
    assert lengths[15.0] < lengths[0.0] / 2


class Broken(Drafter):
    name = "broken"

    def draft(self, view: StepView, budget: int) -> Any:
        raise RuntimeError("no")


def test_a_drafter_that_fails_drafts_nothing_and_is_told_of_once() -> None:
    session = Session(Broken(), vocab_size=VOCAB)
    session.open("a", [1, 2])
    with pytest.warns(PluginWarning, match="broken"):
        (draft,) = session.step([Told("a", [3])])
    assert not len(draft)
    (draft,) = session.step([Told("a", [4])])
    assert not len(draft)


class Listing(Drafter):
    """Has a setting whose name is nothing that the core asks for, and remembers how many nodes it was asked for."""

    name = "listing"

    def __init__(self, chains: int = 2) -> None:
        self.chains, self.asked = chains, 0

    def draft(self, view: StepView, budget: int) -> None:
        self.asked = budget


def test_a_setting_called_chains_is_no_promise_to_draft_chains() -> None:
    drafter = Listing()
    session = Session(drafter, vocab_size=VOCAB, most=5)
    session.open("a", [1, 2])
    session.step([Told("a", [3])])
    assert drafter.asked == CHAIN_FROM


@pytest.mark.parametrize(
    ("told", "error", "says"),
    [
        (Told("b", [3]), KeyError, "not open"),
        (Told("a", [VOCAB]), ValueError, "vocabulary"),
        (Told("a", [3], tokens=[1, 3]), ValueError, "begin with 2"),
        (Told("a", [3], tokens=[2, 3], parents=[-1, 1]), ValueError, "before its child"),
        (Told("a", [3], tokens=[2, VOCAB]), ValueError, "vocabulary"),
        (Told("a", [3], top_ids=[[3]]), ValueError, "without tokens"),
        (Told("a", [3], tokens=[2], top_ids=[[3], [4]]), ValueError, r"\[1, k\]"),
        (Told("a", [3], tokens=[2], top_ids=[[3]], top_probs=[[0.5, 0.1]]), ValueError, r"\[1, k\]"),
        (Told("a", [3, 4, 5], tokens=[2, 3], top_ids=[[3], [4]]), ValueError, "one comes after"),
        (Told("a", [3], parents=[-1]), ValueError, "parents without tokens"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_lost(told: Told, error: type[Exception], says: str) -> None:
    session = Session(SMALL, vocab_size=VOCAB)
    session.open("a", [1, 2])
    with pytest.raises(error, match=says):
        session.step([Told("a"), told] if told.key == "b" else [told])
    assert session._texts["a"].request.tokens == [1, 2]
    session.step([Told("a", [3])])
    with pytest.raises(ValueError, match="twice"):
        session.step([Told("a", [4]), Told("a", [5])])


def test_bad_arguments_are_refused() -> None:
    for wrong in ({"vocab_size": 0}, {"vocab_size": VOCAB, "most": 0}, {"vocab_size": VOCAB, "least_score": 2}):
        with pytest.raises(ConfigError):
            Session("racer", **wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="cues=True"):
        Session("logits", vocab_size=VOCAB, cues=False)
    with pytest.raises(UnknownStrategy):
        Session("racre", vocab_size=VOCAB)
    with pytest.raises(ValueError, match="needs a token"):
        Session("none", vocab_size=VOCAB).open("a", [])
