"""The registry of everything that plugins offer by name."""

from __future__ import annotations

import difflib
import inspect
import pkgutil
from collections.abc import Callable
from inspect import Parameter
from typing import Any

import attrs

from racer.errors import ConfigError, PluginError, RacerError, of_the_plugin, told

KINDS = ("drafter", "verifier", "budget")

Factory = Callable[..., Any] | str
"""Makes a strategy, with fresh state, by parameters that have defaults; as text, where to import it from when it is
first needed: ``"module:attribute"``, like an entry point."""

_NAMED = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)


@attrs.frozen
class Offer:
    """One strategy that somebody registered."""

    kind: str
    name: str
    _factory: Factory
    summary: str
    exact: bool
    """Whether output equals plain decoding. Drafters and budgets always are; a verifier may be lossy."""
    origin: str
    """The distribution and its version, or the module, that registered it."""

    @property
    def factory(self) -> Callable[..., Any]:
        """What makes it, imported if that is left for now.

        :raises ImportError, AttributeError: it is not where it was said to be.
        """
        if not isinstance(self._factory, str):
            return self._factory
        found: Callable[..., Any] = pkgutil.resolve_name(self._factory)
        return found

    def parameters(self) -> dict[str, Parameter]:
        """What :meth:`make` takes, by name. Where the factory takes any, that is not among them.

        :raises ImportError, AttributeError: see :attr:`factory`.
        """
        return {name: taken for name, taken in self._signature().items() if taken.kind in _NAMED}

    def make(self, /, **options: Any) -> Any:
        """A new one, with fresh state.

        :raises ConfigError: an unknown or missing parameter, or a value out of range; the message says what is taken.
        :raises PluginError: its factory fails.
        """
        try:
            self._check(options)
            return self.factory(**options)
        except RacerError:
            raise
        except BaseException as error:
            if not of_the_plugin(error):
                raise
            reason = str(error) if isinstance(error, Exception) else told(error)
            raise PluginError(f"{self.kind} {self.name!r} of {self.origin} cannot be made: {reason}") from error

    def _signature(self) -> dict[str, Parameter]:
        try:
            return dict(inspect.signature(self.factory).parameters)
        except ValueError:  # some that are written in C do not say
            return {"options": Parameter("options", Parameter.VAR_KEYWORD)}

    def _check(self, options: dict[str, Any]) -> None:
        named, takes_any = self.parameters(), Parameter.VAR_KEYWORD in (p.kind for p in self._signature().values())
        takes = f"It takes {', '.join(named) or 'none'}"
        for name in options:
            if name not in named and not takes_any:
                near = difflib.get_close_matches(name, named, n=1)
                hint = f"did you mean {near[0]!r}? " if near else ""
                raise ConfigError(f"unknown parameter {name!r} of {self.kind} {self.name!r}: {hint}{takes}")
        if missing := [name for name, given in named.items() if given.default is given.empty and name not in options]:
            raise ConfigError(f"{self.kind} {self.name!r} needs a value for {missing[0]!r}. {takes}")


class Registry:
    """Strategies by kind and name. Names are taken once: a second claim is refused.

    One is made for each plugin, and takes the place of the one before when all of the plugin is registered: whatever
    stops a plugin half-way, nothing of it stays.

    :param known: what is registered already.
    :param origin: who registers now.
    """

    def __init__(self, known: Registry | None = None, origin: str = "python") -> None:
        self._known = {} if known is None else known._all
        self._own: dict[tuple[str, str], Offer] = {}
        self._origin = origin
        self.plugins: tuple[object, ...] = () if known is None else known.plugins
        """All that has been registered."""

    @property
    def _all(self) -> dict[tuple[str, str], Offer]:
        return self._known | self._own

    def over(self, known: Registry, plugin: object) -> Registry:
        """This one with all of ``plugin``, on top of what others have registered meanwhile."""
        if taken := known._all.keys() & self._own.keys():
            kind, name = min(taken)
            raise PluginError(f"{kind} {name!r} is already registered by {known[kind, name].origin}")
        self._known, self.plugins = known._all, (*known.plugins, plugin)
        return self

    def drafter(self, name: str, factory: Factory, *, summary: str = "") -> None:
        """Offer a drafter: ``factory()`` gives a :class:`racer.Drafter`."""
        self._add("drafter", name, factory, summary, exact=True)

    def verifier(self, name: str, factory: Factory, *, exact: bool, summary: str = "") -> None:
        """Offer a verifier; ``exact`` says whether output equals plain decoding."""
        self._add("verifier", name, factory, summary, exact=exact)

    def budget(self, name: str, factory: Factory, *, summary: str = "") -> None:
        """Offer a budget: ``factory()`` has ``nodes(view) -> int``."""
        self._add("budget", name, factory, summary, exact=True)

    def _add(self, kind: str, name: str, factory: Any, summary: str, exact: bool) -> None:
        if taken := self._all.get((kind, name)):
            raise PluginError(
                f"{kind} {name!r} is already registered by {taken.origin}; {self._origin} must rename its own"
            )
        if not (isinstance(factory, str) or callable(factory)):
            expected = "expected a callable or 'module:attribute'"
            raise PluginError(f"the factory of {kind} {name!r} is {factory!r}, {expected}")
        self._own[kind, name] = Offer(kind, name, factory, summary, exact, self._origin)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self._all

    def __getitem__(self, key: tuple[str, str]) -> Offer:
        return self._all[key]

    def offers(self) -> list[Offer]:
        """Everything, by kind and name."""
        return sorted(self._all.values(), key=lambda offer: (KINDS.index(offer.kind), offer.name))

    def names(self, kind: str) -> list[str]:
        return [offer.name for offer in self.offers() if offer.kind == kind]
