"""The command line: ``racer generate``, ``chat``, ``serve``, ``batch``, ``bench`` and ``plugins``."""

from racer.cli.app import main

__all__ = ["main"]
