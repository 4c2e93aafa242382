"""Forward hooks on a model's modules: who listens or interferes there would see trees where it expects text."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from torch.nn.modules import module as torch_module

HARMLESS = ("transformers.", "torch.nn.utils.")
"""Where hooks come from that treat all places alike: outputs that are captured, norms and masks of weights."""


def foreign_hook(model: Any) -> str:
    """What kind of hook a module has that may count calls, rows or places; empty if none has.

    Some steer the last place of a text, or new tokens alone; a tree has them elsewhere, and a trial would be heard too.
    """
    if any(map(_foreign, _of_all_modules())):
        return "a forward hook of all modules"
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            if hooks and any(map(_foreign, hooks.values())):
                return f"a forward hook of its {type(module).__name__}"
    return ""


def _of_all_modules() -> Iterator[Any]:
    yield from torch_module._global_forward_pre_hooks.values()
    yield from torch_module._global_forward_hooks.values()


def _foreign(hook: Any) -> bool:
    while isinstance(hook, functools.partial):
        hook = hook.func
    home = getattr(hook, "__module__", None) or type(hook).__module__
    return not home.startswith(HARMLESS)
