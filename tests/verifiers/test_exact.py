"""Sampling as a distribution, greedy by the best tokens, and the walk down the tree by brute force."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from transformers import LlamaConfig, LlamaForCausalLM, TemperatureLogitsWarper

from racer import DecodeConfig, Decoder, Drafter, DraftTree, Greedy, StepView, hookimpl
from racer.engine.strategy_set import StrategySet
from racer.kernels import vocab_search
from racer.step.request import Request
from racer.testing import decode, draft_trees, toy_model
from racer.verifiers import Sampling
from racer.verifiers.base import last_of, longest_path
from racer.verifiers.exact import ExactVerifier, _walked
from support.step_view import make_view
from support.tiny_models import SMALL


@given(draft_trees(distinct_siblings=True), st.data())
def test_walking_down_a_tree_finds_its_longest_right_path(tree: DraftTree, data: st.DataObject) -> None:
    right = st.lists(st.integers(0, 4), min_size=tree.width, max_size=tree.width)
    targets = torch.tensor([data.draw(right) for _ in range(tree.batch)])
    width = data.draw(st.integers(1, tree.width))  # a head's tensors are not contiguous
    tree, targets = tree.head(width), targets[:, :width]
    verdict = _walked(tree, targets)
    path, length = longest_path(tree, tree.tokens == targets.gather(1, tree.parent.clamp(min=0)))
    assert torch.equal(verdict.length, length)
    for row, kept in enumerate(length.tolist()):
        assert verdict.path[row, :kept].tolist() == path[row, :kept].tolist()
        assert not verdict.path[row, kept:].any()
    assert torch.equal(verdict.next_token, targets.gather(1, last_of(path, length)[:, None])[:, 0])


@pytest.mark.parametrize("walk", [False, True])
def test_sampled_siblings_have_their_softmax_probabilities(walk: bool) -> None:
    """The shortfall of drawing each path on its own: siblings share a prefix, so their draws must too."""
    logits = torch.tensor([1.2, 0.9, 0.1, -0.5, -1.0])
    expected = logits.double().softmax(0).numpy()
    runs = 8000
    tokens = torch.tensor([[2, 0, 1, 3, 4]]).expand(runs, -1)  # root 2; every token but 2 is a sibling under it
    tree = DraftTree(tokens, torch.tensor([[-1, 0, 0, 0, 0]]).expand(runs, -1), torch.full((runs,), 5))
    route = {} if walk else {"targets": ExactVerifier.targets}  # as on an accelerator
    verifier = type("Forced", (Sampling,), {"walks": lambda self, view: walk, **route})()
    view = make_view(2, list(range(runs)), 5)
    verdict = verifier.verify(view, tree, logits.expand(runs, 5, 5))
    second = tree.tokens.gather(1, verdict.path[:, 1:2])[:, 0]
    first = torch.where(verdict.length == 2, second, verdict.next_token)
    observed = torch.bincount(first, minlength=5).numpy()
    assert stats.chisquare(observed, expected * runs).pvalue > 1e-4
    accepted = float((verdict.length == 2).double().mean())
    assert abs(accepted - (1 - expected[2])) < 0.02, "as often accepted as a deterministic draft can be"
    follow = torch.bincount(verdict.next_token[verdict.length == 2], minlength=5).numpy()
    assert stats.chisquare(follow, expected * follow.sum()).pvalue > 1e-4, "the bonus token is independent of the draft"


def test_sampled_text_has_the_models_distribution() -> None:
    """Whole decoding, tree and all: frequencies of the first two tokens against the product of softmaxes."""
    model = toy_model(vocab_size=3, sharpness=1.0)

    class Everything(Drafter):
        def grow(self, request: Request, tree: Any) -> None:
            for node in range(4):
                for token in range(3):
                    tree.add(node, token)

    decoder, runs = Decoder(model, DecodeConfig(drafter=Everything(), budget=13)), 3000
    rows, _ = decode(decoder, [[1, 2]] * runs, 2, do_sample=True, seeds=range(runs))
    observed = torch.bincount(torch.tensor([3 * a + b for a, b in rows]), minlength=9).numpy()
    first = model(torch.tensor([[1, 2]])).logits[0, -1].softmax(0)
    second = torch.stack([model(torch.tensor([[1, 2, token]])).logits[0, -1].softmax(0) for token in range(3)])
    expected = (first[:, None] * second).flatten().numpy()
    assert stats.chisquare(observed, expected * runs).pvalue > 1e-4


@pytest.mark.parametrize("processors", [[], [TemperatureLogitsWarper(0.5)]])
def test_greedy_believes_what_was_found_of_these_very_logits_and_no_others(processors: list[Any]) -> None:
    view = attrs.evolve(make_view(2, [0], 5, processors), do_sample=False)
    tree = DraftTree(torch.tensor([[2, 1, 3]]), torch.tensor([[-1, 0, 0]]), torch.tensor([3]))
    logits, found = torch.eye(5)[[3, 4, 4]][None], torch.tensor([[1, 2, 2]])
    view = attrs.evolve(view, verifier=Greedy())
    strategies = StrategySet(DecodeConfig(drafter="none"))
    assert strategies.verify(view, tree, logits, found).next_token.tolist() == ([4] if processors else [2])
    assert strategies.verify(view, tree, logits).next_token.tolist() == [4]


class Sevens(Greedy):
    """Picks what it likes."""

    def pick(self, scores: torch.Tensor, seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        return torch.full((len(scores),), 7)


class Edits:
    """Changes the logits before the verifier sees them."""

    @hookimpl(wrapper=True)
    def racer_verify(self, view: StepView, tree: DraftTree, logits: torch.Tensor) -> Any:
        logits[..., 7] = 100
        return (yield)


@pytest.mark.parametrize("how", [{"verifier": Sevens()}, {"plugins": (Edits(),)}])
@pytest.mark.parametrize("mode", ["off", "static"])
def test_nobody_is_passed_by_because_the_best_tokens_are_known(how: dict[str, Any], mode: str) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL | {"vocab_size": 1024})).eval()
    for drafter in ("none", "racer"):
        config = DecodeConfig(drafter=drafter, budget=8, compile=mode, **how)
        tokens, _ = decode(Decoder(model, config), [[5, 6, 7]], 12)
        assert tokens == [[7] * 12]


def test_a_step_searches_its_logits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SMALL | {"vocab_size": 1024})).eval()
    prompts, searched = [[5, 6, 7], [9, 9]], []
    plain, _ = decode(Decoder(model, DecodeConfig(drafter="none")), prompts, 12)
    monkeypatch.setattr(vocab_search, "best", lambda scores: searched.append(len(scores)) or scores.argmax(-1))
    tokens, stats = decode(Decoder(model, DecodeConfig(drafter="racer", budget=8)), prompts, 12)
    assert tokens == plain
    assert stats.steps > 1
    assert searched == [2], "the prompts' last logits; of the steps, what the drafter is shown has been found anyway"
