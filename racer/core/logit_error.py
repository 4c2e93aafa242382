"""How far RACER's logits are from transformers' own, and how much of it may be rounding."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from racer.core.kept_layers import KeptLinear
from racer.core.subject import autocasts

TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.2}
"""Root mean square error, in standard deviations of the logits, that may be rounding (many models compute their softmax
in float32 whatever their dtype). SmolLM2-135M has 0.07 in bf16; with nodes that see their siblings it has 0.56."""

FEW_BITS = 0.02
"""The same of weights in few bits, whose products round what they are given to 16 bits: Gemma 3 270M has 0.001."""

SMALL = (torch.float16, torch.bfloat16)
"""Types whose rounding hides much in a trial."""
LOUD = 2.0
"""Times the tolerance that rounding may explain in these, where transformers' own logits say that it does ..."""
APART = 4.0
"""... by so large a part of the error: in bf16, beyond Gemma 3 270M's window of 512, ours were 0.06 to 0.28 from
transformers', its own 0.04 to 0.15 from each other, and those of a window that is one token off 1.7 to 3.7."""


def logit_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest root mean square error of a node's logits ``[..., V]``, in standard deviations; infinite for NaN."""
    theirs = theirs.double()
    errors = (ours - theirs).square().mean(-1).sqrt() / theirs.std(-1).clamp(min=1e-9)
    return float(errors.nan_to_num(nan=torch.inf).max())


def own_error(sound: Callable[[], bool], ways: Callable[[], Iterator[tuple[Tensor, Tensor]]]) -> Callable[[], float]:
    """What :func:`fault_of` asks for in doubt.

    :param sound: whether the model's class is right where nothing is rounded.
    :param ways: pairs of logits that transformers itself has of the same tokens, found in two ways.
    """

    def error() -> float:
        try:
            return max(logit_error(*pair) for pair in ways()) if sound() else 0.0
        except Exception:  # whatever the model raises
            return 0.0

    return error


def fault_of(
    model: Any,
    error: float,
    where: str = "",
    part: float = 1.0,
    what: str = "tree",
    own: Callable[[], float] | None = None,
) -> str:
    """What such an error says of a trial; empty if it may be rounding in what the model computes in.

    :param part: of the tolerance.
    :param what: was tried.
    :param own: tells how far transformers' own logits are apart when it scores the same tokens in another way, or 0
        where that proves nothing; asked in doubt, in small types.
    """
    dtype = torch.get_autocast_dtype(model.device.type) if autocasts(model) else model.dtype
    tolerance = TOLERANCE.get(dtype, 0.1)
    if any(isinstance(module, KeptLinear) for module in model.modules()):
        tolerance = max(tolerance, FEW_BITS)
    if error <= tolerance * part:
        return ""
    if own is not None and dtype in SMALL and error <= tolerance * LOUD and error <= APART * own() < math.inf:
        return ""
    return f"a trial {what}'s logits differ from generate's by {error:.2g} standard deviations{where}"
