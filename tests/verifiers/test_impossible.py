"""Scores of which no token can be drawn: an error where plain decoding has one, and nowhere else."""

from __future__ import annotations

import functools
import math
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, LogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

import racer
from racer import DecodeConfig, Drafter, DraftTree, Sampling
from racer.hf.processors import ProcessorPipeline
from racer.step.request import Request
from racer.step.verdict import NO_TOKEN
from racer.step.view import Prefix
from racer.testing import ReplayDrafter, toy_model
from racer.verifiers.exact import ExactVerifier
from support.step_view import make_view
from support.tiny_models import SMALL
from support.toy_batch import IDS, MODEL, VOCAB

NAN, INF = math.nan, math.inf
ROWS: dict[str, list[float]] = {
    "all -inf": [-INF] * 8,
    "all nan": [NAN] * 8,
    "one nan": [0.0, 1.0, NAN, 3.0, 0.5, 0.0, 0.0, -INF],
    "one inf": [0.0, 1.0, INF, 3.0, 0.5, 0.0, 0.0, -INF],
}
WARPERS: list[Any] = [[], [TopKLogitsWarper(3)], [TopPLogitsWarper(0.7)], [TopKLogitsWarper(5), TopPLogitsWarper(0.9)]]


class Ignores(LogitsProcessor):
    """Takes the route of those that read prefixes."""

    racer_row_wise = True

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("warpers", WARPERS)
def test_every_route_says_that_there_is_none(name: str, warpers: list[Any]) -> None:
    good = torch.tensor([0.0, 5.0, 2.0, -INF, 0.0, 0.0, 1.0, 0.0])
    logits = torch.stack([torch.tensor(ROWS[name]), good])
    seeds, positions = torch.tensor([1, 2]), torch.tensor([7, 8])
    prefixes = [Prefix(row, Request(prompt=(1, 2))) for row in range(2)]
    placed = ProcessorPipeline([*warpers, Ignores()], 2).at(prefixes)
    plain = ProcessorPipeline(warpers, 2)
    sampling = Sampling()
    ways = [
        plain.draw(logits, seeds, positions),
        placed.draw(logits, seeds, positions),
        ExactVerifier.targets(sampling, plain, logits, seeds, positions),
        ExactVerifier.targets(sampling, placed, logits, seeds, positions),
    ]
    for tokens in ways:
        assert tokens.tolist() == [NO_TOKEN, ways[0][1].item()]
    assert ways[0][1] >= 0
    scores = logits[:1].clone()
    for step in warpers:
        scores = step(None, scores)
    with pytest.raises(RuntimeError):  # as plain decoding has it
        torch.multinomial(scores.softmax(-1), 1)


class Breaks(LogitsProcessor):
    """No token is possible behind a certain one, or from a certain length on."""

    racer_row_wise = True

    def __init__(self, token: int = -1, length: int = 10**9) -> None:
        self.token, self.length = token, length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        broken = (input_ids[:, -1:] == self.token) | (input_ids.shape[1] >= self.length)
        return torch.where(broken, -INF, scores)


class AllTokens(Drafter):
    def grow(self, request: Request, tree: Any) -> None:
        for token in range(VOCAB):
            tree.add(0, token)


@pytest.mark.parametrize("drafter", ["none", "logits", AllTokens()])
@pytest.mark.parametrize("rows", [1, 2])
def test_generate_raises_where_the_text_gets_there(drafter: Any, rows: int) -> None:
    how = {"input_ids": IDS[:rows], "do_sample": True, "pad_token_id": 0, "attention_mask": torch.ones_like(IDS[:rows])}
    config = DecodeConfig(drafter=drafter, budget=16, seed=0)
    for length in (4, 9):
        breaks = Breaks(length=length)
        with pytest.raises(RuntimeError, match=r"probability tensor"):
            racer.generate(MODEL, config=config, max_new_tokens=20, logits_processor=[breaks], **how)
        with pytest.raises(RuntimeError):
            MODEL.generate(max_new_tokens=20, logits_processor=[breaks], **how)
        if length > 4:
            out = racer.generate(MODEL, config=config, max_new_tokens=length - 4, logits_processor=[breaks], **how)
            assert out.shape[1] == length


