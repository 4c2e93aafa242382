"""The ``racer`` drafter: context-keyed cues, retrieval and online calibration in one best-first tree."""

from racer.strategies.context.drafter import Racer

__all__ = ["Racer"]
