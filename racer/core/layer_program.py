"""A layer's pass as a list of calls of machine code, and such lists one after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from itertools import chain as joined
from itertools import repeat
from operator import is_
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor, nn

from racer.kernels.native.program import CALL, FILL, running
from racer.kernels.native.small import storing

if TYPE_CHECKING:
    from racer.core.kv_cache import TreeCache

MOST = 64
"""Nodes of a pass that may be recorded, or run from a recording."""
NODES, SLOTS, END, INPUTS = 0, 1, 2, 3
"""Registers: nodes, slots that are attended to, slots that are committed, and from here on places of what is given."""


_Weight = tuple[dict[str, Any], str, Tensor, int]
"""Where it is held, its name, itself, its place."""


@attrs.frozen
class Slots:
    """An argument that tells where a layer's keys or values lie. It changes with the cache."""

    layer: int
    values: bool
    """Or else keys."""
    by_head: bool = False
    """How many bytes one head's are from the next one's, in place of where the first lie."""

    def of(self, cache: TreeCache) -> int:
        slots = cache.layer(self.layer)[self.values]
        return slots.stride(1) * slots.element_size() if self.by_head else slots.data_ptr()


@attrs.frozen
class Depends:
    """An argument that is ``factor`` times a register, and ``more``."""

    register: int
    factor: int = 1
    more: int | Slots = 0


def states_of(module: Any) -> list[dict[str, Any]]:
    """What a module holds, and those within it that can be run."""
    own = vars(module)
    within = [child for child in own["_modules"].values() if child is not None]
    run = (child for child in within if type(child).forward is not nn.Module.forward)
    return [own, *(state for child in run for state in states_of(child))]


class _Rests:
    """What a recording rests on: where weights lie, and what modules are made of.

    It is asked in every step for hundreds of modules, so that what is asked is laid out in lists, which are gone
    through without Python in between.
    """

    def __init__(self, weights: Sequence[_Weight], states: Sequence[dict[str, Any]]) -> None:
        self._weights, self._states = weights, states
        self._holders, self._names = [holder for holder, *_ in weights], [name for _, name, *_ in weights]
        self._held, self._places = [held for _, _, held, _ in weights], [place for *_, place in weights]
        self._modules = [state["_modules"] for state in states if state["_modules"]]
        self._children = self._children_now()

    @classmethod
    def of_all(cls, rests: Sequence[_Rests]) -> _Rests:
        """What several recordings rest on together."""
        weights = [weight for one in rests for weight in one._weights]
        return cls(weights, [state for one in rests for state in one._states])

    def hold(self) -> bool:
        """Whether all weights lie where they lay, and modules are what they were, without hooks.

        Plain settings of modules are not looked at: what is set within a call counts from the next one on.
        """
        states = self._states
        return not (
            any(map(dict.get, states, repeat("_forward_hooks")))
            or any(map(dict.get, states, repeat("_forward_pre_hooks")))
            or any(map(dict.__contains__, states, repeat("forward")))
        ) and (
            all(map(is_, map(dict.get, self._holders, self._names), self._held))
            and list(map(Tensor.data_ptr, self._held)) == self._places
            and self._children_now() == self._children
        )

    def _children_now(self) -> list[Any]:
        return list(joined.from_iterable(map(dict.values, self._modules)))


