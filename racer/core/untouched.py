"""What a forward pass notes on a model's modules, taken back after a trial.

Some models keep on themselves where the latest prompt's images end (``rope_deltas``), or which angles they rotate by:
the next call reads it. A trial is a call that the user has not made, so nothing of it may stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Leave the attributes and buffers of all modules as they are before; what is written into tensors is not seen."""
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes, buffers in before:
            _restore(vars(module), attributes)
            _restore(module._buffers, buffers)


def _restore(held: dict[str, Any], noted: dict[str, Any]) -> None:
    """Nothing is written where nothing has changed: other threads may read."""
    for name in held.keys() - noted.keys():
        del held[name]
    for name, value in noted.items():
        if held.get(name) is not value:
            held[name] = value
