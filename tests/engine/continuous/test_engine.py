"""What an engine promises beside the right text: order, bounds, clear refusals, and a quiet end."""

from __future__ import annotations

import asyncio
import copy
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import StoppingCriteria

import racer
from racer.errors import ConfigError, EngineClosed, EngineFull, RequestTooLong
from racer.testing.toy import toy_model
from support.chain_models import chain_model
from support.stepped_engine import SteppedEngine, solo
from support.tiny_models import tiny

TOY = toy_model(13, sharpness=4.0)
HOW: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}


def prompt_of(number: int, length: int = 20) -> list[int]:
    return [(number * 7 + place * place) % 13 for place in range(length)]


def test_threads_ask_at_once_and_each_gets_its_text() -> None:
    with racer.Engine(TOY, max_rows=4, prefill_piece=8) as engine, ThreadPoolExecutor(8) as pool:

        def ask(number: int) -> None:
            how: dict[str, Any] = HOW | {"do_sample": bool(number % 2), "temperature": 0.5 + number % 3 / 4}
            if not number % 2:
                del how["temperature"]
            got = engine.submit(prompt_of(number), how, seed=number).result(60)
            assert list(got.tokens) == solo(TOY, prompt_of(number), number, **how)
            assert got.first_token_seconds <= got.seconds

        list(pool.map(ask, range(48)))
        told = engine.figures()
    assert (told.submitted, told.finished, told.failed) == (48, 48, 0)
    assert told.new_tokens == 48 * 12
    assert told.row_steps > told.steps, "some shared a step"


def test_asyncio_reads_the_same_stream_twice() -> None:
    async def ask(engine: racer.Engine) -> None:
        stream = engine.submit(prompt_of(1), HOW)

        async def read() -> list[int]:
            return [token async for chunk in stream for token in chunk.tokens]

        first, second = await asyncio.gather(read(), read())
        assert first == second == list((await stream.completion()).tokens)

    with racer.Engine(TOY) as engine:
        asyncio.run(ask(engine))


def test_one_who_stops_listening_leaves_nothing_behind() -> None:
    async def ask(engine: racer.Engine) -> racer.Stream:
        stream = engine.submit(prompt_of(1), HOW | {"max_new_tokens": 200})
        async for _ in stream:
            break
        return stream

    with racer.Engine(TOY) as engine:
        stream = asyncio.run(ask(engine))
        stream.result(60)
        gc.collect()
        assert not stream._listeners


def test_a_prompt_for_which_nobody_waits_goes_in_larger_pieces() -> None:
    engine = SteppedEngine(TOY, prefill_piece=8)
    first = engine.submit(prompt_of(1, 64), HOW | {"max_new_tokens": 100})
    engine.turn()
    assert engine.figures().new_tokens >= 1, "its prompt is through with the first turn"
    second = engine.submit(prompt_of(2, 64), HOW)
    turns = 0
    while engine.figures().waiting or not second._chunks:
        engine.turn()
        turns += 1
    assert turns == 8, "one piece for each step of the first"
    assert not first.done


def test_a_cancelled_row_is_gone_within_a_step() -> None:
    engine = SteppedEngine(TOY, max_rows=2)
    first, second = (engine.submit(prompt_of(n), HOW | {"max_new_tokens": 400}) for n in range(2))
    for _ in range(4):
        engine.turn()
    assert engine.figures().running == 2
    waits = engine.submit(prompt_of(3), HOW)
    first.cancel()
    engine.turn()
    assert first.done
    assert first.result().finish == "cancelled"
    assert engine.figures().running == 2, "who waited has its seat"
    second.cancel()
    engine.run()
    assert list(waits.result().tokens) == solo(TOY, prompt_of(3), **HOW)


def test_nobody_waits_longer_than_one_piece() -> None:
    engine = SteppedEngine(TOY, prefill_piece=8)
    talks = engine.submit(prompt_of(1), HOW | {"max_new_tokens": 100})
    for _ in range(4):
        engine.turn()
    comes = engine.submit(prompt_of(2, 80), HOW)
    for turn in range(9):
        before = len(talks._chunks)
        engine.turn()
        assert len(talks._chunks) == before + 1, "a step in every turn"
        assert not comes._chunks, f"its prompt takes ten pieces, this was {turn}"
    engine.turn()
    assert comes._chunks
    talks.cancel()
    engine.run()


