"""Storage stays at its addresses from call to call, and calls at once share none."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import racer
from racer import Decoder, Request, hookimpl
from racer.core.model_state import release
from racer.engine.static.pool import fingerprint
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.testing import HostileDrafter, decode, decode_plainly, toy_model
from support.pretender import idle_batches
from support.static_path import static
from support.tiny_models import alone, tiny
from support.toy import MODEL, VOCAB


def batches(model: Any) -> list[Any]:
    return [pooled.device_batch for pooled in idle_batches(model)]


def test_storage_stays_where_it_is_from_step_to_step_and_from_call_to_call() -> None:
    model, places = toy_model(VOCAB), set()

    class Watch:
        @hookimpl
        def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: Any) -> None:
            places.add(tree.tokens.data_ptr() if stats.nodes else 0)

    config = static(drafter=HostileDrafter(1, VOCAB), budget=4, plugins=[Watch()])
    decode(Decoder(model, config), [[1, 2]], 60)
    (batch,) = batches(model)
    before = batch.cache.layer(0)[0].data_ptr()
    decode(Decoder(model, config), [[1, 2, 3]], 60)
    assert batches(model) == [batch]
    assert batch.cache.layer(0)[0].data_ptr() == before
    assert len(places) <= 2, "widths 1 and 4"


def test_what_an_earlier_call_left_does_no_harm() -> None:
    model, how = tiny("llama"), {"max_new_tokens": 20, "do_sample": False}
    config = static(drafter="racer-paper", budget=8)
    release(model)
    racer.generate(model, config=config, **alone(2), **how)
    (batch,) = batches(model)
    for store in batch.cache.stores:
        store.fill_(float("nan"))
    assert torch.equal(racer.generate(model, config=config, **alone(1), **how), model.generate(**alone(1), **how))
    assert batches(model) == [batch]
    release(model)


def test_two_calls_at_once_share_nothing() -> None:
    model = toy_model(VOCAB)
    inner: list[Any] = []

    class Nested:
        """Decodes another text in the middle of a step."""

        @hookimpl
        def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: Any) -> None:
            if len(inner) < 3:
                inner.append(decode(Decoder(model, static(drafter="logits", budget=6)), [[5, 4]], 12)[0])

    got, _ = decode(Decoder(model, static(drafter="racer-paper", budget=6, plugins=[Nested()])), [[1, 2]], 30)
    assert got == decode_plainly(MODEL, [[1, 2]], 30)
    assert inner == [decode_plainly(MODEL, [[5, 4]], 12)] * 3


def test_a_model_that_changed_gets_a_new_stage() -> None:
    model = toy_model(VOCAB)
    decode(Decoder(model, static(drafter="none")), [[1]], 5)
    (old,) = batches(model)
    before = fingerprint(model)
    model.adapter_scale = 0.5  # a setting that a graph would have taken for constant
    assert fingerprint(model) != before
    decode(Decoder(model, static(drafter="none")), [[1]], 5)
    assert batches(model) != [old]
    model.anchor.data.add_(1)  # contents are read anew by every replay
    after = fingerprint(model)
    model.anchor.data = model.anchor.data.clone()
    assert fingerprint(model) != after


def test_an_interrupted_call_gives_nothing_back() -> None:
    model = toy_model(VOCAB)

    def stop(row: int, token: int) -> None:
        raise KeyboardInterrupt

    decoder = Decoder(model, static(drafter="none"))
    from racer.engine.spec import BatchSpec
    from racer.hf.processors import ProcessorPipeline

    with pytest.raises(KeyboardInterrupt):
        decoder.decode(BatchSpec(requests=(Request(prompt=(1, 2)),), pipeline=ProcessorPipeline(), emit=stop))
    assert batches(model) == []
