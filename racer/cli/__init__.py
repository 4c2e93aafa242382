"""The command line: ``racer generate`` and ``racer plugins``."""

from racer.cli.app import main

__all__ = ["main"]
