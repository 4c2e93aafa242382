"""What the entry point ``suffix`` points to."""

from racer.hookspecs import hookimpl
from racer.registry import Registry
from racer_suffix.drafter import Suffix


@hookimpl
def racer_register(registry: Registry) -> None:
    registry.drafter("suffix", Suffix, summary="what followed the longest earlier match (suffix automata)")
