"""A whole step on torch's meta device, with the operations of the GPU's own branches, and who is left out of it."""

from __future__ import annotations

import copy
from typing import Any

import attrs
import pytest
import torch

from racer import Greedy, Needs, Recycling
from racer.core.model_runner import ModelRunner
from racer.core.support import probe
from racer.engine.static.capture_check import CaptureCheck
from racer.engine.static.cuda_graphs import Eager, GraphWarning, Key
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.launcher import DRAFT, FORWARD, VERIFY, Launcher
from racer.engine.static.step import CapturedDraft, StaticStep
from racer.hf.processors import ProcessorPipeline
from racer.step.request import Request
from racer.step.view import StepView
from racer.testing import toy_model
from racer.verifiers.exact import Sampling
from support.more_models import build
from support.pretender import Pretender
from support.processors import WARPERS
from support.tiny_models import BUILD, tiny
from support.tiny_models import VOCAB as TINY_VOCAB
from support.toy import VOCAB
from support.versions import RECENT

MORE = (*(["gemma3n"] if RECENT else []), "gemma4", "roberta", "llama4")  # the oldest moves a number each step
"""Models whose layers store, or see, something else."""


def on_meta(own: Any) -> tuple[ModelRunner, DeviceBatch]:
    """A tiny model without data: operations run through, with the shapes and branches of an accelerator."""
    plan = probe(own).plan
    assert plan is not None
    model = copy.deepcopy(own).to("meta")
    parts = {
        name: tuple(attrs.evolve(block, device=torch.device("meta")) for block in getattr(plan.layout, name))
        for name in ("keys", "values", "index_keys")
    }
    runner = ModelRunner(model, attrs.evolve(plan, layout=attrs.evolve(plan.layout, **parts)))
    return runner, DeviceBatch(runner.plan.layout, 2, 100)


@pytest.mark.parametrize("verifier", [Greedy(), Sampling()])
@pytest.mark.parametrize("name", [*(name for name in BUILD if name != "mixtral"), *MORE])
def test_a_whole_step_never_leaves_the_device(name: str, verifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("racer.engine.static.step.check_form", lambda tree, *_: tree)  # it refuses trees without data
    runner, batch = on_meta(build(name) if name in MORE else tiny(name))
    rows = torch.zeros(2, dtype=torch.long, device="meta")
    view = StepView(
        requests=(Request((1,)), Request((2,))), active=(True, True), root=rows, position=rows, vocab_size=TINY_VOCAB,
        pipeline=ProcessorPipeline(WARPERS if verifier.samples else [], 2), do_sample=verifier.samples, seeds=rows,
        verifier=verifier,
    )  # fmt: skip
    assert verifier.capture_key(view) is not None
    buffer, window = batch.tree_buffer(16), batch.window(16)
    step = StaticStep(
        Key(16, 256, ()), runner, batch, buffer, window, Launcher(Eager()), Needs(top_k=4, probs=True), view, True, True
    )
    program = Recycling(4).make(torch.device("meta"), TINY_VOCAB)
    with torch.no_grad(), CaptureCheck():
        outcome = step()
        drafted = attrs.evolve(step, draft=CapturedDraft(program, 13))()
    assert drafted.draft is not None
    assert drafted.draft.program is program, "kept with the recording, which holds its addresses"
    assert outcome.verified is not None
    assert outcome.verified.packed.device.type == "meta"
    assert len(outcome.verified.packed) == 2 * (2 + 4 * 16 + 2 + 2 * 4 * 16)


def test_verifiers_of_others_stay_outside_unless_they_say_otherwise() -> None:
    class Own(Greedy):
        pass

    view: Any = type("View", (), {"pipeline": ProcessorPipeline(), "device": torch.device("cuda")})()
    assert Greedy().capture_key(view) is not None
    assert Own().capture_key(view) is None


@pytest.mark.parametrize(
    ("doing", "left"),
    [(DRAFT, (True, True, False)), (VERIFY, (False, True, True)), (FORWARD, (False, True, True))],
)
def test_who_failed_is_left_out_and_nobody_else(doing: str, left: tuple[bool, bool, bool]) -> None:
    """With a compiled forward, whatever else fails may be the compiler's fault."""
    launcher = Launcher(Pretender(), call=lambda model, **inputs: model(**inputs))
    launcher.doing = doing
    with pytest.warns(GraphWarning):
        launcher.retreat(toy_model(VOCAB), ZeroDivisionError())
    assert (launcher.compiled, launcher.verifies, launcher.drafts) == left
