"""Instruments: a clock that waits for the device, and a memory gauge."""

from __future__ import annotations

import ctypes
import gc
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch


def now(device: torch.device) -> float:
    """Seconds, once the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PeakMemory:
    """How far memory grew inside a ``with`` block: CUDA's allocator there, the process on Linux, else unknown.

    Garbage of earlier calls is given back first, as far as the allocator can.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._before: int | None = None
        self.bytes: int | None = None
        """Known after the block."""

    def __enter__(self) -> PeakMemory:
        gc.collect()  # nor must the pause fall into somebody's time
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)
        else:
            with suppress(OSError, AttributeError):
                ctypes.CDLL(None).malloc_trim(0)  # glibc's
            with suppress(OSError):
                Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
                self._before = _status("VmRSS")
        return self

    def __exit__(self, *_: Any) -> None:
        if self._before is None:
            return
        peak = torch.cuda.max_memory_allocated(self._device) if self._device.type == "cuda" else _status("VmHWM")
        if peak is not None:
            self.bytes = max(0, peak - self._before)


def _status(field: str) -> int | None:
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return None
