"""What runs forward passes in a model's place while RACER decodes, and what becomes of it if that fails."""

from __future__ import annotations

import weakref
from functools import partial
from typing import Any, Protocol

import attrs

from racer.core.fast_linear import twin_of_layer
from racer.core.fast_parts import fast_forward
from racer.core.few_rows import Looks, few_rows
from racer.core.kept_programs import KeptPrograms
from racer.core.layer_programs import LayerPrograms, programmed_forward
from racer.core.model_state import state_of
from racer.core.packed_weights import PackedModel
from racer.core.short_passes import short_forward
from racer.core.twin import Configs, intercepted, twin_of
from racer.errors import first_line


def call_model(model: Any, **inputs: Any) -> Any:
    """The model's public forward, nothing around it."""
    return model(**inputs)


class States(Protocol):
    """What a forward pass writes into, if it cannot be written twice."""

    def mark(self) -> None:
        """Note it as it is."""

    def back(self) -> None:
        """Return to what was noted."""


@attrs.define(eq=False)
class StandIn:
    """A model and its twin (:mod:`racer.core.twin`), for one call."""

    model: Any
    packed: PackedModel | None = None
    """The weights that it multiplies with in its place, if any."""
    configs: Configs | None = None
    """What its modules see in the place of their configuration."""
    short_passes: bool = False
    """Whether linear attention takes short passes in one piece (:mod:`racer.core.short_passes`)."""
    recorded: bool = True
    """Whether layers are recorded: not for passes of many rows, as prompts have."""
    looks: Looks = attrs.field(init=False, factory=Looks)
    """How many weights it has looked at so far; a pass in which it looks at some takes longer."""
    twin: Any = attrs.field(init=False)
    """None: the model runs itself."""
    _kept: KeptPrograms = attrs.field(init=False)
    """The model's, when the call began: what is released meanwhile gets nothing back."""
    _programs: LayerPrograms | None = attrs.field(init=False)
    """Recordings of layers, until the call ends."""
    _proven: bool = attrs.field(init=False, default=False)
    """Whether the twin has been through a pass."""

    def __attrs_post_init__(self) -> None:
        ways = few_rows(self.model)
        leaf = partial(twin_of_layer, ways, self.packed, self.looks) if ways is not None else None
        makers: list[Any] = [short_forward] if self.short_passes else []
        recorded = ways is not None and self.recorded
        makers += [fast_forward] if ways is not None else []
        makers += [programmed_forward] if recorded else []
        self._kept = state_of(self.model).part(KeptPrograms)
        self._programs = self._kept.take(self.model, self._kind) if recorded else None
        own = weakref.ref(self)

        def programs() -> LayerPrograms | None:
            stand_in = own()
            return None if stand_in is None else stand_in._programs

        self.twin = twin_of(self.model, leaf, self.configs, makers, programs)

    @property
    def _kind(self) -> tuple[bool, ...]:
        """Calls of one kind run the same code in their layers."""
        return self.configs is not None, self.packed is not None, self.short_passes

    def close(self) -> None:
        """End the call: recordings are left to the next one. What still runs goes without."""
        programs, self._programs = self._programs, None
        if programs is not None and self.twin is not None:
            self._kept.give_back(self._kind, programs)

    def run(self, inputs: dict[str, Any], states: States | None = None) -> Any:
        """The output of a forward pass. A twin that fails is given up, and the model runs itself.

        :param states: what half of a failed pass must be taken back from.
        """
        if self.twin is None or intercepted():
            return call_model(self.model, **inputs)
        if states is not None and self._proven:
            return call_model(self.twin, **inputs)
        if states is not None:
            states.mark()
        try:
            output = call_model(self.twin, **inputs)
        except Exception as error:
            failure = f"its twin fails with {type(error).__name__}: {first_line(error)}"
        else:
            self._proven = True
            return output
        if states is not None:
            states.back()
            states.mark()
        self.twin = None
        output = call_model(self.model, **inputs)  # raises what is the model's own
        if self.packed is not None:
            self.packed.give_up(failure)
        return output
