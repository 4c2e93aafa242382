"""The command line: ``racer generate``, ``racer bench`` and ``racer plugins``."""

from racer.cli.app import main

__all__ = ["main"]
