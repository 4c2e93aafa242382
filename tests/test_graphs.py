"""CUDA graphs and torch.compile: what can be captured, what is said where it cannot, and that tokens stay the same.

Captures need a GPU. What surrounds them does not: the check for operations that no graph can hold, the way back to
plainer ways, and the operations of the GPU's own branches, which run on torch's meta device.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import torch
from test_tiny_models import BUILD, batch, tiny
from test_tiny_models import VOCAB as TINY_VOCAB
from torch import Tensor
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import racer
from racer import DecodeConfig, Decoder, DeviceDrafter, Greedy, Needs, Recycling
from racer.budgets import Fixed
from racer.core.kv_cache import CacheLayout
from racer.core.model_runner import ModelRunner, call_model
from racer.core.support import probe
from racer.engine.static.cuda_graphs import CaptureCheck, Eager, GraphWarning, Key, NotCapturable, reason_of
from racer.engine.static.device_batch import DeviceBatch
from racer.engine.static.pool import _shelves, borrow, release
from racer.engine.static.step import DRAFT, FORWARD, VERIFY, Draft, Runner, StaticStep
from racer.errors import ConfigError
from racer.guard import Guard, PluginWarning
from racer.hf.processors import ProcessorPipeline
from racer.step.request import Request, Settled
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.strategies.recycling import Matrix
from racer.testing import HostileDrafter, ToyLM, decode, decode_plainly, toy_model
from racer.testing.toy import ToyConfig
from racer.verifiers.exact import Sampling

VOCAB = 6
WARPERS = [TemperatureLogitsWarper(0.7), TopKLogitsWarper(9), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)]


# -- what can be captured -------------------------------------------------------------------------------------------


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


def on_meta(name: str) -> tuple[ModelRunner, DeviceBatch]:
    """A tiny model without data: operations run through, with the shapes and branches of an accelerator."""
    plan = probe(tiny(name)).plan
    assert plan is not None
    model = copy.deepcopy(tiny(name)).to("meta")
    keys, values = (
        tuple(attrs.evolve(block, device=torch.device("meta")) for block in blocks)
        for blocks in (plan.layout.keys, plan.layout.values)
    )
    core = ModelRunner(model, attrs.evolve(plan, layout=CacheLayout(keys, values)))
    return core, DeviceBatch(core.plan.layout, 2, 100)


@pytest.mark.parametrize("verifier", [Greedy(), Sampling()])
@pytest.mark.parametrize("name", [name for name in BUILD if name != "mixtral"])
def test_a_whole_step_never_leaves_the_device(name: str, verifier: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("racer.engine.static.step.check_form", lambda tree, *_: tree)  # it refuses trees without data
    core, stage = on_meta(name)
    rows = torch.zeros(2, dtype=torch.long, device="meta")
    view = StepView(
        requests=(Request((1,)), Request((2,))), active=(True, True), root=rows, position=rows, vocab_size=TINY_VOCAB,
        pipeline=ProcessorPipeline(WARPERS if verifier.samples else [], 2), do_sample=verifier.samples, seeds=rows,
        settled=Settled(verifier),
    )  # fmt: skip
    assert verifier.capture_key(view) is not None
    sheet, window = stage.sheet(16), stage.window(16)
    step = StaticStep(
        Key(16, 256, ()), core, stage, sheet, window, Runner(Eager()), Needs(top_k=4, probs=True), view, True, True
    )
    program = Recycling(4).make(torch.device("meta"), TINY_VOCAB)
    with torch.no_grad(), CaptureCheck():
        outcome = step()
        drafted = attrs.evolve(step, draft=Draft(program, 13))()
    assert drafted.draft is not None
    assert drafted.draft.program is program, "kept with the recording, which holds its addresses"
    assert outcome.verdict is not None
    assert outcome.packed is not None
    assert outcome.packed.device.type == "meta"
    assert len(outcome.packed) == 2 * (2 + 4 * 16 + 2 + 2 * 4 * 16)


def test_pipelines_are_the_same_when_they_do_the_same() -> None:
    def signature(*steps: Any) -> Any:
        return ProcessorPipeline(steps).signature

    assert signature() == ()
    assert signature(TemperatureLogitsWarper(0.7)) == signature(TemperatureLogitsWarper(0.7))
    assert len({signature(TopPLogitsWarper(p)) for p in (0.8, 0.9)} | {signature(*WARPERS)}) == 3
    assert signature(TopKLogitsWarper(3), TemperatureLogitsWarper(0.7)) != signature(
        TemperatureLogitsWarper(0.7), TopKLogitsWarper(3)
    )

    class Own(TemperatureLogitsWarper):  # type: ignore[misc]
        pass

    assert signature(Own(0.7)) is None


def test_verifiers_of_others_stay_outside_unless_they_say_otherwise() -> None:
    class Own(Greedy):
        pass

    view: Any = type("View", (), {"pipeline": ProcessorPipeline(), "device": torch.device("cuda")})()
    assert Greedy().capture_key(view) is not None
    assert Own().capture_key(view) is None


# -- the way back ---------------------------------------------------------------------------------------------------


class Pretender(Eager):
    """Stands where a GPU's graphs would, checks what it is given as they do, and runs it step by step."""

    captures = True

    def __init__(self) -> None:
        super().__init__(rehearses=True)
        self.kinds: list[Key] = []

    def prepare(self, key: Key, body: Callable[[], Any], check: bool) -> None:
        assert check
        self.kinds.append(key)
        with CaptureCheck():
            super().prepare(key, body, check)


