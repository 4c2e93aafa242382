"""torch.compile of a model's forward pass in static shapes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from racer.core.stand_in import call_model

SHAPES = 256
"""How many shapes may be compiled; torch's own limit of 8 is meant for shapes that change by accident."""


def compiled_call() -> Callable[..., Any]:
    """``call(model, **inputs)`` that compiles the model's forward when it is first called with a new shape.

    It holds no model, so that it can be kept with one.
    """
    compiled = torch.compile(call_model, dynamic=False)

    def call(model: Any, **inputs: Any) -> Any:
        with torch._dynamo.config.patch(recompile_limit=SHAPES, accumulated_recompile_limit=8 * SHAPES):
            return compiled(model, **inputs)

    return call