class Program:
    """A layer's pass, to be run again."""

    def __init__(
        self,
        calls: Sequence[tuple[Any, tuple[Any, ...]]],
        every: Tensor,
        weights: list[_Weight],
        states: list[dict[str, Any]],
        kept: list[Any],
    ) -> None:
        """
        :param every: the result, with room for as many nodes as there may be.
        :param weights: see :attr:`Recorder.weights`.
        :param states: of the modules that take part.
        :param kept: what must not go.
        """
        lists, table = [], []
        fills: list[int] = []
        bound: list[tuple[Any, int, Slots]] = []
        ends: list[tuple[int, Slots]] = []
        for function, arguments in calls:
            own = (ctypes.c_int64 * max(len(arguments), 1))()
            for index, part in enumerate(arguments):
                if isinstance(part, Depends):
                    more = part.more
                    if isinstance(more, Slots):
                        ends.append((len(fills) + 3, more))
                        more = 0
                    fills += [ctypes.addressof(own) + 8 * index, part.register, part.factor, more]
                elif isinstance(part, Slots):
                    bound.append((own, index, part))
                else:
                    own[index] = part
            lists.append(own)
            table += [function.by_list, ctypes.addressof(own)]
        self._lists, self.weights, self._kept = lists, weights, kept
        self.names = [function.name for function, _ in calls]
        """Of the machine code that is called."""
        self.rests = _Rests(weights, states)
        self._table = (ctypes.c_int64 * len(table))(*table)
        self._fills = (ctypes.c_int64 * max(len(fills), 1))(*fills)
        self._bound = [*bound, *((self._fills, index, slots) for index, slots in ends)]
        self._arguments = ctypes.addressof(self._table), len(calls), ctypes.addressof(self._fills), len(fills) // FILL
        self._run = running()
        self._registers = (ctypes.c_int64 * 16)()
        self._place = ctypes.addressof(self._registers)
        self.every, self._result = every, every
        """The result of as many nodes as there may be, and of the last pass."""

    @property
    def table(self) -> list[int]:
        """What is called, and with which lists."""
        return list(self._table)

    def filled(self) -> list[list[int]]:
        """What is filled in: place, register, factor, and what is added."""
        numbers = list(self._fills)[: FILL * self._arguments[3]]
        return [numbers[start : start + FILL] for start in range(0, len(numbers), FILL)]

    def bind(self, cache: TreeCache) -> None:
        """Have it run with the keys and values of ``cache`` from now on."""
        for numbers, index, slots in self._bound:
            numbers[index] = slots.of(cache)

    def is_current(self) -> bool:
        """See :meth:`_Rests.hold`."""
        return self.rests.hold()

    def run(self, nodes: int, slots: int, end: int, inputs: Sequence[Tensor]) -> Tensor:
        """The layer's result ``[1, N, ...]``, good until the layer after the next has run."""
        _fill(self._registers, nodes, slots, end, inputs)
        self._run(*self._arguments, self._place)
        if self._result.shape[1] != nodes:
            self._result = self.every.narrow(1, 0, nodes)
        return self._result


class Chain:
    """Programs of layers that follow one another, run as one. Each result has a place of its own.

    :param keys: what tells them.
    :param programs: each goes on from what the one before it gave, and is given the same besides.
    """

    def __init__(self, keys: Sequence[Any], programs: Sequence[Program]) -> None:
        self.keys, self._programs = keys, programs
        self._rests = _Rests.of_all([program.rests for program in programs])
        self._every = [torch.empty_like(program.every) for program in programs]
        self.results = self._every
        """Of the last pass."""
        self._copies = [self._copy(program.every, own) for program, own in zip(programs, self._every, strict=True)]
        table: list[int] = []
        for program, copy in zip(programs, self._copies, strict=True):
            table += [*program.table, storing().by_list, ctypes.addressof(copy)]
        fills = self._filled()
        self._table = (ctypes.c_int64 * len(table))(*table)
        self._fills = (ctypes.c_int64 * len(fills))(*fills)
        self._arguments = (
            ctypes.addressof(self._table), len(table) // CALL, ctypes.addressof(self._fills), len(fills) // FILL,
        )  # fmt: skip
        self._run = running()
        self._registers = (ctypes.c_int64 * 16)()
        self._place = ctypes.addressof(self._registers)

    @staticmethod
    def _copy(result: Tensor, to: Tensor) -> Any:
        """Arguments of a call that copies a result to its own place: the layer after the next writes over it."""
        size = result[0, 0].numel() * result.element_size()
        return (ctypes.c_int64 * 9)(result.data_ptr(), to.data_ptr(), 1, 0, size, 0, size, 0, size)

    def _filled(self) -> list[int]:
        fills: list[int] = []
        for index, (program, copy) in enumerate(zip(self._programs, self._copies, strict=True)):
            for place, register, factor, more in program.filled():
                if register == INPUTS and index:
                    register, factor, more = NODES, 0, self._every[index - 1].data_ptr()
                fills += [place, register, factor, more]
            fills += [ctypes.addressof(copy) + 8 * 3, NODES, 1, 0]
        return fills

    def bind(self) -> None:
        """Follow the programs, after they were bound."""
        for index, number in enumerate(self._filled()):
            self._fills[index] = number

    def is_current(self) -> bool:
        """See :meth:`_Rests.hold`."""
        return self._rests.hold()

    def run(self, nodes: int, slots: int, end: int, inputs: Sequence[Tensor]) -> None:
        """Let all layers run, the first from ``inputs``."""
        _fill(self._registers, nodes, slots, end, inputs)
        self._run(*self._arguments, self._place)
        if self.results[0].shape[1] != nodes:
            self.results = [every.narrow(1, 0, nodes) for every in self._every]


def _fill(registers: Any, nodes: int, slots: int, end: int, inputs: Sequence[Tensor]) -> None:
    registers[NODES], registers[SLOTS], registers[END] = nodes, slots, end
    for index, part in enumerate(inputs, INPUTS):
        registers[index] = part.data_ptr()
