"""The registry of everything that plugins offer by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs

from racer.errors import PluginError

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
