"""Listening to a model's forward passes without a hook, with which it would be decoded plainly."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest


def listen(monkeypatch: pytest.MonkeyPatch, model: Any, hear: Callable[[dict[str, Any]], object]) -> None:
    """Tell ``hear`` of the keyword arguments of every forward pass of the model's class, before it begins."""
    forward = type(model).forward

    @functools.wraps(forward)
    def heard(self: Any, *args: Any, **kwargs: Any) -> Any:
        hear(kwargs)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", heard)