def test_what_never_fits_is_refused_and_what_fits_later_waits() -> None:
    engine = SteppedEngine(TOY, max_tokens=600, max_rows=8, max_waiting=2)
    with pytest.raises(RequestTooLong, match="may take 2020 tokens"):
        engine.submit(prompt_of(1), HOW | {"max_new_tokens": 2000})
    most = [engine.submit(prompt_of(n), HOW | {"max_new_tokens": 100}) for n in range(2)]
    for _ in range(6):
        engine.turn()
    assert engine.figures().running == 2
    long = engine.submit(prompt_of(3), HOW | {"max_new_tokens": 500})
    engine.turn()
    assert (engine.figures().running, engine.figures().waiting) == (2, 1)
    engine.submit(prompt_of(4), HOW)
    with pytest.raises(EngineFull, match="2 requests are waiting"):
        engine.submit(prompt_of(5), HOW)
    while not long.done:
        assert engine._scheduler._live._state is None or _storage(engine) <= 4 * 256 + 2 * 256
        engine.turn()
    assert all(stream.done for stream in most), "in the order in which they came"
    engine.run()


def _storage(engine: SteppedEngine) -> int:
    """Slots that the cache has made room for."""
    cache: Any = engine._scheduler._live._state.cache  # type: ignore[union-attr]
    return int(cache.seats * cache.capacity)


@pytest.mark.parametrize(
    ("settings", "more", "reason"),
    [
        ({"streamer": object()}, {}, "takes no streamer"),
        ({"output_scores": True}, {}, "takes no output_scores"),
        ({"num_return_sequences": 2}, {}, "one answer"),
        ({}, {"seed": -1}, "seed must be"),
        ({}, {"budget": 0}, "budget must be"),
        ({}, {"logprobs": True}, "logprobs must be"),
        ({"num_beams": 2}, {"logprobs": 1}, "logprobs are not told"),
    ],
)
def test_wrong_requests(settings: dict[str, Any], more: dict[str, Any], reason: str) -> None:
    with racer.Engine(TOY) as engine:
        with pytest.raises(ConfigError, match=reason):
            engine.submit(prompt_of(1), HOW | settings, **more)
        with pytest.raises(ValueError, match="temperature"):
            engine.submit(prompt_of(1), HOW | {"do_sample": True, "temperature": -1.0})
        with pytest.raises(ConfigError, match="one row of token ids"):
            engine.submit([], HOW)
        assert engine.figures().submitted == 0


