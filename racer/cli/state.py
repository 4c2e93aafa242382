"""What the drafter learned, kept in a file from one command to the next. Imports torch: commands import it late."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from racer.discovery import plugins
from racer.loading.loaded import LoadedModel


class KeptDrafter:
    """A drafter with ``save`` and ``load``, and the file that it learns on from.

    :raises UnknownStrategy: nobody registered a drafter of that name.
    :raises click.UsageError: it keeps no state.
    """

    def __init__(self, name: str, path: Path) -> None:
        self.drafter: Any = plugins.resolve("drafter", name).factory()
        self.path = path
        if not (hasattr(self.drafter, "save") and hasattr(self.drafter, "load")):
            raise click.UsageError(f"--state: drafter {name!r} keeps none: drop --state, or take --drafter racer")

    def load(self, loaded: LoadedModel) -> None:
        """Learn what the file holds, if there is one.

        :raises StateError: it is damaged, or another model's, version's or size's.
        :raises OSError: it cannot be read.
        """
        if self.path.exists():
            self.drafter.load(self.path, loaded.fingerprint)

    def save(self, loaded: LoadedModel) -> None:
        """Write the file anew.

        :raises OSError: it cannot be written.
        """
        self.drafter.save(self.path, loaded.fingerprint)