def pretend(model: Any, rows: int) -> Pretender:
    """Let the next call of ``model`` with ``rows`` rows find a stage with a machine that pretends to capture."""
    release(model)
    plan = probe(model).plan
    assert plan is not None
    core = ModelRunner(model, plan)
    lease = borrow(core, "static", [0] * rows, 100)
    assert lease is not None
    machine = Pretender()
    lease.runner.machine = machine
    racer.engine.static.pool.give_back(core, lease)
    return machine


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


class NeedsHost(ToyLM):
    """Reads a value on the host in the middle of its forward."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, **others):  # type: ignore[no-untyped-def]
        output = super().forward(input_ids, attention_mask, position_ids, cache, **others)
        assert output.logits.sum().item() != 0.5
        return output


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


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Trees that drafters were shown from outside the captured step, by their widths."""
    widths: list[int] = []

    def observe(guard: Guard, view: StepView, tree: Any, verdict: Verdict) -> None:
        widths.append(tree.width)
        guard.attempt(guard.drafter.observe, view, tree, verdict)

    monkeypatch.setattr(Guard, "observe", observe)
    return widths


PROMPTS = [[1, 2, 3, 1, 2], [3]]


def recycled(
    model: Any, drafter: Any, compile: str, new: int = 40, budget: Any = 13, **how: Any
) -> tuple[list[list[int]], Any]:
    config = DecodeConfig(drafter=drafter, budget=budget, compile=compile, **how)
    return decode(Decoder(model, config), PROMPTS, new)


def test_a_drafter_on_the_device_becomes_part_of_the_graph_and_drafts_there_what_it_drafts_elsewhere(
    told: list[int],
) -> None:
    model = toy_model(VOCAB)
    machine, drafter = pretend(model, 2), Recycling(4)
    got, stats = recycled(model, drafter, "static")
    assert told == [5], "the longer prompt, and nothing else"
    plain, outside = recycled(model, Recycling(4), "off")
    assert got == plain == decode_plainly(model, PROMPTS, 40)
    assert stats.accept_lengths == outside.accept_lengths, "it has learned as much, and nothing from rehearsals"
    assert stats.mean_accepted_tokens > 1
    assert stats.drafted == outside.drafted
    assert set(stats.drafted) == {"recycling"}
    assert all(key.kind[2] is not None for key in machine.kinds)
    recycled(model, drafter, "static")
    assert len(machine.kinds) == len(set(machine.kinds)), "the next call uses the same graphs"
    release(model)


def test_another_drafter_gets_graphs_of_its_own() -> None:
    """They hold the addresses of the one that they were captured with."""
    model, drafters = toy_model(VOCAB), (Recycling(4), Recycling(4))
    machine = pretend(model, 2)
    prepared = []
    for drafter in (*drafters, *drafters):
        recycled(model, drafter, "static", new=12)
        prepared.append(len(machine.kinds))
    assert 0 < prepared[0] < prepared[1] == prepared[2] == prepared[3]
    release(model)


