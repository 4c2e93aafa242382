"""Settings of the static path, step by step on any device."""

from __future__ import annotations

from typing import Any

from racer import DecodeConfig


def static(**settings: Any) -> DecodeConfig:
    return DecodeConfig(compile="static", **settings)
