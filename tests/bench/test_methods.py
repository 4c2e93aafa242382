"""What a method's name means, and which names are refused."""

from __future__ import annotations

from typing import Any

import pytest

from racer.bench.methods import Method, parse_methods
from racer.errors import ConfigError, UnknownStrategy


def parse(*names: str, **given: Any) -> tuple[Method, ...]:
    return parse_methods(names, **{"budget": "auto", "sample": False, "batch_size": 1, **given})


def test_the_baselines_come_first_and_once() -> None:
    names = [method.name for method in parse("racer", "hf", "logits")]
    assert names == ["none", "hf", "racer", "logits"]


def test_a_name_says_drafter_budget_and_verifier() -> None:
    *_, method = parse("racer-paper@16/greedy")
    assert (method.drafter, method.budget, method.verifier) == ("racer-paper", 16, "greedy")
    assert method.config().budget == 16
    *_, method = parse("logits@auto", budget=8)
    assert (method.drafter, method.budget, method.verifier) == ("logits", "auto", "auto")
    *_, method = parse("logits", budget=8)
    assert method.budget == 8


def test_plain_decoding_scores_one_node_and_transformers_none() -> None:
    none, hf, lookup = parse("hf-prompt-lookup", budget=64)
    assert none.config().budget == 1
    assert (hf.drafter, hf.lookup) == (None, 0)
    assert lookup.lookup == 10
    with pytest.raises(ConfigError, match="decoded by transformers"):
        hf.config()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("racer@", "expected DRAFTER"),
        ("@8", "expected DRAFTER"),
        ("racer/", "expected DRAFTER"),
        ("", "expected DRAFTER"),
        ("racer@0", "budget must be"),
        ("racer/sampling", "give --temperature above 0"),
    ],
)
def test_what_is_not_understood_is_refused(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(name)


@pytest.mark.parametrize("name", ["racr", "racer@atuo", "racer/gredy"])
def test_a_misspelt_strategy_is_refused_with_a_hint(name: str) -> None:
    with pytest.raises(UnknownStrategy, match="did you mean"):
        parse(name)


def test_an_unknown_method_is_told_of_the_peers() -> None:
    with pytest.raises(UnknownStrategy, match="hf-prompt-lookup"):
        parse("hf-lookup")


def test_contradictions_are_refused() -> None:
    with pytest.raises(ConfigError, match="named twice"):
        parse("racer", "racer")
    with pytest.raises(ConfigError, match="one prompt at a time"):
        parse("hf-prompt-lookup", batch_size=2)
    with pytest.raises(ConfigError, match="drop --temperature"):
        parse("racer/greedy", sample=True)