class AsksTheHost(DeviceDrafter):
    """Is wrong about living on the device alone."""

    name = "asks"
    needs = Needs(top_k=4, prompt=Needs.ALL, host=False)

    def __init__(self, at: str) -> None:
        super().__init__()
        self.at = at

    def make(self, device: torch.device, vocab_size: int) -> Any:
        at = self.at

        class Asking(Matrix):
            def draft(self, root: Tensor, nodes: int) -> Any:
                if at == "draft":
                    int(root.sum())
                tree = super().draft(root, nodes)
                return tree.padded(nodes + 1) if at == "form" else tree

            def observe(self, tree: Any, verdict: Verdict, active: Tensor) -> None:
                if at == "observe":
                    int(active.sum())
                super().observe(tree, verdict, active)

        return Asking(4, vocab_size, device)


@pytest.mark.parametrize(
    ("at", "reason"),
    [("draft", "_local_scalar_dense"), ("observe", "_local_scalar_dense"), ("form", "14 columns, the budget is 13")],
)
def test_a_drafter_that_cannot_be_captured_stays_outside(at: str, reason: str) -> None:
    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, stats = recycled(model, AsksTheHost(at), "static")
    assert got == decode_plainly(model, PROMPTS, 40)
    (graph,) = (str(entry.message) for entry in said if entry.category is GraphWarning)
    assert graph.startswith("ToyLM has its drafter outside the CUDA graph: ")
    assert reason in graph
    assert machine.kinds[-1].kind[0] is not None, "the verifier is inside still"
    assert machine.kinds[-1].kind[2] is None
    assert (stats.mean_accepted_tokens > 1) == (at != "form"), "from outside it drafts on"
    release(model)


def test_auto_learns_the_size_of_trees_that_are_drafted_in_the_graph() -> None:
    """A plain step is measured first, then sizes that may pay."""
    widths = {}
    for compile in ("static", "off"):
        model = toy_model(50)
        if compile == "static":
            machine = pretend(model, 2)
        _, stats = recycled(model, Recycling(4), compile, new=120, budget="auto")
        widths[compile] = stats.nodes
    assert all(key.kind[2] is not None for key in machine.kinds)
    assert widths["static"][:2] == widths["off"][:2] == [1, 1]
    assert len(set(widths["static"])) > 1
    release(model)


class Cutting(Fixed):
    """Looks at trees before they are scored."""

    def fit(self, view: StepView, tree: Any) -> Any:
        return tree.head(4)


class Careful(Recycling):
    """Gives no more than three nodes."""

    def draft(self, view: StepView, budget: int) -> Any:
        return super().draft(view, min(budget, 3))


class Fails(Fixed):
    fits_unseen = True

    def fit(self, view: StepView, tree: Any) -> Any:
        raise ZeroDivisionError("of the budget")


@pytest.mark.parametrize(
    ("drafter", "budget", "widths", "joins"),
    [
        (Recycling(4), Cutting(13), {4}, False),
        (Careful(4), Fixed(13), {3}, False),
        (Recycling(4), Fails(13), {13}, True),
    ],
)
def test_who_sees_trees_before_they_are_scored_keeps_the_drafter_outside(
    drafter: Any, budget: Any, widths: set[int], joins: bool
) -> None:
    model = toy_model(VOCAB)
    machine, decoder = pretend(model, 2), Decoder(model, DecodeConfig(drafter=drafter, compile="static"))
    decoder.strategies.budget = budget
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        got, stats = decode(decoder, PROMPTS, 30)
    assert got == decode_plainly(model, PROMPTS, 30)
    assert set(stats.nodes) <= widths | {1} > set(stats.nodes) - widths
    assert (machine.kinds[-1].kind[2] is not None) == joins
    assert [str(entry.message) for entry in said if "the budget" in str(entry.message)] == (
        ["the budget is left out where it fails: ZeroDivisionError: of the budget"] if joins else []
    )
    release(model)


