"""Decoder layers that run from a recording of themselves (:mod:`racer.core.recording`).

Recordings outlive their call: writing them down takes as long as five or ten steps. The next call takes them if nothing
that they rest on was set otherwise since (:mod:`racer.core.layer_facts`), and binds them to its own cache.
"""

from __future__ import annotations

import weakref
from operator import is_
from types import FunctionType
from typing import Any

import attrs
from torch import Tensor

from racer.core.few_rows import TIMED
from racer.core.kv_cache import TreeCache
from racer.core.layer_facts import Facts
from racer.core.layer_pass import LayerPass, may_be_recorded, pass_of
from racer.core.layer_program import Chain, Program
from racer.core.recording import Arena, Recorder, Unrecordable, recorded
from racer.core.twin import RENAMES, Forward, code_within
from racer.kernels.native.assembling import NotHere


@attrs.define(eq=False)
class _Layer:
    """What is known of one layer, twins and original alike."""

    state: dict[str, Any]
    """Which twins share; by this it is told."""
    facts: list[Any] | None
    """Whenever it was recorded; None if they were not the same each time."""
    arena: int
    """Which of the two it writes to."""


@attrs.define(eq=False)
class LayerPrograms:
    """The recordings of a model's layers. One call uses them at a time."""

    made: dict[tuple[Any, ...], Program | None] = attrs.field(factory=dict)
    """By layer and kind of pass; None: it cannot be recorded."""
    arenas: tuple[Arena, Arena] = attrs.field(factory=lambda: (Arena(), Arena()))
    """In turns, as a layer reads what the one before it wrote."""
    layers: dict[int, _Layer] = attrs.field(factory=dict)
    """By the identity of its state."""
    refusal: str = ""
    """Why a layer could not be recorded, of the last one that could not."""
    chains: dict[tuple[Any, ...], Chain] = attrs.field(factory=dict)
    """Layers that followed one another in an earlier pass, by the first of them and the kind of pass."""
    _bound: tuple[weakref.ref[TreeCache], int] | None = None
    """The cache whose keys and values they read, and how often it had moved by then."""
    _last: tuple[dict[str, Any], LayerPass] | None = None
    """What the layer before was given, beside what it was to go on from."""
    _ran: list[tuple[tuple[Any, ...], Program, Tensor]] = attrs.field(factory=list)
    """Layers that have run from their recordings in this pass, one after the other, and their results."""
    _ahead: _Ahead | None = None
    """Layers that have run in this pass before anybody asked for them."""

    def rest(self) -> None:
        """Let go of what belongs to the call that used them."""
        self._last = self._ahead = self._bound = None
        self._ran = []

    def are_current(self, model: Any) -> bool:
        """Whether all layers of ``model`` are what they were when they were recorded."""
        facts, known = Facts(), dict(self.layers)
        for module in model.modules():
            layer = known.pop(id(vars(module)), None)
            if layer is not None and layer.facts != facts.of(module):
                return False
        return not known

    def layer(self, module: Any) -> _Layer:
        """What is known of a layer, or its twin, that is about to be recorded."""
        state, facts = vars(module), Facts().of(module)
        known = self.layers.setdefault(id(state), _Layer(state, facts, len(self.layers) % 2))
        if known.facts != facts:  # set otherwise between two recordings: no later call may use both
            known.facts = None
        return known

    def bind(self, cache: TreeCache) -> None:
        """Have all recordings read and write the keys and values of ``cache``, where they lie now."""
        if self._bound is not None and self._bound[0]() is cache and self._bound[1] == cache.moves:
            return
        for program in self.made.values():
            if program is not None:
                program.bind(cache)
        for chain in self.chains.values():
            chain.bind()
        self._bound = weakref.ref(cache), cache.moves

    def given(self, arguments: tuple[Any, ...], named: dict[str, Any]) -> LayerPass | None:
        """A layer's arguments, if a recording can take them. Most layers are given what the one before was given."""
        if len(arguments) == 1 and self._last is not None:
            before, given = self._last
            hidden = arguments[0]
            same = len(before) == len(named) and all(named.get(name, self) is part for name, part in before.items())
            if same and type(hidden) is Tensor and hidden.shape == given.inputs[0].shape and given.is_now(hidden):
                return attrs.evolve(given, inputs=[hidden, *given.inputs[1:]])
        self._end_run()
        self._ahead = None
        given_now = pass_of(arguments, named)
        if given_now is not None:
            self.bind(given_now.cache)
        self._last = (named, given_now) if given_now is not None and len(arguments) == 1 else None
        return given_now

    def foreseen(self, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
        """A layer's result, if it has run in this pass already, together with one before it.

        Where it is then not given what that one gave, unchanged, it runs again.
        """
        ahead = self._ahead
        if ahead is None:
            return None
        result = ahead.next(layer, arguments, named)
        if result is None:
            self._ahead = None
        return result

    def run_ahead(self, key: tuple[Any, ...], given: LayerPass, named: dict[str, Any]) -> Tensor | None:
        """A layer's result, if it can run together with those that followed it last time."""
        found = self.chains.get(key)
        if found is None or not found.is_current():
            return None
        found.run(given.nodes, given.slots, given.cache.end, given.inputs)
        states = [self.layers[name].state for name, _ in found.keys]
        self._ahead = _Ahead(found, states, named, given.inputs[1:])
        return self._ahead.result

    def note(self, key: tuple[Any, ...], program: Program, given: LayerPass, result: Tensor) -> None:
        """That a layer has run from its recording by itself."""
        again = any(program is other for _, other, _ in self._ran)  # its lists have room for one pass
        if again or (self._ran and self._ran[-1][2] is not given.inputs[0]):
            self._end_run()
        self._ran.append((key, program, result))

    def _end_run(self) -> None:
        ran, self._ran = self._ran, []
        if len(ran) > 1:
            keys, programs, _ = zip(*ran, strict=True)
            self.chains[keys[0]] = Chain(keys, programs)


class _Ahead:
    """A chain that has run, layer by layer, while its results are being asked for."""

    def __init__(self, ran: Chain, states: list[dict[str, Any]], named: dict[str, Any], rest: list[Tensor]) -> None:
        """
        :param states: of its layers, which tell them.
        :param named: what the first was given beside ``hidden``; ``rest`` are the tensors among it.
        """
        self._chain, self._states, self._named, self._rest = ran, states, named, rest
        self._given = list(named.values())
        self._versions = [part._version for part in rest]
        self._made = [part._version for part in ran.results]
        self._index = 0

    @property
    def result(self) -> Tensor:
        """Of the layer that was asked for last."""
        return self._chain.results[self._index]

    def next(self, layer: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
        """The result of ``layer(*arguments, **named)``; None if it is not the next, or not all is as it was when it
        ran."""
        last = self._index
        if last + 1 == len(self._states) or self._states[last + 1] is not vars(layer) or len(arguments) != 1:
            return None
        before = self._chain.results[last]
        same = (
            arguments[0] is before
            and before._version == self._made[last]
            and named.keys() == self._named.keys()
            and all(map(is_, map(named.get, self._named), self._given))
            and [part._version for part in self._rest] == self._versions
            and may_be_recorded()
        )
        if not same:
            return None
        self._index = last + 1
        return self.result


def programmed_forward(kind: type) -> Forward | None:
    """The forward of a decoder layer of class ``kind`` that runs from a recording; None of what is none."""
    from transformers.modeling_layers import GradientCheckpointingLayer

    own = getattr(kind, "forward", None)
    if not issubclass(kind, GradientCheckpointingLayer) or not isinstance(own, FunctionType):
        return None
    code: Any = code_within(own, RENAMES) or own

    def forward(self: Any, *arguments: Any, **named: Any) -> Any:
        programs: LayerPrograms | None = self._racer_programs()  # which go with the call
        if programs is None:
            return code(self, *arguments, **named)
        if (result := programs.foreseen(self, arguments, named)) is not None:
            return result
        given = programs.given(arguments, named)
        return code(self, *arguments, **named) if given is None else _run(programs, self, code, given, arguments, named)

    return forward


def _run(
    programs: LayerPrograms, layer: Any, code: Any, given: LayerPass, arguments: tuple[Any, ...], named: dict[str, Any]
) -> Any:
    key = (id(vars(layer)), given.kind)
    if len(arguments) == 1 and (result := programs.run_ahead(key, given, named)) is not None:
        return result
    program = programs.made.get(key)
    if program is not None and program.is_current():
        result = program.run(given.nodes, given.slots, given.cache.end, given.inputs)
        programs.note(key, program, given, result)
        return result
    if program is None and key in programs.made:
        return code(layer, *arguments, **named)
    arena = programs.arenas[programs.layer(layer).arena]
    if arena.holds(given.inputs[0].data_ptr()):
        return code(layer, *arguments, **named)
    arena.rewind()
    writer = Recorder(arena, given.nodes, given.inputs)
    result = recorded(writer, code, (layer, *arguments), named)
    try:
        program = writer.program(layer, result)
    except (Unrecordable, NotHere) as error:
        programs.refusal = str(error)
        if programs.refusal != TIMED:
            programs.made[key] = None
    else:
        program.bind(given.cache)
        programs.made[key] = program
    return result