@pytest.mark.parametrize("walk", [True, False])
def test_guesses_that_are_not_taken_may_be_impossible(walk: bool) -> None:
    """Token 5 ends the text, and nothing is possible behind it; it is guessed all the time."""
    route = {} if walk else {"targets": ExactVerifier.targets}  # as on an accelerator
    verifier = type("Forced", (Sampling,), {"walks": lambda self, view: walk, **route})()
    tree = DraftTree(torch.tensor([[2, 5, 1, 3]]), torch.tensor([[-1, 0, 0, 2]]), torch.tensor([4]))
    logits = torch.zeros(1, 4, 8)
    logits[0, 0, 1] = logits[0, 2, 6] = 60.0
    logits[0, 1] = logits[0, 3] = NAN
    verdict = verifier.verify(make_view(2, [0], 8), tree, logits)
    assert (verdict.length.tolist(), verdict.next_token.tolist()) == ([2], [6])
    logits[0, 2, 6], logits[0, 2, 3] = 0.0, 60.0
    verdict = verifier.verify(make_view(2, [0], 8), tree, logits)
    assert (verdict.length.tolist(), verdict.next_token.tolist()) == ([3], [NO_TOKEN])


@pytest.mark.parametrize("compile_", ["off", "static"])
@pytest.mark.parametrize("walks", [True, False])
def test_what_would_come_behind_the_end_may_be_impossible(walks: bool, compile_: str) -> None:
    """In batches over all nodes the path goes on behind a stop token, to a place that plain decoding never sees."""
    route = {} if walks else {"targets": ExactVerifier.targets}
    verifier = type("Forced", (Sampling,), {"walks": lambda self, view: walks, **route})()
    model = toy_model(VOCAB)
    how = {"input_ids": IDS, "do_sample": True, "pad_token_id": 0, "eos_token_id": 7, "max_new_tokens": 60}
    how["attention_mask"] = torch.ones_like(IDS)
    _break(model, lambda ids, logits: logits.masked_fill_((ids == 7)[..., None], NAN), how)
    plain = racer.generate(model, config=DecodeConfig(drafter="none", seed=1, verifier=verifier), **how)
    assert (plain == 7).any(1).all(), "both rows end there"
    answers = {tuple(prompt): row for prompt, row in zip(IDS.tolist(), plain.tolist(), strict=True)}
    drafter = ReplayDrafter(lambda request: answers[request.prompt], VOCAB, 0)
    config = DecodeConfig(drafter=drafter, seed=1, budget=16, verifier=verifier, compile=compile_)
    assert torch.equal(racer.generate(model, config=config, **how), plain)


def _break(model: Any, spoil: Any, how: dict[str, Any]) -> None:
    """From now on ``spoil(ids, logits)`` is done to all logits; what RACER finds out of a model, it found before."""
    forward, on = model.forward, []

    @functools.wraps(forward)
    def broken(input_ids: torch.Tensor, **kwargs: Any) -> Any:
        output = forward(input_ids=input_ids, **kwargs)
        if on:
            spoil(input_ids[:, -output.logits.shape[1] :], output.logits)
        return output

    model.forward = broken
    racer.generate(model, **how)
    on.append(True)


@pytest.mark.parametrize("drafter", ["none", "racer"])
@pytest.mark.parametrize("bad", [NAN, INF])
@pytest.mark.parametrize("rows", [1, 2])
def test_greedy_takes_what_argmax_takes(drafter: str, bad: float, rows: int) -> None:
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL | {"vocab_size": 1024})).eval()
    how = {"input_ids": IDS[:rows] + 7, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}

    def spoil(ids: torch.Tensor, logits: torch.Tensor) -> None:
        logits[..., 700] = bad
        logits[..., 900] = NAN

    _break(model, spoil, how)
    got = racer.generate(model, config=DecodeConfig(drafter=drafter, budget=8), **how)
    assert torch.equal(got, model.generate(**how))
    assert got[0, 4:].tolist() == [900 if bad == INF else 700] * 6