def test_a_drafter_that_fails_outside_a_graph_never_ends_a_call() -> None:
    """The model cannot be captured, so the step runs as it is, where nothing stands around a drafter inside."""

    class Failing(DeviceDrafter):
        def make(self, device: torch.device, vocab_size: int) -> Any:
            class Bad(Matrix):
                def observe(self, tree: Any, verdict: Verdict, active: Tensor) -> None:
                    raise ZeroDivisionError("of the drafter")

            return Bad(4, vocab_size, device)

    model = NeedsHost(ToyConfig(vocab_size=VOCAB)).eval()
    pretend(model, 2)
    drafter = Failing()
    drafter.needs = Needs(top_k=4, host=False)
    with pytest.warns((GraphWarning, PluginWarning)) as said:
        got, _ = recycled(model, drafter, "static")
    assert got == decode_plainly(toy_model(VOCAB), PROMPTS, 40)
    assert {entry.category for entry in said} == {GraphWarning, PluginWarning}
    release(model)


def test_of_one_node_no_drafter_is_asked() -> None:
    class Two(DeviceDrafter):
        needs = Needs(top_k=4, host=False)

        def make(self, device: torch.device, vocab_size: int) -> Any:
            class AlwaysTwo(Matrix):
                def draft(self, root: Tensor, nodes: int) -> Any:
                    return super().draft(root, 2)

            return AlwaysTwo(4, vocab_size, device)

    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    got, _ = recycled(model, Two(), "static", new=12)
    assert got == decode_plainly(model, PROMPTS, 12)
    assert all(key.kind[2] is not None for key in machine.kinds)
    assert 1 in {key.nodes for key in machine.kinds}
    release(model)


def test_a_plugin_that_sees_drafts_keeps_the_drafter_outside(told: list[int]) -> None:
    class Sees:
        widths: list[int] = []  # noqa: RUF012

        @racer.hookimpl(wrapper=True)
        def racer_draft(self, view: StepView, budget: int) -> Any:
            tree = yield
            self.widths.append(tree.width)
            return tree

    model = toy_model(VOCAB)
    machine = pretend(model, 2)
    got, stats = recycled(model, Recycling(4), "static", plugins=(Sees(),))
    assert len(told) == 1 + stats.steps
    assert got == decode_plainly(model, PROMPTS, 40)
    assert machine.kinds[-1].kind[2] is None
    assert set(Sees.widths) == {13}
    release(model)


def test_a_verifier_outside_keeps_the_drafter_outside(told: list[int]) -> None:
    model, drafter = tiny("llama"), Recycling(4)
    how = {"max_new_tokens": 25, "do_sample": False, "repetition_penalty": 1.3}
    machine = pretend(model, 3)
    config = DecodeConfig(drafter=drafter, budget=8, compile="static")
    assert torch.equal(racer.generate(model, config=config, **batch(), **how), model.generate(**batch(), **how))
    assert machine.kinds[-1].kind == (None, (drafter.needs,), None)
    assert len(told) > 5
    release(model)


def test_a_broken_model_raises_its_own_error() -> None:
    model = Broken(ToyConfig(vocab_size=VOCAB)).eval()
    decoder = Decoder(model, DecodeConfig(drafter="none", compile="static"))
    with pytest.raises(ZeroDivisionError, match="of the model itself"):
        decode(decoder, [[1]], 60)


@pytest.mark.parametrize(
    ("doing", "left"),
    [(DRAFT, (True, True, False)), (VERIFY, (False, True, True)), (FORWARD, (False, True, True))],
)
def test_who_failed_is_left_out_and_nobody_else(doing: str, left: tuple[bool, bool, bool]) -> None:
    """With a compiled forward, whatever else fails may be the compiler's fault."""
    runner = Runner(Pretender(), call=lambda model, **inputs: model(**inputs))
    runner.doing = doing
    with pytest.warns(GraphWarning):
        runner.retreat(toy_model(VOCAB), ZeroDivisionError())
    assert (runner.compiled, runner.verifies, runner.drafts) == left


def test_the_first_cause_is_named() -> None:
    def fails() -> None:
        try:
            raise NotCapturable("the reason\nand more")
        finally:
            raise RuntimeError("a consequence")

    with pytest.raises(RuntimeError) as caught:
        fails()
    assert reason_of(caught.value) == "NotCapturable: the reason"


