"""Drafts for any engine: token ids in, guesses out. No model, no tensors, no transformers (:class:`Session`)."""

from racer.drafting.session import Session
from racer.drafting.told import Draft, Figures, Told

__all__ = ["Draft", "Figures", "Session", "Told"]
