"""Chains decode what plain decoding does, whatever is drafted: from states that cannot be taken back token by token."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM

import racer
from racer import DecodeConfig
from racer.core.chain_runner import ChainRunner
from racer.core.prompt_pieces import PreparedCall
from racer.core.support import probe
from racer.engine.chain_executor import ChainExecutor
from racer.step.best_path import best_path
from racer.step.cost_curve import CostCurve
from racer.step.draft_tree import DraftTree
from racer.step.stats import Stopwatch
from racer.step.tree_builder import TreeBuilder
from racer.strategies.base import Drafter
from racer.testing.trees import HostileDrafter, draft_trees
from support.chain_models import CHAINS, chain_model
from support.versions import RECENT, recent

VOCAB = 60
NEW = 24
PADDED = {
    "input_ids": torch.tensor([[0, 0, 5, 6, 7, 8, 5], [9, 8, 7, 6, 5, 9, 8]]),
    "attention_mask": torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1] * 7]),
}
ALONE = {"input_ids": torch.tensor([[5, 6, 7, 8, 5, 6, 7]]), "attention_mask": torch.ones(1, 7, dtype=torch.long)}
GREEDY = {"max_new_tokens": NEW, "do_sample": False, "return_dict_in_generate": True}
SAMPLED = GREEDY | {"do_sample": True, "temperature": 1.3, "top_p": 0.95}
ALWAYS = ("qwen3.5", "falcon-h1", "bloom")
"""Those that every run tries in every way."""
_ANEW = recent("this family starts anew after a state, and decodes plainly")
_OLD = ("qwen3.5", "bloom")
ALWAYS_HERE = [name if name in _OLD else pytest.param(name, marks=_ANEW) for name in ALWAYS]
FAMILIES = [
    *ALWAYS_HERE,
    *(pytest.param(name, marks=[pytest.mark.slow, _ANEW]) for name in CHAINS if name not in ALWAYS),
]


model = cache(chain_model)


class RightThenWrong(Drafter):
    """Chains that are right for some tokens, and then wrong for some."""

    name = "right then wrong"

    def __init__(self, answer: Callable[[Any], list[int]]) -> None:
        self._answer, self._random = answer, random.Random(3)

    def grow(self, request: Any, tree: TreeBuilder) -> None:
        node: int | None = 0
        right = self._answer(request)[len(request.tokens) :][: self._random.randint(0, 5)]
        for token in right + [self._random.randrange(VOCAB) for _ in range(self._random.randint(0, 2))]:
            if (node := tree.add(node, token)) is None:
                return


@cache
def plain(name: str, batch: bool) -> list[list[int]]:
    """Texts of plain decoding, padding left out."""
    inputs = PADDED if batch else ALONE
    texts = model(name).generate(**inputs, **GREEDY).sequences
    masks = inputs["attention_mask"].tolist()
    return [row[mask.count(0) :] for row, mask in zip(texts.tolist(), masks, strict=True)]


def drafters(name: str, batch: bool) -> list[Any]:
    answers = plain(name, batch)

    def answer(request: Any) -> list[int]:
        return next(text for text in answers if tuple(text[: len(request.prompt)]) == tuple(request.prompt))

    return [RightThenWrong(answer), HostileDrafter(5, VOCAB), "racer-paper"]


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_any_draft_gives_plain_decodings_text(name: str, batch: bool) -> None:
    lm, inputs = model(name), PADDED if batch else ALONE
    assert probe(lm).way == "chain", probe(lm).reason
    assert not probe(lm).padding_reason
    expected = lm.generate(**inputs, **GREEDY).sequences
    for drafter in drafters(name, batch):
        out = racer.generate(lm, **inputs, **GREEDY, config=DecodeConfig(drafter=drafter, budget=8))
        assert torch.equal(out.sequences, expected), drafter
        if isinstance(drafter, RightThenWrong):
            assert out.racer_stats.mean_accepted_tokens > 1.5


@pytest.mark.parametrize("name", FAMILIES)
def test_sampled_text_does_not_depend_on_the_draft(name: str) -> None:
    lm = model(name)
    texts = [
        racer.generate(lm, **PADDED, **SAMPLED, config=DecodeConfig(drafter=drafter, seed=11, budget=8)).sequences
        for drafter in ("none", "racer-paper", HostileDrafter(1, VOCAB))
    ]
    assert all(torch.equal(text, texts[0]) for text in texts)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_may_end_apart(name: str) -> None:
    lm = model(name)
    ends = {"eos_token_id": [plain(name, True)[0][10], plain(name, True)[1][16]], "pad_token_id": 2}
    expected = lm.generate(**PADDED, **GREEDY, **ends).sequences
    for drafter in drafters(name, True):
        out = racer.generate(lm, **PADDED, **GREEDY, **ends, config=DecodeConfig(drafter=drafter, budget=8))
        assert torch.equal(out.sequences, expected), drafter


@pytest.mark.parametrize("name", ALWAYS_HERE)
def test_pad_tokens_that_a_row_may_say_itself_are_not_taken_for_its_text(name: str) -> None:
    """Rows with short drafts are filled up with pad tokens, which may be what comes next, but nobody has scored it."""
    lm, texts = model(name), plain(name, True)
    for pad in sorted({*texts[0][5:], *texts[1][7:]})[:8]:
        how = GREEDY | {"pad_token_id": pad}
        expected = lm.generate(**PADDED, **how).sequences
        for drafter in (drafters(name, True)[0], HostileDrafter(pad, VOCAB)):
            out = racer.generate(lm, **PADDED, **how, config=DecodeConfig(drafter=drafter, budget=8))
            assert torch.equal(out.sequences, expected)


@pytest.mark.parametrize("name", ALWAYS_HERE)
def test_scores_are_kept(name: str) -> None:
    lm, wanted = model(name), {"output_scores": True, "output_logits": True}
    expected = lm.generate(**ALONE, **GREEDY, **wanted)
    drafter = drafters(name, False)[0]
    out = racer.generate(lm, **ALONE, **GREEDY, **wanted, config=DecodeConfig(drafter=drafter, budget=8))
    assert torch.allclose(torch.stack(out.logits), torch.stack(expected.logits), atol=1e-3)
    assert torch.allclose(torch.stack(out.scores), torch.stack(expected.scores), atol=1e-3)


@pytest.mark.parametrize("name", ALWAYS_HERE)
def test_the_cache_that_comes_back_is_plain_decodings(name: str) -> None:
    lm, drafter = model(name), drafters(name, True)[0]
    ends = {"eos_token_id": [plain(name, True)[0][10]], "pad_token_id": 2}
    expected = lm.generate(**PADDED, **GREEDY, **ends)
    out = racer.generate(lm, **PADDED, **GREEDY, **ends, config=DecodeConfig(drafter=drafter, budget=8))
    field = "cache" if "cache" in expected else "past_key_values"
    ours, theirs = getattr(out, field), getattr(expected, field)
    for mine, other in zip(ours.layers, theirs.layers, strict=True):
        for part in ("keys", "values"):
            if isinstance(getattr(other, part, None), torch.Tensor):
                assert torch.allclose(getattr(mine, part), getattr(other, part), atol=1e-3)
        for part in ("conv_states", "recurrent_states"):
            states = getattr(other, part, None)
            for number, state in states.items() if isinstance(states, dict) else ():
                if state is not None:
                    assert torch.allclose(getattr(mine, part)[number], state, atol=1e-3)


@pytest.mark.parametrize("name", ALWAYS_HERE)
def test_criteria_processors_and_streamers_are_as_ever(name: str) -> None:
    class Heard:
        def __init__(self) -> None:
            self.tokens: list[list[int]] = []

        def put(self, value: torch.Tensor) -> None:
            self.tokens.append(value.flatten().tolist())

        def end(self) -> None:
            self.tokens.append([])

    lm, how = model(name), {"max_new_tokens": NEW, "do_sample": False, "repetition_penalty": 1.3}
    heard, expected = Heard(), Heard()
    text = lm.generate(**ALONE, **how, streamer=expected)
    drafter = HostileDrafter(2, VOCAB)
    got = racer.generate(lm, **ALONE, **how, streamer=heard, config=DecodeConfig(drafter=drafter, budget=8))
    assert torch.equal(got, text)
    assert heard.tokens == expected.tokens


def test_a_cache_that_has_seen_tokens_is_gone_on_from_plainly() -> None:
    lm = model("qwen3.5")
    first = lm.generate(**ALONE, **GREEDY)
    field = "cache" if "cache" in first else "past_key_values"
    ids = torch.cat([first.sequences, torch.tensor([[4, 5]])], dim=1)
    how = {"input_ids": ids, "max_new_tokens": 6, "do_sample": False}
    expected = lm.generate(**how, **{field: copy.deepcopy(getattr(first, field))})
    with pytest.warns(racer.PlainDecodingWarning, match="has seen tokens"):
        got = racer.generate(lm, **how, **{field: copy.deepcopy(getattr(first, field))})
    assert torch.equal(got, expected)


def test_long_carries_are_committed() -> None:
    """Where every draft is wrong, the tokens that are carried do not grow without end."""

    class Wrong(HostileDrafter):
        def draft(self, view: Any, budget: int) -> DraftTree:
            tokens = torch.cat([view.root[:, None], (view.root[:, None] + 1) % VOCAB], dim=1)
            return DraftTree.chain(tokens, torch.full_like(view.root, 2))

    lm, how = model("qwen3.5"), GREEDY | {"max_new_tokens": 60}
    expected = lm.generate(**PADDED, **how).sequences
    out = racer.generate(lm, **PADDED, **how, config=DecodeConfig(drafter=Wrong(0, VOCAB), budget=8))
    assert torch.equal(out.sequences, expected)


def test_a_twin_that_fails_half_way_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, how = chain_model("qwen3.5"), GREEDY | {"do_sample": False}
    expected = lm.generate(**ALONE, **how).sequences
    config = DecodeConfig(drafter="racer-paper", pack=True)
    assert torch.equal(racer.generate(lm, **ALONE, **how, config=config).sequences, expected)  # it is tried before
    failed = []

    def fails(self: Any, *_: Any) -> Any:
        failed.append(self)
        if len(failed) == 5:
            raise RuntimeError("no such kernel")
        return torch.nn.Linear.forward(self, *_)

    monkeypatch.setattr("racer.core.fast_linear.FastLinear.forward", fails)
    with pytest.warns(UserWarning, match="no such kernel"):
        out = racer.generate(lm, **ALONE, **how, config=config)
    assert len(failed) == 5, "and it is not run again"
    assert torch.equal(out.sequences, expected)


@recent("convolutions start anew, and decode plainly")
def test_attached_models_are_decoded_by_chains_too() -> None:
    lm = chain_model("lfm2")
    expected = lm.generate(**PADDED, **GREEDY).sequences
    racer.attach(lm)
    assert torch.equal(lm.generate(**PADDED, **GREEDY).sequences, expected)
    racer.detach(lm)


@given(draft_trees(max_nodes=8))
def test_the_best_path_is_the_best_of_all_paths(tree: DraftTree) -> None:
    chain = best_path(tree, tree.width)
    assert tree.score is not None
    assert chain.score is not None
    for row in range(tree.batch):
        count = int(tree.count[row])
        worth = []
        for leaf in range(count):
            path, node = [leaf], leaf
            while node:
                node = int(tree.parent[row, node])
                path.append(node)
            worth.append((sum(float(tree.score[row, node]) for node in path if node), path[::-1]))
        best, path = max(worth, key=lambda found: found[0])
        length = int(chain.count[row])
        assert float(chain.score[row, 1:length].sum()) == pytest.approx(best, abs=1e-5)
        assert chain.tokens[row, 0] == tree.tokens[row, 0]
        assert chain.parent[row, :length].tolist() == list(range(-1, length - 1))


@given(st.integers(1, 9), draft_trees(max_nodes=8))
def test_a_best_path_without_scores_goes_by_first_children(width: int, tree: DraftTree) -> None:
    bare = DraftTree(tree.tokens, tree.parent, tree.count)
    chain = best_path(bare, width)
    for row in range(tree.batch):
        node, path, count = 0, [0], int(tree.count[row])
        while children := [child for child in range(node + 1, count) if int(tree.parent[row, child]) == node]:
            path.append(node := children[0])
        wanted = [int(tree.tokens[row, node]) for node in path[:width]]
        assert chain.tokens[row, : int(chain.count[row])].tolist() == wanted


def test_costs_behind_carried_tokens_are_those_of_longer_passes() -> None:
    curve = CostCurve()
    for nodes, cost in ((1, 10.0), (4, 13.0), (9, 20.0)):
        for _ in range(3):
            curve.learn(nodes, cost)
    behind = curve.behind(3)
    assert behind(1) == curve(4)
    assert behind(6) == curve(9)
    behind.learn(6, 20.0)
    assert curve.samples(9) == 4
    assert curve.behind(0) is curve


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_class_that_starts_anew_after_a_state_is_found_out_however_little_its_states_say(dtype: torch.dtype) -> None:
    """As it is made, this one's states change its logits less than rounding is allowed to."""
    config = MambaConfig(vocab_size=50, hidden_size=16, state_size=8, num_hidden_layers=2, time_step_rank=4)
    found = probe(MambaForCausalLM(config).to(dtype).eval())
    assert found.way == "plain"
    assert not RECENT or "small model of its class" in found.reason


@pytest.mark.parametrize(("states", "widths"), [(True, [1, 1, 1]), (False, [1, 3, 4])])
def test_a_token_that_must_be_the_last_of_its_pass_ends_a_chain(states: bool, widths: list[int]) -> None:
    """At the root, in the second row's middle, and nowhere."""
    lm, alone = chain_model("bloom"), 9
    found = probe(lm).chain
    assert found is not None
    call = PreparedCall(ALONE["input_ids"], None, {})
    runner = ChainRunner(lm, attrs.evolve(found, alone=alone, states=states), call)
    executor = ChainExecutor(runner, runner.open([0], 0), Stopwatch(lm.device), 100)
    rows = [[[9, 5, 6, 7], [4, 5, 6, 7]], [[4, 5, 6, 7], [5, 6, 7, 9]], [[4, 5, 6, 7], [5, 6, 7, 8]]]
    chains = [DraftTree.chain(torch.tensor(tokens), torch.tensor([4, 4])) for tokens in rows]
    assert [executor._alone(chain).width for chain in chains] == widths
