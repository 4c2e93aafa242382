"""A tiny float32 model of a model's class, which shows what rounding or weights of its own may hide.

Some classes of transformers start anew, or leave out a convolution, where several tokens come after a state. In a small
dtype, or where a state says little of the text, a trial of the model itself takes that for rounding. Where, the other
way, rounding makes a trial of the model itself fail, a small one shows whether its class takes trees.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import attrs
import torch

from racer.core.chain_trial import chain_faults
from racer.core.tiny_models import VOCAB, tiny_model
from racer.errors import first_line


@attrs.frozen
class Sibling:
    """What a small model of a class shows."""

    fault: str = ""
    """What is wrong with chains after states; empty if nothing is."""
    counts_pads: bool = False
    """Whether it counts positions by the pad tokens of a pass (:attr:`racer.core.chain_runner.ChainPlan.alone`)."""


_take_trees: WeakKeyDictionary[type, bool] = WeakKeyDictionary()
_found: WeakKeyDictionary[type, Sibling] = WeakKeyDictionary()
_lock = threading.Lock()


def sibling_of(kind: type) -> Sibling:
    """What a small model of class ``kind`` shows. Made once."""
    with _lock:
        if kind not in _found:
            _found[kind] = _examined(kind)
        return _found[kind]


def small_one_takes_trees(kind: type, takes: Callable[[Any], bool]) -> bool:
    """Whether a small model of class ``kind`` does: ``takes`` tells, once. No, if none can be made."""
    if kind not in _take_trees:
        try:
            with torch.no_grad(), torch.autocast("cpu", enabled=False):
                _take_trees[kind] = takes(tiny_model(kind))
        except Exception:  # whatever the class raises
            _take_trees[kind] = False
    return _take_trees[kind]


def _examined(kind: type) -> Sibling:
    try:
        model = tiny_model(kind)
    except Exception as failure:  # whatever the class raises
        return Sibling(f"no small model of its class can be made to try them with ({first_line(failure)})")
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        plan, reason, _ = chain_faults(model, VOCAB)
    if plan is None:
        return Sibling(f"in a small model of its class {reason}")
    return Sibling(counts_pads=plan.alone is not None)
