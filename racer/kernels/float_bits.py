"""Floats as whole numbers: read with a sign, their bits are in the floats' own order."""

from __future__ import annotations

import torch

BLOCK = 64
"""Scores that share one maximum: the k best are searched for in the blocks that hold them."""
BITS = {
    torch.bfloat16: (torch.int16, 0x7F80),
    torch.float16: (torch.int16, 0x7C00),
    torch.float32: (torch.int32, 0x7F80_0000),
    torch.float64: (torch.int64, 0x7FF0_0000_0000_0000),
}
"""Whole numbers as wide as each kind of float, and infinity's."""
