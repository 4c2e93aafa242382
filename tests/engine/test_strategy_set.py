"""Who is asked, who is told, and whose error it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LogitsProcessor

from racer import DecodeConfig, Decoder, DraftTree, Greedy, StepView, Verdict, hookimpl
from racer.errors import PluginError
from racer.guard import PluginWarning
from racer.hf.processors import ProcessorPipeline
from racer.testing import decode, decode_plainly, toy_model
from racer.verifiers.base import Verifier, as_verifier

MODEL = toy_model()


class Breaks(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """A grammar, say, that meets a text it cannot go on with."""

    def __init__(self, after: int) -> None:
        self.calls, self.after = 0, after

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.after:
            raise ZeroDivisionError("of the processor")
        return scores


class Around:
    """Changes nothing, but stands around the verifier."""

    @hookimpl(wrapper=True)
    def racer_verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Any:
        return (yield)


@pytest.mark.parametrize("plugins", [(), (Around(),)])
def test_a_processors_own_error_is_the_callers_and_it_is_asked_once(
    plugins: tuple[object, ...], recwarn: pytest.WarningsRecorder
) -> None:
    processor = Breaks(after=5)
    decoder = Decoder(MODEL, DecodeConfig(drafter="none", plugins=plugins))
    with pytest.raises(ZeroDivisionError, match="of the processor"):
        decode(decoder, [[1, 2]], 20, processors=[processor])
    assert processor.calls == 6, "never again after it has failed"
    assert not [entry for entry in recwarn if entry.category is PluginWarning], "no plugin is to blame"


def test_a_plugin_that_fails_after_the_verifier_leaves_its_verdict_alone() -> None:
    class Fails:
        @hookimpl(wrapper=True)
        def racer_verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Any:
            yield
            raise KeyError("of the plugin")

    processor = Breaks(after=21)
    decoder = Decoder(MODEL, DecodeConfig(drafter="none", plugins=[Fails()]))
    with pytest.warns(PluginWarning, match="a plugin's racer_verify"):
        got, _ = decode(decoder, [[1, 2]], 20, processors=[processor])
    assert got == decode_plainly(MODEL, [[1, 2]], 20)
    assert processor.calls == 20, "once a token"


class OnlyVerifies:
    """Of no class of ours."""

    def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Verdict:
        return Greedy().verify(view, tree, logits)


@pytest.mark.parametrize("compile", ["off", "static"])
def test_any_object_that_verifies_is_a_verifier(compile: str) -> None:
    config = DecodeConfig(verifier=OnlyVerifies(), drafter="racer-paper", budget=6, compile=compile)
    got, stats = decode(Decoder(MODEL, config), [[1, 2], [3]], 20)
    assert got == decode_plainly(MODEL, [[1, 2], [3]], 20)
    assert stats.verifier == "onlyverifies"
    assert as_verifier(greedy := Greedy()) is greedy
    assert isinstance(as_verifier(OnlyVerifies()), Verifier)


def test_a_verdict_of_another_type_is_the_callers_error() -> None:
    class Wrong:
        def verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Any:
            return torch.zeros(1)

    with pytest.raises(TypeError, match="its verdict is a Tensor"):
        decode(Decoder(MODEL, DecodeConfig(verifier=Wrong(), drafter="none")), [[1, 2]], 3)


def test_a_pipeline_without_processors_says_so() -> None:
    assert ProcessorPipeline().signature == ()


class Named(OnlyVerifies):
    name = None
    exact, samples = False, False

    def capture_key(self, view: StepView) -> str:
        return "mine"


def test_what_an_object_says_of_itself_as_a_verifier_is_passed_on() -> None:
    verifier = as_verifier(Named())
    assert (verifier.exact, verifier.samples, verifier.capture_key(None)) == (False, False, "mine")  # type: ignore[arg-type]
    assert decode(Decoder(MODEL, DecodeConfig(verifier=Named(), drafter="none")), [[1]], 3)[1].verifier == "named"
    with pytest.raises(PluginError, match="a verifier is an object with verify; int has none"):
        as_verifier(3)


def test_plugins_see_of_the_verifier_what_it_is() -> None:
    seen = []

    class Looks:
        @hookimpl(wrapper=True)
        def racer_verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Any:
            seen.append((view.verifier.exact, view.verifier.samples))
            return (yield)

    decode(Decoder(MODEL, DecodeConfig(drafter="none", plugins=[Looks()])), [[1]], 2)
    assert set(seen) == {(True, False)}


def test_the_verifiers_second_error_is_not_a_plugins() -> None:
    class AsksTwice:
        @hookimpl(wrapper=True)
        def racer_verify(self, view: StepView, tree: DraftTree, logits: Tensor) -> Any:
            verdict = yield
            view.verifier.verify(view, tree, logits)
            return verdict

    decoder = Decoder(MODEL, DecodeConfig(drafter="none", plugins=[AsksTwice()]))
    with pytest.raises(ZeroDivisionError, match="of the processor"):
        decode(decoder, [[1, 2]], 20, processors=[Breaks(after=5)])
