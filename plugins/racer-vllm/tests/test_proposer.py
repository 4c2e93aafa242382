"""A proposer in a simulated vLLM: what it makes of rows without names, and what its faults cost."""

from __future__ import annotations

import itertools
import logging
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulated_runner import LONGEST, VOCAB, Model, Runner, vllm_config

from racer.drafting import Session
from racer.errors import ConfigError, RacerError
from racer_vllm import Proposer


def _runner(seed: int = 0, most: int = 5, cuts: bool = True, surprises: bool = True) -> Runner:
    return Runner(Proposer(vllm_config(most)), random.Random(seed), cuts, Model(surprises))


def _prompt(seed: int, size: int) -> list[int]:
    return [random.Random(seed).randrange(VOCAB) for _ in range(size)]


@given(
    st.integers(0, 2**20), st.lists(st.tuples(st.integers(0, 2), st.integers(1, 12), st.integers(1, 60)), max_size=12)
)
def test_whatever_befalls_rows_nothing_fails_and_texts_are_those_of_the_model(
    seed: int, jobs: list[tuple[int, int, int]]
) -> None:
    runner = _runner(seed)
    added = []
    for kind, size, new in jobs:  # of few kinds: some prompts are the same, or begin alike
        added.append((runner.add(_prompt(kind, size), new), _prompt(kind, size), new))
        for _ in range(runner.random.randrange(12)):
            runner.step()
            if runner.random.random() < 0.1:
                runner.preempt()
    runner.run()
    assert runner.proposer._faults == 0
    for job, prompt, new in added:
        assert job.text[: len(prompt) + new] == Model().plain(prompt, new)


@pytest.mark.parametrize("drafter", ["racer", "racer-paper", "logits", "prompt-lookup"])
def test_drafts_are_accepted_where_they_can_be(monkeypatch: pytest.MonkeyPatch, drafter: str) -> None:
    monkeypatch.setenv("RACER_VLLM_DRAFTER", drafter)
    monkeypatch.setenv("RACER_VLLM_LEAST_SCORE", "0")
    runner = _runner(cuts=False, surprises=False)
    for seed in range(12):
        runner.add(_prompt(seed % 4, 5), 100)
    runner.run()
    assert runner.proposer.figures.accepted_per_step > 1.2, runner.proposer.figures


