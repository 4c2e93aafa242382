"""The static path decodes what the dynamic one does, in shapes and at addresses that stay.

Everything here runs on the CPU, step by step (``compile="static"``): the operations are those that a GPU captures.
"""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equality import CONTEXT_FREE, PREFIX_READING, VOCAB, CountsCalls, RowDependent, prompts
from test_tiny_models import VOCAB as TINY_VOCAB
from test_tiny_models import alone, batch, tiny

import racer
from racer import DecodeConfig, Decoder, Drafter, Request, TreeBuilder, hookimpl
from racer.core import kv_cache as cache_module
from racer.engine.static.pool import _shelves, fingerprint, release
from racer.engine.static.shapes import NODES, SLOTS, nodes_bucket, slots_bucket
from racer.engine.static.tree_buffer import TreeBuffer
from racer.step.draft_tree import DraftTree
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.testing import HostileDrafter, ReplayDrafter, decode, decode_plainly, draft_trees, toy_model
from racer.verifiers.exact import Sampling

MODEL = toy_model(VOCAB)
NAMES = ["llama", "qwen3", "gpt2", "gemma3", "mistral-sliding", "qwen2-sliding"]


def static(**settings: Any) -> DecodeConfig:
    return DecodeConfig(compile="static", **settings)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short runs cross many attention lengths, and storage grows on the way."""
    monkeypatch.setattr("racer.engine.static.shapes.SLOTS", 8)
    monkeypatch.setattr(cache_module, "GROWTH", 8)
    monkeypatch.setattr("racer.engine.static.shapes.NODES", (1, 4, 8))


class BatchSampling(Sampling):
    """As on a GPU: all nodes at once, inside the step."""

    def walks(self, view: StepView) -> bool:
        return not view.pipeline.context_free

    def capture_key(self, view: StepView) -> Hashable | None:
        return self._batch_key(view)


# -- equality -----------------------------------------------------------------------------------------------------


@settings(max_examples=80)
@given(
    prompts=prompts,
    seed=st.integers(0, 2**40),
    budget=st.integers(1, 14),
    new=st.integers(1, 20),
    do_sample=st.booleans(),
    inside=st.booleans(),
    steps=st.lists(st.sampled_from(CONTEXT_FREE + PREFIX_READING), max_size=3, unique=True),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
)
def test_hostile_trees_change_nothing(
    prompts: list[list[int]], seed: int, budget: int, new: int, do_sample: bool, inside: bool, steps: list[Any],
    stop: set[int],
) -> None:  # fmt: skip
    how = {
        "do_sample": do_sample,
        "processors": steps,
        "stop_tokens": frozenset(stop),
        "seeds": [seed + 3 * i for i in range(len(prompts))],
    }
    verifier: Any = BatchSampling() if do_sample and inside else "auto"
    runs = [
        decode(
            Decoder(
                MODEL,
                DecodeConfig(drafter=HostileDrafter(seed, VOCAB), budget=budget, verifier=verifier, compile=compile),
            ),
            prompts,
            new,
            **how,
        )
        for compile in ("static", "off")
    ]
    assert runs[0][0] == runs[1][0] == decode_plainly(MODEL, prompts, new, **how)
    if len(prompts) > 1:
        return  # rows that have ended leave the batch on one path only, and the hostile drafter guesses by the batch
    for name in ("nodes", "accept_lengths", "drafted", "accepted", "steps"):
        assert getattr(runs[0][1], name) == getattr(runs[1][1], name), "the same steps, not only the same tokens"


class HostileByRequest(Drafter):
    """Random trees that depend on the row's text alone, whoever else is in the batch."""

    name = "hostile"

    def grow(self, request: Request, tree: TreeBuilder) -> None:
        draw, nodes = random.Random(hash((request.seed, *request.tokens))), [0]
        for _ in range(draw.randint(0, 13)):
            node = tree.add(draw.choice(nodes), draw.randrange(VOCAB))
            nodes += [] if node is None else [node]


