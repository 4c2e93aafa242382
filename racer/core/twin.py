"""A second set of module objects over a model's own state, in which some parts work otherwise.

While RACER decodes, some layers shall multiply with packed weights, and attention shall be grouped. Nothing of the
user's model is touched for that, since others may run, copy or pickle it meanwhile, and ^C may come at any moment: a
*twin* is made for each call, and goes with it. A module's twin is of a class of its own, derived from the module's, and
**shares the module's** ``__dict__``: parameters, buffers, settings and whatever a forward pass notes on ``self`` are
the model's, read and written as ever. Its children are looked up in the model's and then exchanged for their twins;
parts that need no twin are the model's own.
"""

from __future__ import annotations

import abc
import inspect
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from types import FunctionType
from typing import Any

import attrs
import torch
from torch import nn
from torch.utils._device import DeviceContext

from racer.core.hooks import ALL, BACKWARD, CAPTURING, FORWARD, hooked
from racer.core.model_state import state_of

Forward = Callable[..., Any]
ForwardMaker = Callable[[type], Forward | None]
"""The forward that does what the one of a class of modules does, in another way; None for other classes."""
Leaf = Callable[[nn.Module], Any | None]
"""The twin of a module that shall have one of its own kind, made for this call; None for others."""


MOVES, RENAMES = "integrations/accelerate.py", "utils/deprecation.py"
"""Where transformers wraps forwards for weights that are fetched by hooks (a model that has hooks has no twin), and for
arguments under old names (by which no model calls its own parts)."""


def code_within(forward: FunctionType, *wrappers: str) -> FunctionType | None:
    """The function that a forward is, or that one of ``wrappers`` wraps; None within any other."""
    code: Any = inspect.unwrap(forward)
    known = code is forward or forward.__code__.co_filename.replace("\\", "/").endswith(wrappers)
    found: FunctionType | None = code if known else None
    return found


class Twin:
    """What twins of modules and of configurations have before their originals' classes."""

    __slots__ = ()

    def __init_subclass__(cls, **_: Any) -> None:
        """Nothing: what classes do when one is derived from them is not meant for a twin's."""

    @property  # type: ignore[misc]  # of object it could be set
    def __class__(self) -> type:  # the original's: lists of modules are sliced by it, transformers looks up its name
        return type(self).__bases__[1]


class ModuleTwin(Twin):
    """A module's twin."""

    __slots__ = ("_racer_children", "_racer_programs")
    _racer_children: Children
    _racer_programs: Callable[[], Any]
    """Gives whatever forwards that were made otherwise keep for the call; of the whole model."""

    @property
    def _modules(self) -> Children:
        return self._racer_children

    def __getattr__(self, name: str) -> Any:
        children = self._racer_children
        twin = children.twins.get(children.own.get(name))
        return super().__getattr__(name) if twin is None else twin  # type: ignore[misc]  # nn.Module's


class ConfiguredTwin(ModuleTwin):
    """The twin of a module that gets another configuration."""

    __slots__ = ("_racer_configs",)
    _racer_configs: Configs

    @property
    def config(self) -> Any:
        config = vars(self)["config"]
        return self._racer_configs.twin if config is self._racer_configs.own else config

    @config.setter
    def config(self, config: Any) -> None:
        vars(self)["config"] = config


@attrs.frozen(eq=False)
class Children(MutableMapping[str, Any]):
    """A module's children as they are just now, those that have twins exchanged."""

    own: dict[str, Any]
    twins: dict[Any, Any]
    """Of the whole model."""

    def __getitem__(self, name: str) -> Any:
        child = self.own[name]
        return self.twins.get(child, child)

    def __setitem__(self, name: str, child: Any) -> None:
        self.own[name] = child

    def __delitem__(self, name: str) -> None:
        del self.own[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.own)

    def __len__(self) -> int:
        return len(self.own)


@attrs.frozen(eq=False)
class Configs:
    """A configuration, and what twins of modules that have it see in its place."""

    own: Any
    twin: Any


