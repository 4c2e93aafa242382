"""The ``racer`` drafter: top-k tables, running means and text matches in one best-first tree, by a learned estimate."""

from racer.strategies.context.drafter import Racer

__all__ = ["Racer"]
