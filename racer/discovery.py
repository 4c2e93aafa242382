"""Finding plugins by their entry points."""

from __future__ import annotations

import copy
import difflib
import threading
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pluggy

from racer import hookspecs
from racer.config import Choice
from racer.errors import PluginError, UnknownStrategy, of_the_plugin, told, warn_of_plugin
from racer.registry import Offer, Registry

ENTRY_POINT_GROUP = "racer"


class Plugins:
    """The global side of the plugin system: discovers entry points and fills a registry, as late as possible.

    An interrupt may come at any moment: a plugin is registered as a whole or not at all, and an entry point waits until
    it is settled, so the next call goes on where this one was stopped.

    An entry point of group ``racer`` points to a module or object with ``racer_register``. One that carries the name
    of the strategy it registers is loaded alone when that name is asked for; other names load all.
    """

    def __init__(
        self, found: Callable[[], list[EntryPoint]] = lambda: list(entry_points(group=ENTRY_POINT_GROUP))
    ) -> None:
        self.registry = Registry()
        self.broken: dict[str, str] = {}
        """Why an entry point could not be used, by its name and distribution."""
        self._find = found
        self._waiting: list[EntryPoint] | None = None
        self._lock = threading.RLock()

    def register(self, plugin: object, origin: str) -> None:
        """Add a plugin object that did not come from an entry point.

        :raises PluginError: it misspells a hook, or claims a name that is taken; nothing of it stays registered.
        """
        with self._lock:
            known = self.registry
            if id(plugin) in map(id, known.plugins):
                return  # a module may stand under the names of all strategies that it offers
            try:
                filled = _filled(plugin, Registry(known, origin))
                self.registry = filled.over(self.registry, plugin)
            except BaseException as error:
                if not of_the_plugin(error):
                    raise
                reason = str(error) if isinstance(error, Exception) else told(error)
                raise PluginError(f"plugin {origin} is refused: {reason}") from error

    def resolve(self, kind: str, name: str) -> Offer:
        """The offer under this name.

        :raises UnknownStrategy: nobody offers it; the message suggests the nearest name.
        """
        with self._lock:
            if (kind, name) not in self.registry:
                self._load(lambda entry: entry.name == name)
            if (kind, name) not in self.registry:
                self.load_all()
            if (kind, name) in self.registry:
                return self.registry[kind, name]
            names = self.registry.names(kind)
        if not names:
            raise UnknownStrategy(f"unknown {kind} {name!r}: no plugins are found; install racer-decoding with pip")
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise UnknownStrategy(f"unknown {kind} {name!r}: {hint}There are {', '.join(names)}")

    def make(self, kind: str, choice: Any) -> Any:
        """The strategy that a name or a :class:`racer.config.Choice` stands for, a new one; objects stay as they are.

        :raises UnknownStrategy: nobody offers the name.
        :raises ConfigError: it does not take such a parameter, or such a value.
        :raises PluginError: it cannot be made.
        """
        if isinstance(choice, str):
            return self.resolve(kind, choice).make()
        if isinstance(choice, Choice):
            return self.resolve(kind, choice.name).make(**copy.deepcopy(dict(choice.options)))
        return choice

    def load_all(self) -> list[Offer]:
        """Load every entry point; those that fail are reported in ``broken`` and by a warning."""
        with self._lock:
            self._load(lambda entry: True)
            return self.registry.offers()

    def _load(self, wanted: Callable[[EntryPoint], bool]) -> None:
        if self._waiting is None:
            self._waiting = self._find()
        for entry in filter(wanted, self._waiting):
            self._settle(entry)
            self._waiting = [other for other in self._waiting if other is not entry]

    def _settle(self, entry: EntryPoint) -> None:
        """Load and register it, or say why that is impossible."""
        origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
        try:
            self.register(entry.load(), origin)
        except BaseException as error:  # a broken plugin must never take the program down
            if not of_the_plugin(error):
                raise
            reason = str(error) if isinstance(error, PluginError) else told(error)
            self.broken[f"{entry.name} ({origin})"] = reason
            warn_of_plugin(f"racer plugin {entry.name!r} of {origin} is not loaded: {reason}", UserWarning)


def _filled(plugin: object, registry: Registry) -> Registry:
    """``registry`` with what ``plugin`` registers.

    :raises PluginError: it has hooks that are never called here.
    """
    manager = new_manager()
    manager.register(plugin)
    manager.check_pending()
    others = {caller.name for caller in manager.get_hookcallers(plugin) or ()} - {"racer_register"}
    if others:
        raise PluginError(
            f"{min(others)} is never called here: objects with that hook go into DecodeConfig(plugins=[...])"
        )
    manager.hook.racer_register.call_historic(kwargs={"registry": registry})
    return registry


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows our hooks: one is global (discovery), one belongs to each decoder."""
    manager = pluggy.PluginManager("racer")
    manager.add_hookspecs(hookspecs)
    return manager


plugins = Plugins()
"""The plugins of this process."""
