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
import torch

from racer.engine.static.capture_check import CaptureCheck

MAX_GRAPHS = 64
"""Graphs that one batch may hold; the least recently used one makes room. Each costs some megabytes of its own."""
WARM_UPS = 2
"""Runs before a capture, in which libraries choose their kernels and allocate what they keep."""


class GraphWarning(UserWarning):
    """A model or a step could not be captured or compiled; decoding goes on without."""


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
