"""``suffix``: a RACER drafter that copies what followed the longest earlier match, found by suffix automata."""

from racer_suffix.automaton import SuffixAutomaton
from racer_suffix.drafter import Suffix
from racer_suffix.history import Cursor, History

__version__ = "0.1.0"

__all__ = ["Cursor", "History", "Suffix", "SuffixAutomaton"]
