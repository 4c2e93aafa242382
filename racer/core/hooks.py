"""Hooks on a model's modules: somebody's code that runs between them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any

from torch.nn.modules import module as torch_module

FORWARD = ("_forward_pre_hooks", "_forward_hooks")
BACKWARD = ("_backward_pre_hooks", "_backward_hooks")
CAPTURING = ("transformers.utils.output_capturing",)
"""Where the hooks come from that transformers leaves behind once it was asked for hidden states."""
HARMLESS = ("transformers.", "torch.nn.utils.")
"""Where hooks come from that treat all places alike: outputs that are captured, norms and masks of weights."""
ALL = "all modules"


def foreign_hook(model: Any) -> str:
    """What kind of hook a module has that may count calls, rows or places; empty if none has.

    Some steer the last place of a text, or new tokens alone; a tree has them elsewhere, and a trial would be heard too.
    """
    where = hooked(model, FORWARD, HARMLESS)
    return where and f"a forward hook of {where if where == ALL else f'its {where}'}"


def hooked(model: Any, kinds: Sequence[str], harmless: tuple[str, ...]) -> str:
    """The class of the first module that has a hook of such a kind, or :data:`ALL`; empty if none has.

    :param harmless: beginnings of the names of modules whose hooks do not count.
    """

    def counts(hooks: Iterable[Any]) -> bool:
        return not all(_home(hook).startswith(harmless) for hook in hooks)

    if any(counts(getattr(torch_module, f"_global{kind}").values()) for kind in kinds):
        return ALL
    for module in model.modules():
        own = vars(module)
        if any(own.get(kind) and counts(own[kind].values()) for kind in kinds):
            return type(module).__name__
    return ""


def _home(hook: Any) -> str:
    """The name of the module that a hook is from."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return getattr(hook, "__module__", None) or type(hook).__module__