@settings(max_examples=60)
@given(
    prompts=st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=9), min_size=2, max_size=5),
    budget=st.integers(2, 14),
    new=st.integers(1, 20),
    do_sample=st.booleans(),
    stop=st.sets(st.integers(0, VOCAB - 1), max_size=2),
)
def test_batches_take_the_same_steps(
    prompts: list[list[int]], budget: int, new: int, do_sample: bool, stop: set[int]
) -> None:
    """Rows that have ended leave the batch on one path only; for the others that must make no difference."""
    how = {"do_sample": do_sample, "stop_tokens": frozenset(stop)}
    runs = [
        decode(
            Decoder(MODEL, DecodeConfig(drafter=HostileByRequest(), budget=budget, compile=way)), prompts, new, **how
        )
        for way in ("static", "off")
    ]
    assert runs[0][0] == runs[1][0] == decode_plainly(MODEL, prompts, new, **how)
    for name in ("nodes", "accept_lengths", "drafted", "accepted", "steps"):
        assert getattr(runs[0][1], name) == getattr(runs[1][1], name)


@settings(max_examples=40)
@given(prompts=prompts, seed=st.integers(0, 99), budget=st.integers(2, 24), do_sample=st.booleans())
def test_long_accepted_paths_change_nothing(prompts: list[list[int]], seed: int, budget: int, do_sample: bool) -> None:
    plain = decode_plainly(MODEL, prompts, 24, do_sample=do_sample)
    answers = {tuple(prompt): prompt + tokens for prompt, tokens in zip(prompts, plain, strict=True)}
    if len(answers) < len(prompts) and do_sample:
        return
    drafter = ReplayDrafter(lambda request: answers[request.prompt], VOCAB, seed)
    got, stats = decode(Decoder(MODEL, static(drafter=drafter, budget=budget)), prompts, 24, do_sample=do_sample)
    assert got == plain
    if budget > 12 and seed % 10 == 0:
        assert stats.mean_accepted_tokens > 1.5, "the replay is there to be accepted"


@given(prompts=prompts, do_sample=st.booleans(), budget=st.integers(2, 12))
@settings(max_examples=25)
def test_processors_with_a_memory_or_an_eye_on_rows(prompts: list[list[int]], do_sample: bool, budget: int) -> None:
    for step in (RowDependent, CountsCalls):
        rows = [prompts[0]] if step is CountsCalls else prompts
        how: dict[str, Any] = {"do_sample": do_sample}
        fast = Decoder(MODEL, static(drafter="racer-paper", budget=budget))
        slow = Decoder(MODEL, DecodeConfig(drafter="none"))
        assert (
            decode(fast, rows, 12, processors=[step()], **how)[0]
            == decode(slow, rows, 12, processors=[step()], **how)[0]
        )


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", [*NAMES, "phi3", "mixtral"])
def test_every_architecture_across_buckets(name: str, attention: str) -> None:
    model, how = tiny(name, attention), {"max_new_tokens": 36, "do_sample": False}
    config = static(drafter=HostileDrafter(5, TINY_VOCAB), budget=14, prefill_chunk=4)
    # in float64 transformers' eager attention makes NaN of left padding (the mask's minimum is -inf as float32)
    for inputs in [alone(0), alone(2)] if attention == "eager" else [batch()]:
        assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


