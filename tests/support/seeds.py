"""How a single row gets the noise of one row of a batch."""

from __future__ import annotations

import copy

from racer import DecodeConfig
from racer.step.request import row_seed

_BACK = pow(row_seed(1, 0), -1, 2**64)


def as_row(config: DecodeConfig, row: int) -> DecodeConfig:
    """A configuration whose first row has the noise that ``row`` has with ``config``.

    Its seed may be larger than users can write one.
    """
    assert config.seed is not None
    solo = copy.copy(config)
    object.__setattr__(solo, "seed", row_seed(config.seed, row) * _BACK % 2**64)
    return solo
