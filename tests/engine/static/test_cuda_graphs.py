"""CUDA graphs: what can be captured, what is said where it cannot, and the way back to plainer ways.

Captures need a GPU. What surrounds them does not: a machine that pretends to capture stands for it here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import racer
from racer import DecodeConfig, Decoder, Greedy
from racer.engine.static.cuda_graphs import CaptureCheck, GraphWarning, NotCapturable, reason_of
from racer.engine.static.pool import _shelves, release
from racer.errors import ConfigError
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.testing import HostileDrafter, ToyLM, decode, decode_plainly, toy_model
from racer.testing.toy import ToyConfig
from support.pretender import NeedsHost, pretend
from support.tiny_models import VOCAB as TINY_VOCAB
from support.tiny_models import batch, tiny
from support.toy import VOCAB


@pytest.mark.parametrize(
    ("operation", "reason"),
    [
        (lambda x: x.sum().item(), "_local_scalar_dense"),
        (lambda x: x.nonzero(), "nonzero"),
        (lambda x: x[x > 1], "index with a mask"),
        (lambda x: x.masked_select(x > 1), "masked_select"),
        (lambda x: bool((x > 1).all()), "_local_scalar_dense"),
        (lambda x: torch.equal(x, x), "equal"),
        (lambda x: x.repeat_interleave(x.abs().long()), "repeat_interleave"),
        (lambda x: x.to("meta"), "from cpu to meta"),
        (lambda x: torch.tensor([1, 2], device="meta"), "torch.tensor brings numbers of the host to meta"),
        (lambda x: torch.as_tensor(1.5, device="meta"), "torch.as_tensor brings numbers"),
        (lambda x: torch.tensor(device="meta", data=[1]), "torch.tensor brings numbers"),
        (lambda x: torch.asarray(obj=[1], device="meta"), "torch.asarray brings numbers"),
        (lambda x: torch.empty(4, device="meta")[[0, 1]], "index by a list brings it to meta"),
        (lambda x: torch.empty(4, 4, device="meta").__setitem__((0, [0, 1]), 1), "index by a list"),
    ],
)
def test_operations_that_need_the_host_are_found(operation: Callable[[Tensor], Any], reason: str) -> None:
    with pytest.raises(NotCapturable, match=reason), CaptureCheck():
        operation(torch.arange(4.0))


def test_operations_of_the_device_alone_pass() -> None:
    with CaptureCheck():
        x = torch.arange(12.0).view(3, 4)
        x[:, 0] = 1
        torch.where(x > 2, x, 0).index_select(1, torch.arange(2)).sort(-1)
        x.gather(1, x.argmax(1, keepdim=True)).float().double().copy_(x[:, :1])
        y = torch.zeros(3, 4, device="meta")
        y[1], y[:, None, 2] = 1, y[0, 1]
        torch.as_tensor(y, device="meta") + torch.where(y > 0, 1, y)


def test_a_model_that_can_be_captured_is_captured_whole_and_seldom() -> None:
    model, how = tiny("llama"), {"max_new_tokens": 40, "do_sample": False}
    machine = pretend(model, 3)
    config = DecodeConfig(drafter=HostileDrafter(5, TINY_VOCAB), budget=14, compile="static")
    for _ in range(2):
        got = racer.generate(model, config=config, **batch(), **how)
        assert torch.equal(got, model.generate(**batch(), **how))
    assert all(key.kind[0] is not None for key in machine.kinds), "verified inside"
    assert len(machine.kinds) == len(set(machine.kinds)) <= 4, "widths 1, 4, 8 and 16"
    release(model)


class Broken(ToyLM):
    """Fails after a while."""

    calls = 0

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, **others):  # type: ignore[no-untyped-def]
        self.calls += 1
        if self.calls > 30:
            raise ZeroDivisionError("of the model itself")
        return super().forward(input_ids, attention_mask, position_ids, cache, **others)


def test_a_model_that_cannot_be_captured_loses_no_token_and_says_so_once() -> None:
    model = NeedsHost(ToyConfig(vocab_size=VOCAB)).eval()
    plain = decode_plainly(toy_model(VOCAB), [[1, 2], [3]], 30)
    pretend(model, 2)
    decoder = Decoder(model, DecodeConfig(drafter="racer-paper", budget=12, compile="static"))
    with pytest.warns(GraphWarning, match="NeedsHost cannot be captured .*_local_scalar_dense") as said:
        got, stats = decode(decoder, [[1, 2], [3]], 30)
    assert got == plain
    assert len([entry for entry in said if entry.category is GraphWarning]) == 1
    assert [sum(lengths) + 1 for lengths in stats.accept_lengths] == [30, 30]
    assert decode(decoder, [[1, 2], [3]], 30)[0] == plain  # and never again


class WrongAboutItself(Greedy):
    """Says that it can be captured, and asks the host."""

    def capture_key(self, view: StepView) -> str:
        return "wrong"

    def verify(self, view: StepView, tree: Any, logits: Tensor) -> Verdict:
        verdict = super().verify(view, tree, logits)
        verdict.length.sum().item()
        return verdict


def test_a_verifier_that_cannot_be_captured_stays_outside() -> None:
    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    decoder = Decoder(model, DecodeConfig(drafter="racer-paper", verifier=WrongAboutItself(), compile="static"))
    with pytest.warns(GraphWarning, match="ToyLM has its verifier outside the CUDA graph: .*_local_scalar_dense"):
        got, _ = decode(decoder, [[1, 2], [3]], 30)
    assert got == decode_plainly(model, [[1, 2], [3]], 30)
    assert next(iter(_shelves[model].idle.values())).runner.machine is machine, "the forward pass is captured still"
    assert machine.kinds[-1].kind[0] is None


def test_a_broken_model_raises_its_own_error() -> None:
    model = Broken(ToyConfig(vocab_size=VOCAB)).eval()
    decoder = Decoder(model, DecodeConfig(drafter="none", compile="static"))
    with pytest.raises(ZeroDivisionError, match="of the model itself"):
        decode(decoder, [[1]], 60)


def test_the_first_cause_is_named() -> None:
    def fails() -> None:
        try:
            raise NotCapturable("the reason\nand more")
        finally:
            raise RuntimeError("a consequence")

    with pytest.raises(RuntimeError) as caught:
        fails()
    assert reason_of(caught.value) == "NotCapturable: the reason"


def test_graphs_are_refused_where_there_is_no_cuda() -> None:
    with pytest.raises(ConfigError, match="compile='graphs' needs a model on a CUDA device, and this one is on cpu"):
        Decoder(toy_model(VOCAB), DecodeConfig(compile="graphs"))


def test_auto_is_off_on_a_cpu_and_keeps_nothing() -> None:
    model = toy_model(VOCAB)
    decoder = Decoder(model, DecodeConfig(drafter="none"))
    assert decoder.way == "off"
    decode(decoder, [[1]], 5)
    assert model not in _shelves


def test_autocast_is_decoded_in_dynamic_shapes_and_that_is_said() -> None:
    model = toy_model(VOCAB)
    decoder = Decoder(model, DecodeConfig(drafter="logits", budget=6, compile="static"))
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        pytest.warns(GraphWarning, match="without static shapes: autocast"),
    ):
        decode(decoder, [[1, 2]], 10)
