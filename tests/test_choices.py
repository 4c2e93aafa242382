"""Names with parameters: written in a configuration, checked where the strategy is made, shown by ``racer plugins``."""

from __future__ import annotations

import copy
import inspect
import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

import racer
from racer import DecodeConfig, Greedy, Racer, Retrieval, StateError, hookimpl
from racer.budgets import Auto, Fixed
from racer.cli import main
from racer.cli.decoding import Plan
from racer.cli.options import Options
from racer.cli.options import drafter as typed_drafter
from racer.config import Choice
from racer.discovery import Plugins, plugins
from racer.errors import ConfigError, PluginError
from racer.loading import models
from racer.verifiers import Typical

Capture = pytest.CaptureFixture[str]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
parameters = st.dictionaries(texts.filter(lambda key: key != "name"), values, max_size=3)
choices = st.builds(lambda name, options: {"name": name, **options}, st.sampled_from(["a", "суффикс"]), parameters)
configs = st.builds(DecodeConfig, drafter=choices, verifier=choices, budget=choices)


# -- in a configuration -----------------------------------------------------------------------------------------------


@given(configs)
def test_dict_round_trip(config: DecodeConfig) -> None:
    again = DecodeConfig.from_dict(config.to_dict())
    assert again == config
    assert hash(again) == hash(config)
    assert json.loads(json.dumps(config.to_dict(), allow_nan=True)).keys() == config.to_dict().keys()


@given(config=configs)
def test_toml_round_trip(config: DecodeConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("toml") / "racer.toml"
    config.to_toml(path)
    assert DecodeConfig.from_toml(path) == config


def test_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "racer.toml"
    path.write_text('drafter = {name = "retrieval", ngram = 6}\nbudget = {name = "auto"}\n', encoding="utf-8")
    config = DecodeConfig.from_toml(path)
    assert config == DecodeConfig(drafter={"name": "retrieval", "ngram": 6})
    assert config.drafter == Choice("retrieval", {"ngram": 6})
    assert (config.budget, config.verifier) == ("auto", "auto"), "a name without parameters is a name"
    assert config.to_dict() == {"drafter": {"name": "retrieval", "ngram": 6}}


def test_choices_are_equal_by_value_and_type() -> None:
    one = DecodeConfig(drafter={"name": "a", "x": 1, "y": (2, 3)})
    assert one == DecodeConfig(drafter=Choice("a", {"y": [2, 3], "x": 1}))
    assert len({one, DecodeConfig(drafter={"y": [2, 3], "x": 1, "name": "a"})}) == 1
    others: list[dict[str, Any]] = [{"x": True}, {"x": 1.0}, {"x": "1"}, {"x": 2}, {"z": 1}]
    assert len({DecodeConfig(drafter={"name": "a", **other}) for other in [{"x": 1}, *others]}) == 6
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one


def test_choices_are_nobody_elses() -> None:
    given: dict[str, Any] = {"name": "a", "parts": [1]}
    config = DecodeConfig(drafter=given)
    before = hash(config)
    given["parts"].append(2)
    config.to_dict()["drafter"]["parts"].append(3)
    assert config.to_dict() == {"drafter": {"name": "a", "parts": [1]}}
    assert hash(config) == before


@pytest.mark.parametrize("field", ["drafter", "verifier", "budget"])
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"ngram": 6}, r"a strategy with parameters is \{'name': ..., and its parameters\}, not \{'ngram': 6\}"),
        ({"name": "", "ngram": 6}, "name must be a text that is not empty, not ''"),
        ({"name": 3}, "name must be a text that is not empty, not 3"),
        ({"name": "a", "b": None}, "numbers, texts, booleans, and lists and tables of them, not None"),
        ({"name": "a", "b": [object]}, "not <class 'object'>: for anything else, pass an object that you made"),
        ({"name": "a", 3: 4}, "parameters have names, not 3"),
    ],
)
def test_what_is_no_choice(field: str, given: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        DecodeConfig(**{field: given})


def test_a_choice_has_one_name() -> None:
    with pytest.raises(ConfigError, match="'a' cannot have a parameter called 'name'"):
        Choice("a", {"name": "b"})


def test_budgets_may_be_objects() -> None:
    budget = Fixed(3)
    assert DecodeConfig(budget=budget) == DecodeConfig(budget=budget) != DecodeConfig(budget=Fixed(3))
    for strange in (Fixed, object(), None, [3]):
        with pytest.raises(ConfigError, match="budget must be"):
            DecodeConfig(budget=strange)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="budget is a composed object"):
        DecodeConfig(budget=budget).to_dict()


# -- made -------------------------------------------------------------------------------------------------------------


