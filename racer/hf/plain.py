"""Calls that RACER cannot decode rightly go to transformers, with one warning that says why."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.generation import GenerationMode

from racer.errors import UnsupportedGeneration
from racer.hf.call import Call

METHODS = {
    GenerationMode.GREEDY_SEARCH: "_sample",
    GenerationMode.SAMPLE: "_sample",
    GenerationMode.BEAM_SEARCH: "_beam_search",
    GenerationMode.BEAM_SAMPLE: "_beam_search",
}
"""transformers' loops that need nothing but what a callable is given."""
BETWEEN = ("racer", "transformers", "torch", "peft", "contextlib")
"""Packages that may stand between the line that calls ``generate`` and us."""


class PlainDecodingWarning(UserWarning):
    """RACER cannot speed this call up; transformers decodes it plainly."""


def warn_of_plain(reason: object) -> None:
    """One warning, at the line that called for text."""
    depth, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in BETWEEN:
        depth, frame = depth + 1, frame.f_back
    warnings.warn(f"decoding without RACER: {reason}", PlainDecodingWarning, stacklevel=depth)


def decode_plainly(call: Call, seed: int | None) -> Any:
    """What ``model.generate`` makes of the call.

    :param seed: of torch's noise, where the call samples; None takes it from torch's global generators.
    """
    with _seeded(seed, call.model):
        return without_stats(call.plain())


def run_method(model: Any, prepared: dict[str, Any], streamer: Any, seed: int | None) -> Any:
    """What transformers' own loop makes of arguments that ``generate`` has prepared.

    :raises UnsupportedGeneration: it has none for the settings, or one that needs more than a callable is given.
    """
    mode = prepared["generation_config"].get_generation_mode()
    if mode not in METHODS:
        raise UnsupportedGeneration(
            f"{mode.value} cannot be run behind custom_generate: call model.generate without custom_generate"
        )
    with _seeded(seed, model):
        return without_stats(getattr(model, METHODS[mode])(**prepared, streamer=streamer))


def without_stats(output: Any) -> Any:
    """An output that RACER did not make: its ``racer_stats`` is None."""
    if not isinstance(output, Tensor):
        output.racer_stats = None
    return output


@contextmanager
def _seeded(seed: int | None, model: Any) -> Iterator[None]:
    """Inside, torch draws from ``seed``; outside nothing has been drawn."""
    if seed is None:
        yield
        return
    device = getattr(model, "device", torch.device("cpu"))
    with torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=True):
        torch.manual_seed(seed)
        yield
