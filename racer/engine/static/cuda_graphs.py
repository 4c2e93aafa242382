"""CUDA graphs: a step's operations recorded once for each of its shapes, and then replayed by a single launch.

Nothing here knows what is recorded. A body is a function without arguments that works on tensors of fixed addresses
and returns tensors; its replay does the same work on the same addresses. All graphs of one batch share one memory
pool, as only one of them runs at a time; what a body returns stays valid until another graph of the pool is replayed.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from contextlib import suppress
from functools import cache
from typing import Any

import attrs
import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

MAX_GRAPHS = 64
"""Graphs that one batch may hold; the least recently used one makes room. Each costs some megabytes of its own."""
WARM_UPS = 2
"""Runs before a capture, in which libraries choose their kernels and allocate what they keep."""


class GraphWarning(UserWarning):
    """A model or a step could not be captured or compiled; decoding goes on without."""


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


@attrs.frozen
class Key:
    """What a recording is for."""

    nodes: int
    slots: int
    kind: Hashable
    """Everything else that the operations depend on."""


Body = Callable[[], Any]


class Eager:
    """Runs bodies as they are.

    :param rehearses: whether each new key is run once beforehand, so that what is compiled is compiled there.
    """

    captures = False

    def __init__(self, rehearses: bool = False) -> None:
        self._rehearses = rehearses
        self._seen: set[Key] = set()

    def ready(self, key: Key) -> bool:
        """Whether :meth:`run` may be called."""
        return not self._rehearses or key in self._seen

    def prepare(self, key: Key, body: Body, check: bool) -> None:
        """Get ready for ``key``. Runs ``body``; whatever that raises is passed on, and nothing has been recorded.

        :param check: whether ``body`` should first be checked for operations that no graph can hold.
        """
        body()
        self._seen.add(key)

    def run(self, key: Key, body: Body) -> Any:
        """What ``body`` returns. It was prepared."""
        return body()

    def forget(self) -> None:
        """Drop all recordings: addresses have changed."""
        self._seen.clear()


class Graphs:
    """Captures bodies and replays them.

    :param device: a CUDA device.
    """

    captures = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._recordings: OrderedDict[Key, tuple[Any, Any]] = OrderedDict()
        self._checked: set[tuple[Hashable, bool]] = set()
        """Kinds of step, and whether of one node: that one needs less."""
        # warm-up and capture share a stream, so that what libraries keep for each stream is there before the capture
        self._side: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None
        self._anchor = _anchor(device)

    def ready(self, key: Key) -> bool:
        """Whether :meth:`run` may be called."""
        return key in self._recordings

    def prepare(self, key: Key, body: Body, check: bool) -> None:
        """See :meth:`Eager.prepare`."""
        step = key.kind, key.nodes > 1
        if check and step not in self._checked:
            with CaptureCheck():  # type: ignore[no-untyped-call]
                body()
            self._checked.add(step)
        while len(self._recordings) >= MAX_GRAPHS:
            old, _ = self._recordings.popitem(last=False)
            self._checked.discard((old.kind, old.nodes > 1))
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        self._recordings[key] = capture(body, self._device, self._side, self._pool)

    def run(self, key: Key, body: Body) -> Any:
        self._recordings.move_to_end(key)
        graph, outcome = self._recordings[key]
        graph.replay()
        return outcome

    def forget(self) -> None:
        torch.cuda.synchronize(self._device)
        self._recordings.clear()
        self._checked.clear()  # kinds name objects that recordings keep, and others may come to lie there
        self._pool = None  # the memory goes with the last graph; a new pool must not mix with it


def capture(body: Body, device: torch.device, side: Any, pool: Any) -> tuple[Any, Any]:
    """The graph of ``body``, and what it returned while it was captured. The device is left as it was found.

    :raises Exception: whatever ``body`` or the capture raised; nothing is left behind.
    """
    with torch.cuda.device(device):
        current = torch.cuda.current_stream(device)
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                body()
        current.wait_stream(side)
        random = torch.cuda.default_generators[device.index or 0]
        spare = random.clone_state()
        graph: Any = torch.cuda.CUDAGraph()
        try:
            # torch.cuda.graph does not give the stream back if the capture cannot be ended; the outer block does.
            # thread_local: what other threads do meanwhile is their own affair
            with (
                torch.cuda.stream(side),
                torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"),
            ):
                outcome = body()
        except BaseException:
            with suppress(Exception):  # a broken capture would leave the generator waiting for its end
                random.graphsafe_set_state(spare)
            with suppress(Exception):
                torch.cuda.synchronize(device)
            _end_allocation(device, pool)
            raise
    return graph, outcome


def _end_allocation(device: torch.device, pool: Any) -> None:
    """After a capture that could not be ended, torch believes that it goes on, and refuses all others; end it.

    Does nothing where it was ended: then torch knows of none.
    """
    names = "_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"  # of newer and older versions
    end = next((found for name in names if (found := getattr(torch._C, name, None))), None)
    with suppress(Exception):
        if end is not None:
            end(device.index or 0, pool)
            torch._C._cuda_releasePool(device.index or 0, pool)


@cache
def _anchor(device: torch.device) -> Any:
    """A graph that is never captured, kept for the process.

    With the first one, torch makes a tensor for the random generator; one that is made under inference mode could not
    be written to by later captures outside of it (pytorch #166792).
    """
    with torch.inference_mode(False):
        graph: Any = torch.cuda.CUDAGraph()
        graph.register_generator_state(torch.cuda.default_generators[device.index or 0])
    return graph


def reason_of(error: BaseException) -> str:
    """What went wrong first: an error during a capture is followed by others that tell less."""
    while error.__context__ is not None and not error.__suppress_context__:
        error = error.__context__
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


def warn_of(model: Any, what: str, error: BaseException) -> None:
    """Say what decoding goes on without, and why."""
    warnings.warn(f"{type(model).__name__} {what}: {reason_of(error)}", GraphWarning, stacklevel=2)