# -- choices --------------------------------------------------------------------------------------------------------


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


# -- torch.compile --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_compiled_forward_gives_the_same_tokens() -> None:
    model, how = tiny("llama"), {"max_new_tokens": 24, "do_sample": False}
    config = DecodeConfig(drafter="prompt-lookup", budget=4, compile="inductor")
    release(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)
        got = racer.generate(model, config=config, **batch(), **how)
    assert torch.equal(got, model.generate(**batch(), **how))
    (lease,) = _shelves[model].idle.values()
    assert lease.runner.compiled
    assert torch.equal(racer.generate(model, config=config, **batch(), **how), got)
    release(model)


def test_a_model_that_cannot_be_compiled_is_run_as_it_is() -> None:
    model = toy_model(VOCAB)
    plan = probe(model).plan
    assert plan is not None
    core = ModelRunner(model, plan)
    lease = borrow(core, "inductor", [0], 100)
    assert lease is not None

    def no_compiler(model: Any, **inputs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    lease.runner.call = no_compiler
    racer.engine.static.pool.give_back(core, lease)
    decoder = Decoder(model, DecodeConfig(drafter="racer-paper", budget=6, compile="inductor"))
    with pytest.warns(GraphWarning, match="ToyLM is not compiled: RuntimeError: no C\\+\\+ compiler"):
        got, _ = decode(decoder, [[1, 2]], 20)
    assert got == decode_plainly(model, [[1, 2]], 20)
    assert lease.runner.call is call_model


# -- on a GPU -------------------------------------------------------------------------------------------------------


def cuda(name: str) -> tuple[Any, dict[str, Tensor]]:
    torch.manual_seed(7)
    model = BUILD[name]().double().eval().cuda()
    return model, {key: value.cuda() for key, value in batch().items()}


def graphs(model: Any) -> Any:
    """The one kept stage's machine."""
    (lease,) = _shelves[model].idle.values()
    return lease.runner.machine


@pytest.mark.gpu
@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2", "gemma3", "mistral-sliding"])
def test_graphs_decode_what_single_operations_decode(name: str, do_sample: bool) -> None:
    model, inputs = cuda(name)
    how: dict[str, Any] = {"max_new_tokens": 40, "do_sample": do_sample}
    if do_sample:
        how |= {"temperature": 0.8, "top_p": 0.9, "top_k": 12}
    for drafter in ("racer", "racer-paper", "recycling", "none", HostileDrafter(5, TINY_VOCAB)):
        outputs = [
            racer.generate(
                model, config=DecodeConfig(drafter=drafter, budget=14, seed=3, compile=compile), **inputs, **how
            )
            for compile in ("graphs", "graphs", "static", "off")
        ]
        assert all(torch.equal(outputs[0], other) for other in outputs)
    kept = {lease.runner.machine.captures for lease in _shelves[model].idle.values() if lease.key[0] == "graphs"}
    assert kept == {True}, "nothing fell back"


@pytest.mark.gpu
def test_processors_that_read_prefixes_leave_the_forward_in_the_graph() -> None:
    model, inputs = cuda("llama")
    how = {"max_new_tokens": 25, "do_sample": False, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    config = DecodeConfig(drafter="racer-paper", budget=16, compile="graphs")
    assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))
    assert all(key.kind[0] is None for key in graphs(model)._recordings)


@pytest.mark.gpu
def test_a_drafter_on_the_device_is_captured_and_drafts_what_it_drafts_elsewhere(told: list[int]) -> None:
    model = toy_model(VOCAB).cuda()
    drafter = Recycling(4)
    got, stats = recycled(model, drafter, "graphs", new=200)
    assert told == [5]
    plain, outside = recycled(model, Recycling(4), "off", new=200)
    assert got == plain
    assert all(key.kind[2] is not None for key in graphs(model)._recordings)
    # of equal tokens in one tree, any may be learned from last
    assert stats.mean_accepted_tokens == pytest.approx(outside.mean_accepted_tokens, rel=0.2)