def test_parameters_reach_the_strategy() -> None:
    made = plugins.make("drafter", Choice("retrieval", {"ngram": 6}))
    assert isinstance(made, Retrieval)
    assert made.automaton.ngram == 6
    typical = plugins.make("verifier", Choice("typical", {"delta": 0.5}))
    assert (type(typical), typical.delta) == (Typical, 0.5)
    assert isinstance(plugins.make("budget", "auto"), Auto)
    verifier = Greedy()
    assert plugins.make("verifier", verifier) is verifier


def test_every_built_in_is_made_with_its_own_defaults() -> None:
    for offer in plugins.load_all():
        if offer.origin.startswith("racer-decoding"):
            defaults = {name: taken.default for name, taken in offer.parameters().items()}
            assert type(offer.make(**defaults)) is type(offer.make())


def test_the_default_drafter_takes_its_parameters_and_has_them_once() -> None:
    offer = plugins.resolve("drafter", "racer")
    assert offer.factory is Racer
    assert offer.parameters() == dict(inspect.signature(Racer).parameters)
    assert offer.make(top_k=4, slots=64, history=64, prompt=2).needs == racer.Needs(
        top_k=4, probs=True, prompt=2, optional=True
    )


def test_naming_the_default_drafter_does_not_import_it() -> None:
    code = """
import sys
from racer.discovery import plugins
plugins.resolve("drafter", "racer")
assert "racer.strategies.context.drafter" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        (
            "retrieval",
            {"ngrm": 6},
            "unknown parameter 'ngrm' of drafter 'retrieval': did you mean 'ngram'? It takes ngram, max_nodes",
        ),
        ("retrieval", {"zzz": 6}, "unknown parameter 'zzz' of drafter 'retrieval': It takes ngram, max_nodes"),
        ("none", {"ngram": 6}, "unknown parameter 'ngram' of drafter 'none': It takes none"),
        ("racer-paper", {"top_k": 6}, "unknown parameter 'top_k' of drafter 'racer-paper': It takes none"),
        ("racer", {"topk": 6}, "did you mean 'top_k'? It takes top_k, slots, history, prompt"),
        ("retrieval", {"ngram": 1}, "ngram must be at least 2, not 1"),
    ],
)
def test_parameters_that_are_not_taken(name: str, options: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(reason)):
        plugins.make("drafter", Choice(name, options))


def offering(factory: Any) -> Plugins:
    class Plugin:
        @hookimpl
        def racer_register(self, registry: Any) -> None:
            registry.drafter("it", factory)

    found = Plugins(list)
    found.register(Plugin(), "somebody")
    return found


def test_what_a_factory_raises_is_a_plugins_error() -> None:
    with pytest.raises(
        PluginError, match=r"drafter 'retrieval' of racer-decoding .* cannot be made: '<' not supported"
    ):
        plugins.make("drafter", Choice("retrieval", {"ngram": "six"}))
    with pytest.raises(PluginError, match="drafter 'it' of somebody cannot be made: division by zero"):
        offering(lambda: 1 / 0).make("drafter", "it")


def test_a_factory_may_need_some_and_take_any() -> None:
    def needs(path: str, *, size: int = 3) -> Any:
        return path, size

    with pytest.raises(ConfigError, match=r"drafter 'it' needs a value for 'path'\. It takes path, size"):
        offering(needs).make("drafter", "it")
    assert offering(needs).make("drafter", Choice("it", {"path": "x"})) == ("x", 3)
    assert offering(dict).make("drafter", Choice("it", {"a": 1, "self": 2})) == {"a": 1, "self": 2}
    any_but = offering(lambda size=3, **others: (size, others))
    assert any_but.make("drafter", Choice("it", {"other": 1})) == (3, {"other": 1})
    assert list(any_but.resolve("drafter", "it").parameters()) == ["size"]


def test_a_strategy_may_keep_and_change_what_it_is_given() -> None:
    found, choice = offering(lambda parts: parts), Choice("it", {"parts": [1]})
    found.make("drafter", choice).append(2)
    assert found.make("drafter", choice) == [1]


def test_factories_that_are_no_factories() -> None:
    with pytest.raises(
        PluginError, match="the factory of drafter 'it' is 3, expected a callable or 'module:attribute'"
    ):
        offering(3)
    for place in ("no_such_module:It", "racer.strategies:Itt"):
        with pytest.raises(PluginError, match=r"drafter 'it' of somebody cannot be made: .*(no_such_module|Itt)"):
            offering(place).make("drafter", "it")


# -- on the command line ----------------------------------------------------------------------------------------------


def as_typed(text: str) -> str | Choice:
    return typed_drafter(click.Context(click.Command("generate")), click.Option(["--drafter"]), text)


def test_drafters_are_typed_with_parameters() -> None:
    assert as_typed("retrieval") == as_typed("retrieval:") == "retrieval"
    assert as_typed("") == "", "nobody's name, which is told where names are looked up"
    assert as_typed("retrieval:ngram=6,max_nodes=5_000") == Choice("retrieval", {"ngram": 6, "max_nodes": 5000})
    assert as_typed("a:b='x,y:z', c=[1, 2], d=true") == Choice("a", {"b": "x,y:z", "c": [1, 2], "d": True})


@pytest.mark.parametrize("text", [":", ":a=1", "a:b", "a:b=", "a:b=c", "a:b=1,b=2", "a:b=1}\nc={d=1", "a:name=1"])
def test_drafters_that_are_typed_wrong(text: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape("expected DRAFTER or DRAFTER:KEY=VALUE,...")):
        as_typed(text)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("retrieval:ngrm=6", "unknown parameter 'ngrm' of drafter 'retrieval': did you mean 'ngram'?"),
        ("retrieval:ngram=1", "ngram must be at least 2, not 1"),
        ("retreival:ngram=6", "did you mean 'retrieval'?"),
        ("retrieval:ngram", "expected DRAFTER or DRAFTER:KEY=VALUE"),
    ],
)
@pytest.mark.parametrize("more", [[], ["--state", "never-made"]])
def test_parameters_are_checked_before_the_model_loads(
    typed: str, told: str, more: list[str], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "load", lambda *a, **k: pytest.fail("loaded a model first"))
    assert main(["generate", "--drafter", typed, *more, "x"]) == 2
    assert told in capsys.readouterr().err


def some_options(**changes: Any) -> Options:
    names = ["model", "temperature", "top_p", "top_k", "min_p", "seed", "state"]
    given = dict.fromkeys(names) | dict.fromkeys(["verifier", "budget", "compile", "pack"], "auto")
    given |= {"prompt": "x", "max_new_tokens": 8, "dtype": "fp32", "weights": None, "device": "cpu"}
    return Options(**given | dict.fromkeys(["raw", "compare", "json"], False) | changes)


def test_the_plan_has_the_parameters(tmp_path: Path) -> None:
    choice = Choice("racer", {"top_k": 4, "slots": 64, "history": 64})
    assert Plan.of(some_options(drafter=choice)).config.drafter == choice
    kept = Plan.of(some_options(drafter=choice, state=tmp_path / "it")).kept
    assert kept is not None
    assert kept.drafter.needs.top_k == 4


def test_plugins_shows_parameters_and_defaults(capsys: Capture) -> None:
    assert main(["plugins", "--json"]) == 0
    entries = json.loads(capsys.readouterr().out)["plugins"]
    found = {entry["name"]: entry["parameters"] for entry in entries}
    assert found["retrieval"] == [{"name": "ngram", "default": 10}, {"name": "max_nodes", "default": 10_000}]
    assert found["none"] == []
    assert {"name": "slots", "default": 2**16} in found["racer"]
    assert main(["plugins"]) == 0
    assert re.search(r"drafter +retrieval .* ngram=10 max_nodes=10000", capsys.readouterr().out)


def test_plugins_shows_what_is_needed_and_what_cannot_be_imported(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Plugin:
        @hookimpl
        def racer_register(self, registry: Any) -> None:
            registry.drafter("needy", lambda path, kind=(object, 2), rate=float("inf"): None)
            registry.drafter("lost", "no_such_module:It")

    found = Plugins(list)
    found.register(Plugin(), "somebody")
    monkeypatch.setattr(racer.discovery, "plugins", found)
    assert main(["plugins", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["parameters"] for entry in data["plugins"]} == {
        "lost": [],
        "needy": [
            {"name": "path"},
            {"name": "kind", "default": ["<class 'object'>", 2]},
            {"name": "rate", "default": None},
        ],
    }
    assert data["broken"] == {"lost (somebody)": "ModuleNotFoundError: No module named 'no_such_module'"}
    assert main(["plugins"]) == 0
    table = capsys.readouterr().out
    assert re.search(r"needy .* path kind=", table)
    assert re.search(r"broken +lost \(somebody\) +not loaded: ModuleNotFoundError", table)


# -- states -----------------------------------------------------------------------------------------------------------


def test_drafters_say_whether_they_can_be_saved(tmp_path: Path) -> None:
    assert Racer.saves
    assert not Retrieval.saves
    for method in (Retrieval().save, Retrieval().load):
        with pytest.raises(StateError, match="drafter 'retrieval' keeps no state"):
            method(tmp_path / "it", "fingerprint")