@pytest.mark.parametrize("name", ["max_tokens", "max_rows", "max_waiting", "prefill_piece"])
def test_wrong_engines(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be a whole number from 1"):
        racer.Engine(TOY, **{name: 0})


def test_it_closes_at_once_or_when_all_have_ended() -> None:
    engine = racer.Engine(TOY)
    streams = [engine.submit(prompt_of(n), HOW) for n in range(6)]
    engine.close(drain=60)
    assert [stream.result(0).finish for stream in streams] == ["length"] * 6
    with pytest.raises(EngineClosed):
        engine.submit(prompt_of(1), HOW)
    engine = racer.Engine(TOY, max_rows=1)
    streams = [engine.submit(prompt_of(n), HOW | {"max_new_tokens": 3000}) for n in range(3)]
    engine.close()
    assert [stream.result(0).finish for stream in streams] == ["cancelled"] * 3


def test_an_engine_that_nobody_has_any_more_ends() -> None:
    engine = racer.Engine(TOY)
    engine.submit(prompt_of(1), HOW).result(60)
    thread, ref = engine._worker._thread, weakref.ref(engine)
    assert thread is not None
    del engine
    gc.collect()
    thread.join(20)
    assert ref() is None
    assert not thread.is_alive()


def test_a_text_goes_on_from_where_an_earlier_one_ended() -> None:
    with racer.Engine(TOY) as engine:
        first = engine.submit(prompt_of(1, 40), HOW, tenant="a").result(60)
        assert first.cached_tokens == 0
        longer = [*prompt_of(1, 40), *first.tokens, 3, 4]
        for tenant, cached in (("b", 0), (None, 0), ("a", 51)):
            went_on = engine.submit(longer, HOW, tenant=tenant).result(60)
            assert went_on.cached_tokens == cached
            assert list(went_on.tokens) == solo(TOY, longer, **HOW)
        told = engine.figures()
        assert told.cached_prompt_tokens == 51
        assert 0 < told.kept_tokens <= 8192


class Nosy(racer.Drafter):
    """Drafts what it has seen last, whoever's it was."""

    needs = racer.Needs()

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def opened(self, request: racer.Request) -> None:
        self.seen |= {*request.prompt}

    def grow(self, request: racer.Request, tree: racer.TreeBuilder) -> None:
        for token in sorted(self.seen):
            tree.add(0, token)

    def observe(self, view: racer.StepView, tree: racer.DraftTree, verdict: racer.Verdict) -> None:
        for request in view.requests:
            self.seen |= {*request.tokens}


def test_no_tenant_is_drafted_what_another_said() -> None:
    """Each tenant's tokens are its own: whatever is drafted to it must be among them."""
    model, drafted = toy_model(40, sharpness=1.0), {}

    class Watch:
        @racer.hookimpl
        def racer_step(self, view: Any, tree: Any, verdict: Any, stats: Any) -> None:
            for row, request in enumerate(view.requests):
                count = int(tree.count[row])
                drafted.setdefault(request.tenant, set()).update(
                    tree.tokens[row, 1:count].tolist() if stats.nodes else ()
                )

    config = racer.DecodeConfig(drafter=Nosy(), budget=60, plugins=[Watch()])
    engine = SteppedEngine(model, config, max_rows=4)
    streams = {}
    for tenant, low in (("a", 0), ("b", 20)):
        prompt = [low + token % 20 for token in prompt_of(5)]
        streams[tenant] = engine.submit(prompt, HOW, tenant=tenant), prompt
    engine.run()
    for tenant, (stream, prompt) in streams.items():
        assert drafted[tenant], "something was drafted"
        assert drafted[tenant] <= {*prompt, *stream.result(0).tokens}


def test_drafters_of_tenants_are_few() -> None:
    engine = SteppedEngine(TOY, racer.DecodeConfig(drafter="prompt-lookup"))
    for tenant in range(30):
        engine.submit(prompt_of(tenant), HOW | {"max_new_tokens": 2}, tenant=tenant)
        engine.run()
    assert len(engine.strategies.drafter._drafters) <= 8


def test_drafters_of_tenants_draft_chains_where_such_a_drafter_does() -> None:
    for name, chains in (("racer", True), ("logits", False)):
        drafter = SteppedEngine(TOY, racer.DecodeConfig(drafter=name)).strategies.drafter
        assert drafter.drafts_chains is chains


@pytest.mark.parametrize("budget", [1, 3])
def test_a_requests_trees_have_its_size(budget: int) -> None:
    widths: list[list[int]] = []

    class Watch:
        @racer.hookimpl
        def racer_step(self, view: Any, tree: Any, verdict: Any, stats: Any) -> None:
            if stats.nodes:
                widths.append([int(count) for count in tree.count])

    engine = SteppedEngine(TOY, racer.DecodeConfig(budget=16, plugins=[Watch()]))
    repeats = [1, 2, 3, 4] * 8
    small, free = engine.submit(repeats, HOW, budget=budget), engine.submit(repeats, HOW)
    engine.run()
    both = [counts for counts in widths if len(counts) == 2]
    assert both
    assert max(counts[0] for counts in both) <= budget
    assert max(counts[1] for counts in both) > budget
    assert small.result().tokens == free.result().tokens
    if budget == 1:
        assert small.result().stats.drafted.total() == 0


def test_what_cannot_share_a_batch_is_decoded_alone() -> None:
    with racer.Engine(TOY) as engine:
        with pytest.warns(racer.PlainDecodingWarning, match="num_beams"):
            stream = engine.submit(prompt_of(1), HOW | {"num_beams": 2})
        others = [engine.submit(prompt_of(n), HOW) for n in range(3)]
        beams = TOY.generate(torch.tensor([prompt_of(1)]), attention_mask=torch.ones(1, 20), num_beams=2, **HOW)
        assert list(stream.result(60).tokens) == beams[0, 20:].tolist()
        for number, other in enumerate(others):
            assert list(other.result(60).tokens) == solo(TOY, prompt_of(number), **HOW)


@pytest.mark.parametrize("name", ["qwen3.5"])
def test_models_that_take_chains(name: str) -> None:
    model = chain_model(name)
    vocab = model.config.get_text_config().vocab_size
    with racer.Engine(model) as engine:
        prompts = [[(n * 5 + place) % vocab for place in range(9)] for n in range(3)]
        streams = [engine.submit(prompt, HOW) for prompt in prompts]
        for prompt, stream in zip(prompts, streams, strict=True):
            assert list(stream.result(120).tokens) == solo(model, prompt, **HOW)
            assert len(list(stream)) > 1, "it streams"
        long = engine.submit(prompts[0], HOW | {"max_new_tokens": 400})
        next(iter(long))
        long.cancel()
        assert long.result(60).finish == "cancelled"


@pytest.mark.parametrize("name", ["llama", "gemma3", "qwen3"])
def test_real_architectures(name: str) -> None:
    model = copy.deepcopy(tiny(name)).float()
    vocab = model.config.get_text_config().vocab_size
    prompts = [[(n * 5 + place * 3) % vocab for place in range(4 + 9 * n)] for n in range(5)]
    with racer.Engine(model, max_rows=3, prefill_piece=6) as engine:
        streams = [engine.submit(prompt, HOW | {"max_new_tokens": 24}) for prompt in prompts]
        for prompt, stream in zip(prompts, streams, strict=True):
            assert list(stream.result(120).tokens) == solo(model, prompt, **(HOW | {"max_new_tokens": 24}))


def test_an_engine_that_breaks_tells_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = racer.Engine(TOY, max_rows=1)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    first = engine.submit(prompt_of(1), HOW | {"max_new_tokens": 3000})
    next(iter(first))
    waits = engine.submit(prompt_of(2), HOW)
    engine.observe(lambda *_: 1 / 0)
    for stream in (first, waits):
        with pytest.raises(EngineClosed, match="ZeroDivisionError"):
            stream.result(20)
    assert engine.closed
    with pytest.raises(EngineClosed):
        engine.submit(prompt_of(3), HOW)
    engine.close()


class Explodes(StoppingCriteria):
    """Fails at its third question."""

    racer_row_wise = True
    asked = 0

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        self.asked += 1
        if self.asked == 3:
            raise ZeroDivisionError("a criterion of the user's")
        return torch.zeros(len(input_ids), dtype=torch.bool)


def test_a_failing_criterion_takes_nobody_with_it() -> None:
    with racer.Engine(TOY) as engine:
        bad = engine.submit(prompt_of(1), HOW | {"stopping_criteria": [Explodes()]})
        good = engine.submit(prompt_of(2), HOW)
        with pytest.raises(ZeroDivisionError):
            bad.result(60)
        assert list(good.result(60).tokens) == solo(TOY, prompt_of(2), **HOW)
        assert engine.figures().failed == 1


def test_nothing_can_be_drawn_for_one_row() -> None:
    """Sampling from no token at all fails in ``generate``, and here for that request alone."""
    never = [[token] for token in range(13)]
    with racer.Engine(TOY) as engine:
        bad = engine.submit(prompt_of(1), HOW | {"do_sample": True, "bad_words_ids": never, "eos_token_id": None})
        good = engine.submit(prompt_of(2), HOW)
        with pytest.raises(RuntimeError, match="probability tensor"):
            bad.result(60)
        assert list(good.result(60).tokens) == solo(TOY, prompt_of(2), **HOW)


def test_a_stream_can_be_waited_for_in_vain() -> None:
    engine = SteppedEngine(TOY)
    stream = engine.submit(prompt_of(1), HOW)
    with pytest.raises(TimeoutError):
        stream.result(0.01)
    with pytest.raises(TimeoutError):
        next(stream.chunks(0.01))
    late = threading.Timer(0.05, engine.run)
    late.start()
    began = time.monotonic()
    assert len(stream.result(20).tokens) == 12
    assert time.monotonic() - began < 20
    late.join()
