"""What the entry point ``datastore`` points to."""

from __future__ import annotations

import os

from racer.errors import ConfigError
from racer.hookspecs import hookimpl
from racer.registry import Registry
from racer_datastore.drafter import Datastore

VARIABLE = "RACER_DATASTORE"
"""Names the index file of the drafter that is asked for by name."""


def from_environment() -> Datastore:
    """The drafter over the file that ``RACER_DATASTORE`` names.

    :raises ConfigError: the variable is not set.
    :raises DatastoreError: there is no such file, or it is not a sound index.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        raise ConfigError(
            f"drafter 'datastore' needs an index: build one with 'racer-datastore build CORPUS... --tokenizer MODEL "
            f"--output FILE' and set the environment variable {VARIABLE}=FILE (or pass racer_datastore.Datastore(FILE))"
        )
    return Datastore(path)


@hookimpl
def racer_register(registry: Registry) -> None:
    summary = f"continuations from an index of your own texts; the file is named by {VARIABLE}"
    registry.drafter("datastore", from_environment, summary=summary)
