"""The modes of torch that a call of foreign code may leave switched: seen, and put back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

DEVICES = ("cpu", "cuda")
"""Where autocast may be on."""

_NAMES = ("grad mode", "inference mode", "the default dtype", "a function mode", "the default device", "autocast")
"""Of the fields of :class:`TorchModes`, in words."""
_held: list[Any] = []
"""Guards of inference mode that must never end: at its end, each would bring back the mode that it mended."""


class TorchModes(NamedTuple):
    """What decoding depends on, of this thread and of the process; looked at before and after every foreign call."""

    grad: bool
    inference: bool
    dtype: torch.dtype
    entered: int
    """Function modes, such as ``with torch.device(...)``."""
    device: Any
    """What ``torch.set_default_device`` has entered, one of these."""
    autocast: tuple[tuple[bool, torch.dtype], ...] | None
    """On and to what type, for each of :data:`DEVICES`; None if it is nowhere on."""

    @classmethod
    def now(cls) -> TorchModes:
        entered = torch._C._len_torch_function_stack()
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            entered,
            _default_device() if entered else None,
            _autocast() if torch._C._is_any_autocast_enabled() else None,
        )

    def restore(self) -> str:
        """Put everything back; what had been changed, in words, empty if nothing."""
        now = TorchModes.now()
        if now == self:
            return ""
        if now.inference != self.inference:
            _held.append(torch._C._InferenceMode(self.inference))
            _held[-1].__enter__()
        torch.set_default_dtype(self.dtype)
        self._restore_function_modes()
        self._restore_autocast()
        torch.set_grad_enabled(self.grad)  # last: inference mode switches it too
        return " and ".join(name for name, then, left in zip(_NAMES, self, now, strict=True) if then != left)

    def _restore_function_modes(self) -> None:
        if _default_device() is not self.device:
            torch.set_default_device(None if self.device is None else self.device.device)
        while torch._C._len_torch_function_stack() > self.entered:
            torch._C._pop_torch_function_stack()

    def _restore_autocast(self) -> None:
        known = self.autocast or tuple((False, dtype) for _, dtype in _autocast())
        if known == _autocast():
            return
        for kind, (on, dtype) in zip(DEVICES, known, strict=True):
            if torch.is_autocast_enabled(kind) and not on:
                torch.autocast_decrement_nesting()
            torch.set_autocast_enabled(kind, on)
            torch.set_autocast_dtype(kind, dtype)
        torch.clear_autocast_cache()


def _autocast() -> tuple[tuple[bool, torch.dtype], ...]:
    return tuple((torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in DEVICES)


def _default_device() -> Any:
    return getattr(getattr(torch, "_GLOBAL_DEVICE_CONTEXT", None), "device_context", None)
