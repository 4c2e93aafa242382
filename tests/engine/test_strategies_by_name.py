"""Decoding with what a configuration may name: parameters, objects that inherit from nothing, budgets as objects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from racer import DecodeConfig, Decoder, DraftTree, NoDraft, Recycling
from racer.budgets import Fixed
from racer.cli import main
from racer.engine.strategy_set import StrategySet
from racer.errors import ConfigError
from racer.testing import decode, decode_plainly, toy_model

MODEL = toy_model()
PROMPTS = [[1, 2, 3, 1, 2], [4, 5]]
PLAIN = decode_plainly(MODEL, PROMPTS, 20)

Capture = pytest.CaptureFixture[str]


def test_parameters_reach_the_decoder() -> None:
    config = DecodeConfig(drafter={"name": "logits", "top_k": 3}, verifier={"name": "typical", "delta": 0.2}, budget=6)
    strategies = StrategySet(config)
    assert strategies.needs.top_k == 3
    verifier, name = strategies.verifier_for(False)
    assert (verifier.delta, name) == (0.2, "typical")
    assert strategies.verifier_for(False)[0] is verifier, "it is made once"
    got, stats = decode(Decoder(MODEL, DecodeConfig(drafter={"name": "logits", "top_k": 3}, budget=6)), PROMPTS, 20)
    assert got == PLAIN
    assert stats.drafter == "logits"


def test_unknown_parameters_are_told_when_a_decoder_is_made() -> None:
    with pytest.raises(ConfigError, match="unknown parameter 'topk' of drafter 'logits': did you mean 'top_k'"):
        Decoder(MODEL, DecodeConfig(drafter={"name": "logits", "topk": 3}))


class Guesses:
    """A drafter that inherits from nothing: two tokens in a row, whatever comes."""

    def __init__(self) -> None:
        self.observed = 0

    def draft(self, view: Any, budget: int) -> DraftTree:
        tokens = torch.stack([view.root.cpu(), view.root.cpu()], 1)
        return DraftTree.chain(tokens, torch.full((len(view.requests),), 2))

    def observe(self, view: Any, tree: DraftTree, verdict: Any) -> None:
        self.observed += 1


class Three:
    """A budget that inherits from nothing."""

    def nodes(self, view: Any) -> int:
        return 3


def test_draft_and_observe_are_enough_for_a_drafter_and_nodes_for_a_budget() -> None:
    drafter, budget = Guesses(), Three()
    got, stats = decode(Decoder(MODEL, DecodeConfig(drafter=drafter, budget=budget)), PROMPTS, 20)  # type: ignore[arg-type]
    assert got == PLAIN
    assert drafter.observed
    assert stats.drafter == "Guesses"
    assert max(stats.nodes) == 2


def test_a_budget_that_only_says_how_many_keeps_drafting_on_the_device() -> None:
    got, stats = decode(
        Decoder(MODEL, DecodeConfig(drafter=Recycling(3), budget=Three(), compile="static")), PROMPTS, 20
    )  # type: ignore[arg-type]
    assert got == PLAIN
    assert max(stats.nodes) == 3


def test_budgets_as_objects() -> None:
    got, stats = decode(Decoder(MODEL, DecodeConfig(drafter=Recycling(3), budget=Fixed(5))), PROMPTS, 20)
    assert got == PLAIN
    assert max(stats.nodes) == 5
    assert StrategySet(DecodeConfig(drafter=NoDraft(), budget=Fixed(5))).drafter_name == "none"


def test_on_the_command_line(folder: Path, capsys: Capture) -> None:
    told = [
        "generate",
        "--json",
        "--model",
        str(folder),
        "--dtype",
        "fp32",
        "--device",
        "cpu",
        "--max-new-tokens",
        "24",
    ]
    texts = []
    for drafter in ("none", "retrieval:ngram=3,max_nodes=500"):
        assert main([*told, "--drafter", drafter, "The quick brown fox"]) == 0
        data = json.loads(capsys.readouterr().out)
        texts.append(data["text"])
    assert texts[0] == texts[1]
    assert data["drafter"] == "retrieval"