@pytest.mark.gpu
def test_storage_that_grows_is_captured_anew() -> None:
    model = toy_model(VOCAB).cuda()
    config = DecodeConfig(drafter="racer-paper", budget=16, compile="graphs")
    got, _ = decode(Decoder(model, config), [[1, 2, 3]], 1500)
    assert got == decode(Decoder(model, DecodeConfig(drafter="none", compile="off")), [[1, 2, 3]], 1500)[0]
    assert graphs(model).captures
    assert all(key.slots > 1280 for key in graphs(model)._recordings), "those before the move are gone"


@pytest.mark.gpu
def test_a_failed_capture_leaves_the_device_in_order() -> None:
    """The check before the capture is passed over, so that the capture itself fails."""
    from racer.engine.static.cuda_graphs import Graphs

    class Unchecked(Graphs):
        def prepare(self, key: Key, body: Callable[[], Any], check: bool) -> None:
            super().prepare(key, body, check=False)

    model = NeedsHost(ToyConfig(vocab_size=VOCAB)).eval().cuda()
    plan = probe(model).plan
    assert plan is not None
    core = ModelRunner(model, plan)
    lease = borrow(core, "graphs", [0], 100)
    assert lease is not None
    lease.runner.machine = Unchecked(torch.device("cuda", 0))
    racer.engine.static.pool.give_back(core, lease)
    stream = torch.cuda.current_stream()
    config = DecodeConfig(drafter="racer-paper", budget=8, compile="graphs")
    with pytest.warns(GraphWarning, match="cannot be captured"):
        got, _ = decode(Decoder(model, config), [[1, 2]], 30)
    assert got == decode_plainly(toy_model(VOCAB), [[1, 2]], 30)
    assert torch.cuda.current_stream() == stream
    assert torch.rand(3, device="cuda").isfinite().all(), "the random generator still works"
    torch.cuda.empty_cache()  # refused while torch believes that a capture is going on
    another = toy_model(VOCAB).cuda()
    config = DecodeConfig(drafter="logits", budget=8, compile="graphs")
    assert decode(Decoder(another, config), [[1, 2]], 30)[0] == got
    assert graphs(another)._recordings, "others are captured all the same"


@pytest.mark.gpu
def test_the_pool_is_bounded() -> None:
    """Graphs of many attention lengths share their memory: four times as many need hardly more."""
    model, _ = cuda("llama")
    sizes = []
    for new in (200, 110):  # the longer text first; the second call is the same graphs again
        prompts = [[3, 4, 5, 6]]
        config = DecodeConfig(drafter=HostileDrafter(1, TINY_VOCAB), budget=14, compile="graphs")
        decode(Decoder(model, config), prompts, new // 2)
        torch.cuda.synchronize()
        sizes.append(torch.cuda.memory_reserved())
    assert graphs(model)._recordings
    assert sizes[1] == sizes[0], "a second call captures and allocates nothing"
    release(model)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_reserved() < sizes[0]


@pytest.mark.gpu
def test_one_synchronisation_a_step() -> None:
    model = toy_model(VOCAB).cuda()
    decoder = Decoder(model, DecodeConfig(drafter="none", compile="graphs"))
    decode(decoder, [[1, 2]], 20)
    before = torch.cuda.get_sync_debug_mode()
    counted: list[Any] = []
    try:
        torch.cuda.set_sync_debug_mode("warn")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            _, stats = decode(decoder, [[1, 2]], 100)
        counted = [entry for entry in said if "synchroniz" in str(entry.message)]
    finally:
        torch.cuda.set_sync_debug_mode(before)
    # the mode warns of every wait for a stream, and of copies to and from pageable memory: prefill has a few
    assert stats.steps <= len(counted) < stats.steps + 20


@pytest.mark.gpu
def test_a_stage_outlives_inference_mode() -> None:
    model, inputs = cuda("llama")
    how = {"max_new_tokens": 20, "do_sample": False}
    config = DecodeConfig(compile="graphs")
    with torch.inference_mode():
        inside = racer.generate(model, config=config, **inputs, **how)
    with warnings.catch_warnings():
        warnings.simplefilter("error", GraphWarning)  # nothing is left outside the graph
        assert torch.equal(racer.generate(model, config=config, **inputs, **how), inside)
