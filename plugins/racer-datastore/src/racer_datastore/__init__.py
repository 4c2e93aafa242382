"""``datastore``: a RACER drafter that copies from an index of your own texts."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from racer_datastore.building import build
    from racer_datastore.drafter import Datastore
    from racer_datastore.format import DatastoreError, Header, write_index
    from racer_datastore.index import Index
    from racer_datastore.tokens import fingerprint

__version__ = "0.1.0"

__all__ = ["Datastore", "DatastoreError", "Header", "Index", "build", "fingerprint", "write_index"]

_HOMES = {
    "build": "building",
    "Datastore": "drafter",
    "DatastoreError": "format",
    "Header": "format",
    "Index": "index",
    "fingerprint": "tokens",
    "write_index": "format",
}


def __getattr__(name: str) -> Any:
    """Import on first use: importing torch takes seconds, and ``racer-datastore --help`` needs none of it."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
