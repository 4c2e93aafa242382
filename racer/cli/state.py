"""What the drafter learned, kept in a file from one command to the next. Imports torch: commands import it late."""

from __future__ import annotations

from pathlib import Path

import click

from racer.config import Choice
from racer.discovery import plugins
from racer.loading.loaded_model import LoadedModel
from racer.strategies.adapt import as_drafter


class KeptDrafter:
    """A drafter that saves what it learned, and the file that it learns on from.

    :raises UnknownStrategy: nobody registered a drafter of that name.
    :raises ConfigError: it does not take such parameters.
    :raises click.UsageError: it keeps no state.
    """

    def __init__(self, choice: str | Choice, path: Path) -> None:
        self.drafter = as_drafter(plugins.make("drafter", choice))
        self.path = path
        if not self.drafter.saves:
            name = choice if isinstance(choice, str) else choice.name
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