def _seen(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What sessions are told."""
    seen: list[Any] = []
    step = Session.step

    def spy(session: Session, told: Any, **named: Any) -> Any:
        seen.extend(told)
        return step(session, told, **named)

    monkeypatch.setattr(Session, "step", spy)
    return seen


def test_each_scored_token_is_shown_with_its_own_best_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACER_VLLM_LEAST_SCORE", "0")
    runner, seen = _runner(cuts=False, surprises=False), _seen(monkeypatch)
    for seed in range(9):
        runner.add(_prompt(seed, 5), 90)
    runner.run()
    shown = [told for told in seen if told.tokens is not None]
    assert len(shown) > 0.9 * len(seen)
    for told in shown:
        assert told.top_ids[0][0] == told.emitted[0]
        for place in range(1, len(told.tokens)):
            assert told.top_ids[place][0] == runner.model.next_token(told.tokens[place - 1 : place + 1])


def test_where_drafts_were_cut_no_cues_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    runner, seen = _runner(cuts=False), _seen(monkeypatch)
    runner.add(_prompt(0, 5), 90)
    while not (runner.rows and len(runner.rows[0].draft) > 1):
        runner.step()
    runner.rows[0].draft = runner.rows[0].draft[:-1]
    runner.step()
    assert seen[-1].tokens is None
    assert len(seen[-1].emitted)


def test_texts_that_have_ended_are_closed() -> None:
    runner = _runner()
    for round_ in range(30):
        runner.add(_prompt(round_, 6), 20)
    most = 0
    while runner.waiting or runner.rows:
        runner.step()
        most = max(most, len(runner.proposer._session))
    assert most <= 6 * 9  # those of six rows, and of eight steps
    runner.add(_prompt(99, 3), 40)
    runner.run()
    assert len(runner.proposer._session) <= 2


def test_a_text_that_moves_stays_the_same_one() -> None:
    runner = _runner(cuts=False)
    for seed in range(5):
        runner.add(_prompt(seed, 6), 60)
    while len(runner.rows) < 5 or any(len(job.text) < 10 for job in runner.rows):
        runner.step()
    known = len(runner.proposer._session)
    for _ in range(10):
        runner.rows.reverse()
        runner.step()
    assert len(runner.proposer._session) == known == 5


def test_near_the_longest_text_steps_are_missed_and_texts_stay_known() -> None:
    """vLLM asks for nothing while any row is too near it."""
    runner = _runner(cuts=False, most=9)
    long, other = runner.add(_prompt(1, 30), LONGEST - 30), runner.add(_prompt(2, 5), 150)
    seen, step = [], runner.proposer._session.step

    def noted(told: Any, milliseconds: float | None) -> Any:
        seen.append((runner.missed, [one.top_ids is not None for one in told], milliseconds))
        return step(told, milliseconds=milliseconds)

    runner.proposer._session.step = noted  # type: ignore[method-assign]
    known = 0
    while runner.waiting or runner.rows:
        runner.step()
        known = max(known, len(runner.proposer._session))
    assert runner.missed
    assert known == 2
    after = [now for before, now in itertools.pairwise(seen) if now[0] > before[0]]
    assert after
    for _, cues, milliseconds in after:  # what was seen of logits is of the first step that was missed
        assert not any(cues)
        assert milliseconds is None
    assert long.text[:LONGEST] == Model().plain(_prompt(1, 30), LONGEST - 30)[:LONGEST]
    assert other.text[:155] == Model().plain(_prompt(2, 5), 150)
    assert runner.proposer._faults == 0


def test_logits_of_a_step_that_was_missed_are_not_taken_for_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without drafts both have as many rows."""
    monkeypatch.setenv("RACER_VLLM_LEAST_SCORE", "1")
    seen, proposer, model, text = _seen(monkeypatch), Proposer(vllm_config(5)), Model(False), _prompt(1, 5)
    proposer.load_model(model)
    for asked in (True, True, False, True, True):
        text.append(int(model.compute_logits([text])[0].argmax()))
        if asked:
            proposer.propose([text[-1:]], np.array([len(text)], np.int32), np.array([text], np.int32))
    assert [told.top_ids is not None for told in seen] == [True, True, False, True]


def test_log_probabilities_of_prompts_are_no_cues(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a prompt of as many tokens as the step has rows come after the step's own."""
    runner, seen = _runner(cuts=False, surprises=False), _seen(monkeypatch)
    runner.add(_prompt(4, 5), 60)
    compute = runner.model.compute_logits
    take = runner.proposer._cues.take  # type: ignore[union-attr]

    def asked_again(rows: int) -> Any:
        compute([[0, 0]] * rows)
        return take(rows)

    monkeypatch.setattr(runner.proposer._cues, "take", asked_again)
    runner.run()
    assert seen[-1].top_ids is not None
    assert all(told.top_ids[0][0] == told.emitted[0] for told in seen if told.tokens is not None)


@pytest.mark.parametrize(("left", "most"), [(20, 9), (4, 3), (1, 0)])
def test_drafts_do_not_lead_beyond_the_longest_text(monkeypatch: pytest.MonkeyPatch, left: int, most: int) -> None:
    monkeypatch.setenv("RACER_VLLM_LEAST_SCORE", "0")
    proposer, text = Proposer(vllm_config(9)), ([1, 2, 3] * LONGEST)[: LONGEST - left]
    tokens, length = np.array([text], np.int32), np.array([len(text)], np.int32)
    (draft,) = proposer.propose([text[-1:]], length, tokens)
    assert len(draft) == most, "it repeats itself, so as much as there is room for"


def test_a_fault_costs_drafts_and_no_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    runner = _runner()
    job = runner.add(_prompt(3, 5), 80)

    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("broken")

    monkeypatch.setattr(Session, "step", broken)
    with caplog.at_level(logging.WARNING, "vllm.racer"):
        runner.run()
    assert job.text[:85] == Model().plain(_prompt(3, 5), 80)
    assert sum("RACER failed" in record.getMessage() for record in caplog.records) == 3
    assert runner.proposer._cues is not None
    assert not runner.proposer._cues.on
    assert "nothing is drafted any more" in caplog.text


def test_a_drafter_that_cannot_be_made_anew_costs_no_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    runner = _runner()
    job = runner.add(_prompt(3, 5), 40)

    def broken(*_: Any, **__: Any) -> Any:
        raise MemoryError("none left")

    monkeypatch.setattr(Session, "step", broken)
    monkeypatch.setattr("racer_vllm.proposer.Session", broken)
    with caplog.at_level(logging.WARNING, "vllm.racer"):
        runner.run()
    assert job.text[:45] == Model().plain(_prompt(3, 5), 40)
    assert "nothing is drafted any more" in caplog.text


def test_a_fault_of_cues_costs_no_request(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    runner = _runner()
    job = runner.add(_prompt(3, 5), 30)
    monkeypatch.setattr("racer.kernels.vocab_search.likely", lambda *_: 1 / 0)
    with caplog.at_level(logging.WARNING, "vllm.racer"):
        runner.run()
    assert job.text[:35] == Model().plain(_prompt(3, 5), 30)
    assert caplog.text.count("could not look at logits") == 1
    assert "ZeroDivisionError" in caplog.text
    assert runner.proposer._faults == 0
    assert runner.proposer.figures.drafted


def test_prompts_of_tokens_that_are_none_are_not_drafted_for() -> None:
    runner = _runner()
    job = runner.add([VOCAB + 3, 1, 2], 30)
    other = runner.add([1, 2, 3], 30)
    runner.run()
    assert runner.proposer._faults == 0
    assert len(job.text) >= 33
    assert other.text[:33] == Model().plain([1, 2, 3], 30)


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RACER_VLLM_CUES", "perhaps", "cues must be"),
        ("RACER_VLLM_LEAST_SCORE", "2", "least_score must be"),
        ("RACER_VLLM_DRAFTR", "racer", "RACER_VLLM_DRAFTR is unknown"),
        ("RACER_VLLM_CONFIG", "/nowhere.toml", "cannot be read"),
        ("RACER_VLLM_DRAFTER", "no-such", "no-such"),
    ],
)
def test_wrong_settings_are_said_at_once(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, said: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(RacerError, match=said):
        Proposer(vllm_config())


def test_a_drafter_that_needs_cues_is_refused_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RACER_VLLM_DRAFTER", "logits")
    monkeypatch.setenv("RACER_VLLM_CUES", "off")
    with pytest.raises(ConfigError, match="best tokens"):
        Proposer(vllm_config())


def test_settings_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    path = tmp_path / "racer.toml"
    path.write_text('drafter = {name = "retrieval", ngram = 3}\ncues = false\nleast_score = 0.2\n')
    monkeypatch.setenv("RACER_VLLM_CONFIG", str(path))
    monkeypatch.setenv("RACER_VLLM_LEAST_SCORE", "auto")  # the environment has the last word
    proposer = Proposer(vllm_config())
    assert proposer._settings.least_score is None
    assert proposer._session._guard.label == "retrieval"
    path.write_text("drafters = 1\n")
    with pytest.raises(ConfigError, match="'drafters' is unknown; there are drafter, cues, least_score"):
        Proposer(vllm_config())
