"""Discovery, the registry, and how a configuration's names become strategies."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import pytest

import racer.discovery
import racer.registry
from racer import DecodeConfig, Logits, NoDraft, hookimpl
from racer.discovery import ENTRY_POINT_GROUP, Plugins, plugins
from racer.engine.strategy_set import StrategySet
from racer.errors import ConfigError, PluginError, UnknownStrategy
from support.interrupts import interrupted_at, points


class FakeEntry:
    """Stands for an installed package's entry point; counts its loads."""

    def __init__(self, name: str, plugin: Any, dist: str = "somebody") -> None:
        self.name, self.value = name, f"{dist}:{name}"
        self.dist = types.SimpleNamespace(name=dist, version="1.2")
        self.plugin, self.loads = plugin, 0

    def load(self) -> Any:
        self.loads += 1
        if isinstance(self.plugin, BaseException):
            raise self.plugin
        return self.plugin


def offering(*names: str) -> Any:
    class Plugin:
        @hookimpl
        def racer_register(self, registry: Any) -> None:
            for name in names:
                registry.drafter(name, NoDraft, summary=f"about {name}")

    return Plugin()


def with_entries(*entries: FakeEntry) -> Plugins:
    return Plugins(lambda: list(entries))  # type: ignore[arg-type]


def test_built_ins_come_through_the_entry_point_group_like_everybody() -> None:
    mine = [
        e
        for e in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
        if e.dist and e.dist.name == "racer-decoding"
    ]
    assert {entry.value for entry in mine} == {"racer.strategies", "racer.verifiers", "racer.budgets"}
    offers = {(offer.kind, offer.name): offer for offer in plugins.load_all()}
    for name in ("racer", "racer-paper", "retrieval", "logits", "recycling", "prompt-lookup", "none"):
        assert offers["drafter", name].origin.startswith("racer-decoding ")
        assert offers["drafter", name].factory() is not offers["drafter", name].factory()
    assert [offers["verifier", name].exact for name in ("greedy", "sampling", "typical")] == [True, True, False]
    assert ("budget", "auto") in offers
    assert all(offer.summary for offer in offers.values())


def test_loading_is_lazy() -> None:
    one, two = FakeEntry("one", offering("one")), FakeEntry("two", offering("two"))
    found = with_entries(one, two)
    assert found.resolve("drafter", "one").origin == "somebody 1.2"
    assert (one.loads, two.loads) == (1, 0)
    found.load_all()
    found.load_all()
    assert (one.loads, two.loads) == (1, 1)


def test_a_name_that_is_not_the_entry_points_own_is_found_too() -> None:
    assert with_entries(FakeEntry("bundle", offering("a", "b"))).resolve("drafter", "b").name == "b"


def test_unknown_names_get_a_suggestion() -> None:
    with pytest.raises(UnknownStrategy, match=r"unknown drafter 'retreival': did you mean 'retrieval'\?"):
        plugins.resolve("drafter", "retreival")
    with pytest.raises(UnknownStrategy, match="There are auto"):
        plugins.resolve("budget", "zzz")


def test_collisions_are_refused_by_name_and_leave_nothing_behind() -> None:
    found = with_entries(FakeEntry("a", offering("mine"), "first"), FakeEntry("b", offering("fresh", "mine"), "second"))
    with pytest.warns(UserWarning, match="drafter 'mine' is already registered by first 1.2; second 1.2 must rename"):
        offers = found.load_all()
    assert [(offer.name, offer.origin) for offer in offers] == [("mine", "first 1.2")]
    assert "already registered" in found.broken["b (second 1.2)"]


def test_misspelt_hooks_are_refused() -> None:
    class Misspelt:
        @hookimpl
        def racer_registre(self, registry: Any) -> None: ...

    with pytest.raises(PluginError, match="racer_registre"):
        Plugins(list).register(Misspelt(), "test")
    with pytest.raises(PluginError, match="racer_registre"):
        StrategySet(DecodeConfig(plugins=[Misspelt()]))


