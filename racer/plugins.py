"""Finding plugins, and the registry of everything that they offer by name."""

from __future__ import annotations

import difflib
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import attrs
import pluggy

from racer import hookspecs
from racer.errors import PluginError, UnknownStrategy

ENTRY_POINT_GROUP = "racer"
KINDS = ("drafter", "verifier", "budget")


@attrs.frozen
class Offer:
    """One strategy that somebody registered."""

    kind: str
    name: str
    factory: Callable[[], Any]
    summary: str
    exact: bool
    """Whether output equals plain decoding. Drafters and budgets always are; a verifier may be lossy."""
    origin: str
    """The distribution and its version, or the module, that registered it."""


class Registry:
    """Strategies by kind and name. Names are taken once: a second claim is refused."""

    def __init__(self) -> None:
        self._offers: dict[tuple[str, str], Offer] = {}
        self._origin = "python"

    def drafter(self, name: str, factory: Callable[[], Any], *, summary: str = "") -> None:
        """Offer a drafter: ``factory()`` gives a :class:`racer.Drafter` with fresh state."""
        self._add("drafter", name, factory, summary, exact=True)

    def verifier(self, name: str, factory: Callable[[], Any], *, exact: bool, summary: str = "") -> None:
        """Offer a verifier; ``exact`` says whether output equals plain decoding."""
        self._add("verifier", name, factory, summary, exact=exact)

    def budget(self, name: str, factory: Callable[[], Any], *, summary: str = "") -> None:
        """Offer a budget: ``factory()`` has ``nodes(view) -> int``."""
        self._add("budget", name, factory, summary, exact=True)

    def _add(self, kind: str, name: str, factory: Callable[[], Any], summary: str, exact: bool) -> None:
        if taken := self._offers.get((kind, name)):
            raise PluginError(
                f"{kind} {name!r} is already registered by {taken.origin}; {self._origin} must rename its own"
            )
        self._offers[kind, name] = Offer(kind, name, factory, summary, exact, self._origin)

    @contextmanager
    def origin(self, origin: str) -> Iterator[None]:
        """Credit what is registered inside to ``origin``; if that fails, none of it stays."""
        before, outer = dict(self._offers), self._origin
        self._origin = origin
        try:
            yield
        except BaseException:
            self._offers = before
            raise
        finally:
            self._origin = outer

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._offers

    def __getitem__(self, key: tuple[str, str]) -> Offer:
        return self._offers[key]

    def offers(self) -> list[Offer]:
        """Everything, by kind and name."""
        return sorted(self._offers.values(), key=lambda offer: (KINDS.index(offer.kind), offer.name))

    def names(self, kind: str) -> list[str]:
        return [offer.name for offer in self.offers() if offer.kind == kind]


class Plugins:
    """The global side of the plugin system: discovers entry points and fills a registry, as late as possible.

    An entry point of group ``racer`` points to a module or object with ``racer_register``. One that carries the name
    of the strategy it registers is loaded alone when that name is asked for; other names load all.
    """

    def __init__(
        self, found: Callable[[], list[EntryPoint]] = lambda: list(entry_points(group=ENTRY_POINT_GROUP))
    ) -> None:
        self.registry = Registry()
        self.broken: dict[str, str] = {}
        """Why an entry point could not be used, by its name and distribution."""
        self._manager = new_manager()
        self._manager.hook.racer_register.call_historic(kwargs={"registry": self.registry})
        self._find = found
        self._waiting: list[EntryPoint] | None = None
        self._lock = threading.RLock()

    def register(self, plugin: object, origin: str) -> None:
        """Add a plugin object that did not come from an entry point.

        :raises PluginError: it misspells a hook, or claims a name that is taken; nothing of it stays registered.
        """
        if self._manager.is_registered(plugin):
            return  # a module may stand under the names of all strategies that it offers
        try:
            with self.registry.origin(origin):
                self._manager.register(plugin)
                self._manager.check_pending()
                others = [caller.name for caller in self._manager.get_hookcallers(plugin) or ()]
                if strange := sorted(set(others) - {"racer_register"}):
                    raise PluginError(
                        f"{strange[0]} is never called here: objects with that hook go into DecodeConfig(plugins=[...])"
                    )
        except Exception as error:
            if self._manager.is_registered(plugin):
                self._manager.unregister(plugin)
            raise PluginError(f"plugin {origin} is refused: {error}") from error

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

    def load_all(self) -> list[Offer]:
        """Load every entry point; those that fail are reported in ``broken`` and by a warning."""
        with self._lock:
            self._load(lambda entry: True)
            return self.registry.offers()

    def _load(self, wanted: Callable[[EntryPoint], bool]) -> None:
        waiting = self._find() if self._waiting is None else self._waiting
        self._waiting = [entry for entry in waiting if not wanted(entry)]
        for entry in filter(wanted, waiting):
            origin = f"{entry.dist.name} {entry.dist.version}" if entry.dist else entry.value
            try:
                self.register(entry.load(), origin)
            except Exception as error:  # a broken plugin must never take the program down
                reason = str(error) if isinstance(error, PluginError) else f"{type(error).__name__}: {error}"
                self.broken[f"{entry.name} ({origin})"] = reason
                warnings.warn(f"racer plugin {entry.name!r} of {origin} is not loaded: {reason}", stacklevel=2)


def new_manager() -> pluggy.PluginManager:
    """A pluggy manager that knows our hooks: one is global (discovery), one belongs to each decoder."""
    manager = pluggy.PluginManager("racer")
    manager.add_hookspecs(hookspecs)
    return manager


plugins = Plugins()
"""The plugins of this process."""