@pytest.mark.usefixtures("small_buckets")
@pytest.mark.parametrize(
    ("name", "verifier", "drafter"),
    [(name, "inside", "racer-paper") for name in NAMES]
    + [("llama", "auto", "racer"), ("gemma3", "auto", "racer-paper"), ("gpt2", "inside", "none")],
)
def test_sampling_is_plain_sampling(name: str, verifier: str, drafter: str) -> None:
    model, how = tiny(name), {"max_new_tokens": 30, "do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 12}
    who: Any = BatchSampling() if verifier == "inside" else "auto"
    got = racer.generate(model, config=static(drafter=drafter, seed=11, budget=24, verifier=who), **batch(), **how)
    plain = DecodeConfig(drafter="none", seed=11, compile="off")
    assert torch.equal(got, racer.generate(model, config=plain, **batch(), **how))


def test_learned_positions_reach_their_very_end() -> None:
    model, inputs = tiny("gpt2"), alone(2)
    how = {"max_new_tokens": 64 - 11, "do_sample": False}
    config = static(drafter=HostileDrafter(2, TINY_VOCAB), budget=14)
    assert torch.equal(racer.generate(model, config=config, **inputs, **how), model.generate(**inputs, **how))


def test_storage_that_grows_in_the_middle_of_a_text() -> None:
    prompt = [[1, 2, 3]]
    decoder = Decoder(MODEL, static(drafter="racer-paper", budget=16))
    got, _ = decode(decoder, prompt, 1500)  # opened for 1024 new tokens
    assert got == decode(Decoder(MODEL, DecodeConfig(drafter="none", compile="off")), prompt, 1500)[0]


# -- hooks --------------------------------------------------------------------------------------------------------


def test_a_plugin_may_change_the_verdict() -> None:
    class OneAtATime:
        @hookimpl(wrapper=True)
        def racer_verify(self, view: StepView, tree: DraftTree, logits: torch.Tensor) -> Any:
            verdict = yield
            targets = logits.argmax(-1)
            assert logits.shape[:2] == tree.tokens.shape
            return Verdict(verdict.path[:, :1], torch.ones_like(verdict.length), targets[:, 0])

    rows, plain = [[1, 2, 3], [4]], decode_plainly(MODEL, [[1, 2, 3], [4]], 20)
    drafter = ReplayDrafter(lambda request: [*request.prompt, *plain[rows.index(list(request.prompt))]], VOCAB)
    got, stats = decode(Decoder(MODEL, static(drafter=drafter, budget=8, plugins=[OneAtATime()])), rows, 20)
    assert got == plain
    assert stats.mean_accepted_tokens == 1


def test_observers_see_the_same_steps_on_both_paths() -> None:
    class Diary:
        def __init__(self) -> None:
            self.lines: list[Any] = []

        @hookimpl
        def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: Any) -> None:
            host = verdict.host
            assert host is not None
            assert view.position.tolist() == list(view.places)
            assert torch.equal(tree.tokens, torch.from_numpy(host.tokens))
            assert torch.equal(verdict.path, torch.from_numpy(host.path))
            rows = [row for row, active in enumerate(view.active) if active]  # others stay on one path only
            assert (tree.score is None) == (tree.source is None), "the drafter gives both or none"
            drafted = tree.score is not None and [[round(x, 5) for x in row] for row in tree.score[rows].tolist()]
            arrays = [host.length, host.next_token, host.path, host.tokens, host.parent, host.count, host.source]
            arrays += [host.faults, host.top_ids, host.top_probs]
            roots, places = view.root[rows].tolist(), [view.places[row] for row in rows]
            self.lines.append([roots, places, drafted, [part[rows].tolist() for part in arrays]])

    diaries = []
    for compile in ("static", "off"):
        diary = Diary()
        drafter = racer.Racer(slots=2**10, history=2**10)
        config = DecodeConfig(drafter=drafter, budget=12, plugins=[diary], compile=compile)
        decode(Decoder(tiny("llama"), config), [[3, 4, 5, 3, 4], [6, 7]], 40)
        diaries.append(diary.lines)
    assert diaries[0] == diaries[1]


def test_malformed_trees_have_the_same_faults() -> None:
    class Broken(HostileDrafter):
        def draft(self, view: StepView, budget: int) -> DraftTree | None:
            rows = len(view.requests)
            tokens = torch.ones(rows, 3, dtype=torch.long)
            return DraftTree(tokens, torch.zeros_like(tokens), torch.full((rows,), 4))  # more nodes than columns

    for compile in ("static", "off"):
        decoder = Decoder(MODEL, DecodeConfig(drafter=Broken(0, VOCAB), budget=8, compile=compile))
        with pytest.warns(racer.guard.PluginWarning, match="node count is not between 1 and the number of columns"):
            got, _ = decode(decoder, [[1, 2], [1, 3]], 10)
        assert got == decode_plainly(MODEL, [[1, 2], [1, 3]], 10)


# -- shapes and addresses -----------------------------------------------------------------------------------------


@given(st.integers(1, 4096))
def test_trees_are_rounded_up_to_few_widths(nodes: int) -> None:
    bucket = nodes_bucket(nodes)
    assert nodes <= bucket == nodes_bucket(bucket)
    assert bucket in NODES or bucket % 32 == 0
    assert bucket - nodes < 32


