"""Proof that a drafter changes nothing but speed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from racer.config import DecodeConfig
from racer.engine.spec import BatchSpec
from racer.guard import PluginWarning, complaints
from racer.hf.generate import Decoder
from racer.hf.processors import ProcessorPipeline
from racer.step.request import Request
from racer.step.stats import DecodeStats
from racer.strategies.base import Drafter
from racer.strategies.none import NoDraft
from racer.testing.toy import toy_model

Prompts = Sequence[Sequence[int]]


def decode(
    decoder: Decoder,
    prompts: Prompts,
    max_new_tokens: int,
    *,
    do_sample: bool = False,
    seeds: Sequence[int] | None = None,
    processors: Sequence[Any] = (),
    stop_tokens: frozenset[int] = frozenset(),
    width: int = 0,
) -> tuple[list[list[int]], DecodeStats]:
    """Decode ``prompts`` of any lengths as one batch: the new tokens of each row, and the statistics.

    They are padded on the left with token 0 to ``width``, or to the longest.
    """
    width = max(width, *map(len, prompts))
    requests = tuple(
        Request(
            prompt=tuple(prompt),
            padding=(0,) * (width - len(prompt)),
            limit=max_new_tokens,
            seed=seeds[row] if seeds else row,
        )
        for row, prompt in enumerate(prompts)
    )
    pipeline = ProcessorPipeline(processors, len(prompts))
    stats = decoder.decode(
        BatchSpec(requests=requests, pipeline=pipeline, do_sample=do_sample, stop_tokens=stop_tokens)
    )
    return [request.emitted for request in requests], stats


def decode_plainly(
    model: Any, prompts: Prompts, max_new_tokens: int, *, seeds: Sequence[int] | None = None, **how: Any
) -> list[list[int]]:
    """Each prompt alone, one token a step: what every drafter must reproduce.

    Without processors that read the prefix, a row alone has no padding. With them it keeps the padding that it has in
    the batch, because these processors see padding, here as in ``generate``.
    """
    plain = Decoder(model, DecodeConfig(drafter=NoDraft(), budget=1))
    blind = ProcessorPipeline(how.get("processors", ())).context_free
    width = 0 if blind else max(map(len, prompts))
    return [
        decode(plain, [prompt], max_new_tokens, seeds=[seed], width=width, **how)[0][0]
        for prompt, seed in zip(prompts, seeds or range(len(prompts)), strict=True)
    ]


def check_drafter(factory: Callable[[], Drafter], *, max_examples: int = 50, vocab_size: int = 7) -> None:
    """Run a drafter against plain decoding on a toy model: many prompts, batches, budgets, greedy and sampled.

    The drafter lives through all examples, so what it learns from one request must not spoil the next.

    :raises AssertionError: its output differs, or it takes more nodes than its budget.
    :raises PluginWarning: it gives a malformed tree, raises, or leaves torch's modes changed.
    """
    model, drafter = toy_model(vocab_size), factory()
    tokens = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=12)

    @settings(max_examples=max_examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(
        prompts=st.lists(tokens, min_size=1, max_size=3),
        new=st.integers(1, 24),
        budget=st.integers(2, 24),
        do_sample=st.booleans(),
        stop=st.sets(st.integers(0, vocab_size - 1), max_size=1),
    )
    def run(prompts: list[list[int]], new: int, budget: int, do_sample: bool, stop: set[int]) -> None:
        how: dict[str, Any] = {"do_sample": do_sample, "stop_tokens": frozenset(stop)}
        decoder = Decoder(model, DecodeConfig(drafter=drafter, budget=budget))
        with complaints() as faults:
            got, stats = decode(decoder, prompts, new, **how)
        if faults:
            raise PluginWarning(faults[0])  # a fault that decoding would survive is still a fault
        assert got == decode_plainly(model, prompts, new, **how), "output differs from plain decoding"
        assert max(stats.nodes, default=1) <= budget, "more nodes than the budget"

    run()
