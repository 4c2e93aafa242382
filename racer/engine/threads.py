"""Threads that wait for a model's work."""

from __future__ import annotations

import ctypes

SOFT = 1
"""OpenMP's name for giving resources back that can be had again (``omp_pause_soft``; OpenMP 5.0, section 3.2.44)."""


def let_go_of_team() -> None:
    """End those that OpenMP keeps for this thread; its next large operation of torch makes new ones.

    Each thread that has run one has a team of its own. GNU's OpenMP counts them all, and as soon as there are more than
    processors, all of them go to sleep between two operations rather than wait by turning, which takes a third longer
    over a whole step: so whoever loads a model and leaves it to another thread should keep none.
    """
    try:
        ctypes.CDLL(None).omp_pause_resource_all(SOFT)
    except (AttributeError, OSError, TypeError):  # there is no OpenMP here, or one that cannot
        return
