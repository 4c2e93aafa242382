"""Requests join, leave, are cancelled and fail in any order: each gets the text of its solo run, or its beginning."""

from __future__ import annotations

import functools
from typing import Any

import attrs
import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule
from transformers import LogitsProcessor

import racer
from racer.core.support import probe
from racer.testing.toy import ToyLM, toy_model
from support.stepped_engine import SteppedEngine, solo

VOCAB, ROWS = 11, 3
STARTS = ([1, 2, 3, 4] * 6, [5, 6, 7] * 8, [2])
"""Prompts begin alike, so that states of ended requests are gone on from."""


class FailsAfter(LogitsProcessor):
    """Raises when it is asked about a text of so many tokens."""

    racer_row_wise = True

    def __init__(self, length: int) -> None:
        self.length = length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] >= self.length:
            raise ZeroDivisionError("a processor of the user's")
        return scores


@attrs.define
class Submitted:
    prompt: list[int]
    how: dict[str, Any]
    seed: int
    stream: racer.Stream
    fails_at: int | None
    cancelled: bool = False


_model = toy_model(VOCAB, sharpness=4.0)
_solos: dict[Any, list[int]] = {}


class LooseToy(ToyLM):
    """A toy model of which one pass can be made to fail."""

    fails = False

    @functools.wraps(ToyLM.forward)  # what it takes is looked at
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if LooseToy.fails:
            LooseToy.fails = False
            raise MemoryError("no memory for this pass")
        return super().forward(*args, **kwargs)


_loose = LooseToy(_model.config).eval()


class Requests(RuleBasedStateMachine):
    streams = Bundle("streams")

    def __init__(self) -> None:
        super().__init__()
        LooseToy.fails = False
        self.engine = SteppedEngine(
            _loose, racer.DecodeConfig(), max_rows=ROWS, prefill_piece=4, kept_tokens=200, max_waiting=100
        )
        assert probe(_loose).way == "tree"
        self.all: list[Submitted] = []
        self.broken = False
        """Whether a pass was made to fail: it may have taken anybody with it."""

    @rule(
        target=streams,
        start=st.sampled_from(STARTS),
        more=st.lists(st.integers(0, VOCAB - 1), max_size=5),
        new=st.integers(1, 24),
        sample=st.booleans(),
        penalty=st.sampled_from([None, 1.4]),
        temperature=st.sampled_from([0.5, 1.0, 1.3]),
        stop=st.sampled_from([None, 3, 8]),
        seed=st.integers(0, 3),
        budget=st.sampled_from([None, None, 1, 2, 9]),
        tenant=st.sampled_from([None, None, "a", "b"]),
        logprobs=st.sampled_from([None, None, 0, 3]),
        fails=st.sampled_from([None, None, None, 2, 9]),
    )
    def submit(
        self,
        start: list[int],
        more: list[int],
        new: int,
        sample: bool,
        penalty: float | None,
        temperature: float,
        stop: int | None,
        seed: int,
        budget: int | None,
        tenant: str | None,
        logprobs: int | None,
        fails: int | None,
    ) -> Submitted:
        prompt = [*start, *more]
        how: dict[str, Any] = {"max_new_tokens": new, "do_sample": sample, "eos_token_id": stop, "pad_token_id": 0}
        if sample:
            how |= {"temperature": temperature, "top_k": 6}
        if penalty:
            how["repetition_penalty"] = penalty
        processors = {} if fails is None else {"logits_processor": [FailsAfter(len(prompt) + fails)]}
        stream = self.engine.submit(
            prompt, {**how, **processors}, seed=seed, budget=budget, tenant=tenant, logprobs=logprobs
        )
        request = Submitted(prompt, how, seed, stream, fails)
        self.all.append(request)
        return request

    @rule(turns=st.integers(1, 8))
    def turn(self, turns: int) -> None:
        for _ in range(turns):
            self.engine.turn()

    @rule(request=streams)
    def cancel(self, request: Submitted) -> None:
        request.cancelled = request.cancelled or not request.stream.done
        request.stream.cancel()

    @rule(sure=st.sampled_from([False] * 9 + [True]))
    def break_a_pass(self, sure: bool) -> None:
        if sure:
            LooseToy.fails = self.broken = True

    @invariant()
    def texts_are_those_of_solo_runs(self) -> None:
        for request in [request for request in self.all if request.stream.done]:
            self.all.remove(request)
            self._check(request)

    def _check(self, request: Submitted) -> None:
        key = (tuple(request.prompt), request.seed, *sorted(request.how.items(), key=str))
        if key not in _solos:
            _solos[key] = solo(_model, request.prompt, request.seed, **request.how)
        whole, seen = _solos[key], [token for chunk in _seen(request.stream) for token in chunk.tokens]
        assert seen == whole[: len(seen)]
        for chunk in _seen(request.stream):
            assert 0 <= chunk.accepted <= len(chunk.tokens)
            assert chunk.scores is None or [score.token for score in chunk.scores] == list(chunk.tokens)
        try:
            ended = request.stream.result(0)
        except ZeroDivisionError:
            assert request.fails_at is not None
            assert len(seen) <= request.fails_at
        except MemoryError:
            assert self.broken
        else:
            assert list(ended.tokens) == seen
            if ended.finish == "cancelled":
                assert request.cancelled
            else:
                assert request.fails_at is None or len(whole) <= request.fails_at
                assert seen == whole
                stopped = whole[-1] == request.how["eos_token_id"]
                assert ended.finish == ("stop" if stopped else "length")

    def teardown(self) -> None:
        LooseToy.fails = False
        self.engine.run()
        self.texts_are_those_of_solo_runs()
        assert not self.all, "some never end"
        told = self.engine.figures()
        assert told.submitted == told.finished + told.cancelled + told.failed
        assert (told.running, told.waiting, told.cache_tokens) == (0, 0, 0)
        drafter = self.engine.strategies.drafter
        assert not drafter._open
        assert all(not own._open for own in drafter._drafters.values())
        assert not self.engine.strategies.budget._by_score._calls
        self.engine.close()


def _seen(stream: racer.Stream) -> list[racer.Chunk]:
    return list(stream._chunks)


TestRequests = Requests.TestCase
TestRequests.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(900)
class TestManyRequests(Requests.TestCase):  # type: ignore[misc,valid-type]
    settings = settings(max_examples=250, stateful_step_count=50, deadline=None)
