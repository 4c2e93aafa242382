"""What no CUDA graph can hold, found out before a capture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode


class NotCapturable(RuntimeError):
    """An operation needs the host, so that a graph of it would be wrong."""


NEEDS_HOST = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_consecutive",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::repeat_interleave",
}
"""Operations that wait for the device, because the host must know a value or the size of their result."""
COPIES = {"aten::_to_copy", "aten::copy_", "aten::copy"}


MADE_OF: dict[Any, str] = {torch.tensor: "data", torch.as_tensor: "data", torch.asarray: "obj"}
"""What makes tensors of numbers on the host, and what it calls them."""


class CaptureCheck(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch has it untyped
    """Inside, operations that cannot be captured raise :class:`NotCapturable`, on any device and before any harm.

    A capture that fails half way leaves the allocator and the random generator of the device in disorder, so what can
    be found out beforehand is. Costs some microseconds for each operation, once for each kind of step.
    """

    def __enter__(self) -> Any:
        self._lists: Any = _ListCheck()
        self._lists.__enter__()  # type: ignore[no-untyped-call]
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        tensors = [part for part in _flat(args) if isinstance(part, torch.Tensor)]
        if name in NEEDS_HOST:
            raise NotCapturable(f"{name} needs a value on the host")
        if name in ("aten::index", "aten::index_put_", "aten::index_put") and any(
            part.dtype in (torch.bool, torch.uint8) for part in _flat(args[1])
        ):
            raise NotCapturable(f"{name} with a mask needs the number of its hits on the host")
        result = func(*args, **(kwargs or {}))
        if name in COPIES and isinstance(result, torch.Tensor):
            source = tensors[1] if name != "aten::_to_copy" else tensors[0]
            if source.device.type != result.device.type:
                raise NotCapturable(f"{name} moves data from {source.device.type} to {result.device.type}")
        return result


class _ListCheck(TorchFunctionMode):
    """Finds the numbers of the host that torch brings to the device before it dispatches anything."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        result = func(*args, **named)
        if func in MADE_OF and result.device.type != "cpu":
            numbers = args[0] if args else named[MADE_OF[func]]
            if not isinstance(numbers, torch.Tensor):
                raise NotCapturable(f"torch.{func.__name__} brings numbers of the host to {result.device.type}")
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__) and args[0].device.type != "cpu":
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(isinstance(part, (list, range, np.ndarray)) for part in index):
                raise NotCapturable(f"an index by a list brings it to {args[0].device.type}")
        return result


def _flat(args: Any) -> list[Any]:
    """Tensors of an argument list, nested lists opened."""
    if isinstance(args, (list, tuple)):
        return [part for item in args for part in _flat(item)]
    return [args] if isinstance(args, torch.Tensor) else []
