"""A tiny float32 model of a model's class, which shows what rounding or weights of its own may hide.

Some classes of transformers start anew, or leave out a convolution, where several tokens come after a state. In a small
dtype, or where a state says little of the text, a trial of the model itself takes that for rounding.
"""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

import torch

from racer.core.chain_trial import chain_faults
from racer.core.tiny_models import VOCAB, tiny_model
from racer.errors import first_line

_found: WeakKeyDictionary[type, str] = WeakKeyDictionary()
_lock = threading.Lock()


def sibling_fault(kind: type) -> str:
    """What is wrong with chains of models of class ``kind`` that have states; empty if nothing is. Asked once."""
    with _lock:
        if kind not in _found:
            _found[kind] = _fault(kind)
        return _found[kind]


def _fault(kind: type) -> str:
    try:
        model = tiny_model(kind)
    except Exception as failure:  # whatever the class raises
        return f"no small model of its class can be made to try them with ({first_line(failure)})"
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        plan, reason, _ = chain_faults(model, VOCAB)
    return "" if plan is not None else f"in a small model of its class {reason}"