class TwinClasses:
    """The classes of one model's twins. They hold no model, so that they can be kept with one."""

    def __init__(self) -> None:
        self._made: dict[tuple[type, type, Forward | None], type] = {}
        self._forwards: dict[tuple[type, Any, ForwardMaker], Forward | None] = {}

    def forward(self, original: type, makers: Sequence[ForwardMaker]) -> Forward | None:
        """The forward that the first of ``makers`` has for modules of class ``original``."""
        own = getattr(original, "forward", None)  # a class may get another one
        for maker in makers:
            if (original, own, maker) not in self._forwards:
                self._forwards[original, own, maker] = maker(original)
            if (forward := self._forwards[original, own, maker]) is not None:
                return forward
        return None

    def of(self, kind: type[Twin], original: type, forward: Forward | None = None) -> type:
        """The class of twins of kind ``kind`` of objects of class ``original``.

        :param forward: of modules whose own is not meant.
        :raises TypeError: there can be none.
        """
        made = self._made.get((kind, original, forward))
        if made is None:
            if type(original) not in (type, abc.ABCMeta):
                raise TypeError("a class that is made in a way of its own")
            names: dict[str, Any] = {"__slots__": (), "__module__": original.__module__}
            names |= {"__qualname__": original.__qualname__} | ({} if forward is None else {"forward": forward})
            made = self._made[kind, original, forward] = type(original)(original.__name__, (kind, original), names)
        return made


def share(original: Any, twin: Any, **own: Any) -> Any:
    """``twin``, made by ``object.__new__``, with the state of ``original``, and with ``own`` in its slots."""
    own["__dict__"] = vars(original)
    for name, value in own.items():
        object.__setattr__(twin, name, value)  # past nn.Module's, which would make a child of a module
    return twin


def twin_of(
    model: nn.Module,
    leaf: Leaf | None = None,
    configs: Configs | None = None,
    makers: Sequence[ForwardMaker] = (),
    programs: Callable[[], Any] = lambda: None,
) -> Any | None:
    """A model's twin; None where there is nothing to exchange, or where it might not do what the model does.

    It must not outlive the call, as it holds what the model holds.

    :param leaf: who makes the twins of layers that work otherwise.
    :param configs: what modules see in the place of their configuration.
    :param makers: who make forwards that do the same in another way, for modules of classes that they know.
    :param programs: gives what these keep for the call, as long as it lasts.
    """
    if (leaf is None and configs is None and not makers) or obstacle(model):
        return None
    twins: dict[Any, Any] = {}
    _visit(model, twins, set(), leaf, configs, state_of(model).part(TwinClasses), makers, programs)
    return twins.get(model)


def _visit(
    module: nn.Module,
    twins: dict[Any, Any],
    seen: set[nn.Module],
    leaf: Leaf | None,
    configs: Configs | None,
    classes: TwinClasses,
    makers: Sequence[ForwardMaker],
    programs: Callable[[], Any],
) -> bool:
    """Make the twins of a module and of what is below it; whether it has one."""
    if module in seen:
        return module in twins
    seen.add(module)
    if leaf is not None and (own := leaf(module)) is not None:
        twins[module] = own
        return True
    if vars(module).get("_compiled_call_impl") is not None:
        return False
    children = vars(module)["_modules"]
    below = [
        _visit(child, twins, seen, leaf, configs, classes, makers, programs)
        for child in children.values()
        if child is not None
    ]
    configured = configs is not None and vars(module).get("config") is configs.own
    forward = classes.forward(type(module), makers)
    if not (any(below) or configured or forward is not None):
        return False
    kind: type[ModuleTwin] = ConfiguredTwin if configured else ModuleTwin
    parts: dict[str, Any] = {"_racer_children": Children(children, twins), "_racer_programs": programs}
    if configured:
        parts["_racer_configs"] = configs
    try:
        twins[module] = share(module, object.__new__(classes.of(kind, type(module), forward)), **parts)
    except TypeError:  # slots, say
        return False
    return True


def obstacle(model: nn.Module) -> str:
    """Why a model has no twin, if so: somebody's code runs between its modules.

    It might write weights after they were looked at, or tell modules by their identity.
    """
    for module in model.modules():
        if "forward" in vars(module):
            return f"the forward of a {type(module).__name__} in it was replaced"
    where = hooked(model, FORWARD + BACKWARD, CAPTURING)
    if where == ALL:
        return "there are hooks on all modules"
    return where and f"a {where} in it has hooks"


def intercepted() -> bool:
    """Whether somebody looks at torch's operations in this thread, and may make others of them."""
    functions = [torch._C._get_function_stack_at(i) for i in range(torch._C._len_torch_function_stack())]
    others = any(type(mode) is not DeviceContext for mode in functions)
    return others or torch._C._len_torch_dispatch_stack() > 0