@given(st.integers(1, 10**6))
def test_attention_lengths_are_few_and_waste_little(slots: int) -> None:
    bucket = slots_bucket(slots)
    assert slots <= bucket == slots_bucket(bucket)
    assert bucket % SLOTS == 0
    assert bucket - slots < max(SLOTS, slots / 4)


def test_the_number_of_attention_lengths_grows_with_the_logarithm() -> None:
    sizes = {slots_bucket(slots) for slots in range(1, 2**17)}
    assert len(sizes) <= 8 + 4 * math.log2(2**17 / 2048)


@given(draft_trees(max_nodes=9), st.integers(0, 4))
def test_a_tree_survives_its_sheet(tree: DraftTree, more: int) -> None:
    sheet = TreeBuffer(tree.batch, tree.width + more, torch.device("cpu"))
    sheet.fold(tree.padded(sheet.nodes))  # what was there before is gone
    sheet.inbox.copy_(sheet.fold(tree))
    drafted, kinds = sheet.drafted()
    root = tree.tokens[:, 0]
    assert not drafted.faults(root, 10**6, kinds).any()
    sheet.put(drafted.sound(torch.zeros_like(root), root), torch.zeros_like(root))
    shown = sheet.shown(tree)
    sound = tree.sound(torch.zeros_like(root), root)
    for name in ("tokens", "parent", "count", "source"):
        assert torch.equal(getattr(shown, name), getattr(sound, name))
    assert torch.allclose(shown.score.float(), sound.score)
    assert shown.sources == tree.sources


def stages(model: Any) -> list[Any]:
    return [lease.stage for lease in _shelves[model].idle.values()]


def test_storage_stays_where_it_is_from_step_to_step_and_from_call_to_call() -> None:
    model, places = toy_model(VOCAB), set()

    class Watch:
        @hookimpl
        def racer_step(self, view: StepView, tree: DraftTree, verdict: Verdict, stats: Any) -> None:
            places.add(tree.tokens.data_ptr() if stats.nodes else 0)

    config = static(drafter=HostileDrafter(1, VOCAB), budget=4, plugins=[Watch()])
    decode(Decoder(model, config), [[1, 2]], 60)
    (stage,) = stages(model)
    before = stage.cache.layer(0)[0].data_ptr()
    decode(Decoder(model, config), [[1, 2, 3]], 60)
    assert stages(model) == [stage]
    assert stage.cache.layer(0)[0].data_ptr() == before
    assert len(places) <= 2, "widths 1 and 4"


def test_what_an_earlier_call_left_does_no_harm() -> None:
    model, how = tiny("llama"), {"max_new_tokens": 20, "do_sample": False}
    config = static(drafter="racer-paper", budget=8)
    release(model)
    racer.generate(model, config=config, **alone(2), **how)
    (stage,) = stages(model)
    for store in stage.cache.stores:
        store.fill_(float("nan"))
    assert torch.equal(racer.generate(model, config=config, **alone(1), **how), model.generate(**alone(1), **how))
    assert stages(model) == [stage]
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
    (old,) = stages(model)
    before = fingerprint(model)
    model.adapter_scale = 0.5  # a setting that a graph would have taken for constant
    assert fingerprint(model) != before
    decode(Decoder(model, static(drafter="none")), [[1]], 5)
    assert stages(model) != [old]
    model.anchor.data.add_(1)  # contents are read anew by every replay
    after = fingerprint(model)
    model.anchor.data = model.anchor.data.clone()
    assert fingerprint(model) != after


def test_an_interrupted_call_gives_nothing_back() -> None:
    model = toy_model(VOCAB)

    def stop(row: int, token: int) -> None:
        raise KeyboardInterrupt

    decoder = Decoder(model, static(drafter="none"))
    from racer.engine.batch import BatchSpec
    from racer.hf.processors import ProcessorPipeline

    with pytest.raises(KeyboardInterrupt):
        decoder.decode(BatchSpec(requests=(Request(prompt=(1, 2)),), pipeline=ProcessorPipeline(), emit=stop))
    assert stages(model) == []