def test_a_plugin_that_cannot_be_imported_is_reported_and_the_rest_works() -> None:
    found = with_entries(FakeEntry("bad", ImportError("no module named x")), FakeEntry("good", offering("good")))
    with pytest.warns(UserWarning, match="'bad' of somebody 1.2 is not loaded: ImportError: no module named x"):
        assert [offer.name for offer in found.load_all()] == ["good"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found.load_all()


def test_registered_in_python() -> None:
    found = Plugins(list)
    found.register(offering("local"), "notebook")
    assert found.resolve("drafter", "local").origin == "notebook"
    with pytest.raises(PluginError, match="already registered by notebook"):
        found.register(offering("local"), "again")


def test_lineups_resolve_names_and_take_objects() -> None:
    drafter = Logits(3)
    assert StrategySet(DecodeConfig(drafter=drafter)).drafter is drafter
    assert (
        StrategySet(DecodeConfig(drafter="logits")).drafter is not StrategySet(DecodeConfig(drafter="logits")).drafter
    )
    assert StrategySet(DecodeConfig(drafter="logits")).needs.top_k == 8
    assert not StrategySet(DecodeConfig(drafter="none")).needs.top_k
    with pytest.raises(UnknownStrategy, match="unknown verifier"):
        StrategySet(DecodeConfig(verifier="greedi")).verifier_for(False)


def test_drafters_without_a_draft_are_refused() -> None:
    with pytest.raises(ConfigError, match="drafter must be a name or an object with draft, observe"):
        DecodeConfig(drafter=object())  # type: ignore[arg-type]


def test_importing_racer_loads_no_plugin() -> None:
    code = (
        "import racer, racer.discovery as p; assert not p.plugins.registry.offers(); assert p.plugins._waiting is None"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_strategy_that_cannot_be_made_is_named() -> None:
    class Plugin:
        @hookimpl
        def racer_register(self, registry: Any) -> None:
            registry.drafter("broken-on-making", lambda: 1 / 0)

    plugins.register(Plugin(), "test_plugins")
    with pytest.raises(PluginError, match="'broken-on-making' of test_plugins cannot be made: division by zero"):
        StrategySet(DecodeConfig(drafter="broken-on-making"))


def test_one_module_under_several_names_is_registered_once() -> None:
    both = offering("a", "b")
    found = with_entries(FakeEntry("a", both), FakeEntry("b", both))
    assert found.resolve("drafter", "a")
    assert [offer.name for offer in found.load_all()] == ["a", "b"]
    assert not found.broken


def test_hooks_that_would_never_be_called_are_refused() -> None:
    class Observes:
        @hookimpl
        def racer_step(self, view: Any) -> None: ...

    class Registers:
        @hookimpl
        def racer_register(self, registry: Any) -> None: ...

    with pytest.raises(PluginError, match="racer_step is never called here"):
        Plugins(list).register(Observes(), "test")
    with pytest.raises(PluginError, match="racer_register, which is only called on entry points"):
        StrategySet(DecodeConfig(plugins=[Registers()]))


def test_without_any_plugins_the_mend_is_named() -> None:
    with pytest.raises(UnknownStrategy, match="install racer-decoding"):
        Plugins(list).resolve("drafter", "racer")


def test_an_interrupt_at_any_moment_does_not_lose_a_plugin() -> None:
    """Ctrl-C while plugins load: the next call goes on as if nothing had been."""

    def discovery() -> tuple[Plugins, list[FakeEntry]]:
        both = offering("one", "also")
        entries = [
            FakeEntry("one", both), FakeEntry("also", both), FakeEntry("bad", ImportError("gone")),
            FakeEntry("two", offering("two")), FakeEntry("clash", offering("fresh", "one")),
        ]  # fmt: skip
        return with_entries(*entries), entries

    def told(found: Plugins) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [(offer.name, offer.origin) for offer in found.load_all()], sorted(found.broken)

    whole, _ = discovery()
    assert told(whole)[0] == [("also", "somebody 1.2"), ("one", "somebody 1.2"), ("two", "somebody 1.2")]
    files = tuple(Path(module.__file__) for module in (racer.discovery, racer.registry))

    def attempt(place: int) -> bool:
        found, _ = discovery()

        def ask() -> None:
            found.resolve("drafter", "two")
            told(found)

        was = interrupted_at(place, ask, files, fine=True)
        assert told(found) == told(whole)
        return was

    assert len(list(points(attempt, step=3))) > 200


def test_a_plugin_may_register_others_while_it_registers() -> None:
    found = Plugins(list)

    class Outer:
        @hookimpl
        def racer_register(self, registry: Any) -> None:
            registry.drafter("before", NoDraft)
            found.register(offering("inner"), "inner")
            registry.drafter("after", NoDraft)

    found.register(Outer(), "outer")
    assert [(offer.name, offer.origin) for offer in found.load_all()] == [
        ("after", "outer"), ("before", "outer"), ("inner", "inner"),
    ]  # fmt: skip


@pytest.mark.parametrize("error", [SystemExit("no licence"), GeneratorExit("odd")])
def test_a_plugin_that_would_end_the_program_is_left_out(error: BaseException) -> None:
    found = with_entries(FakeEntry("bad", error), FakeEntry("good", offering("good")))
    with pytest.warns(UserWarning, match=f"not loaded: {type(error).__name__}"):
        assert [offer.name for offer in found.load_all()] == ["good"]

    def ends() -> None:
        raise error

    found.register(types.SimpleNamespace(racer_register=hookimpl(lambda registry: registry.drafter("x", ends))), "here")
    with pytest.raises(PluginError, match=f"'x' of here cannot be made: {type(error).__name__}"):
        found.make("drafter", "x")


def test_a_broken_plugin_is_no_error_where_warnings_are_errors(caplog: pytest.LogCaptureFixture) -> None:
    found = with_entries(FakeEntry("bad", ImportError("gone")), FakeEntry("good", offering("good")))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.resolve("drafter", "good")
        assert found.load_all()
    assert "'bad' of somebody 1.2 is not loaded: ImportError: gone" in caplog.text
    caplog.clear()
