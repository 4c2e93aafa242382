"""The wall between plugins and the decode loop: a drafter may be wrong, never harmful.

:func:`attempt` is the one way in which the loop calls foreign code.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from racer.errors import of_the_plugin, told, warn_of_plugin
from racer.step.draft_tree import FAULTS, DraftTree
from racer.step.request import Request
from racer.step.verdict import Verdict
from racer.step.view import StepView
from racer.torch_modes import TorchModes

if TYPE_CHECKING:
    from racer.strategies.base import Drafter


class PluginWarning(UserWarning):
    """A plugin misbehaved; decoding went on without it."""


class WarnOnce:
    """Each culprit is named once, however often it fails."""

    def __init__(self) -> None:
        self._named: set[str] = set()

    def about(self, culprit: str, reason: BaseException | str) -> None:
        """Warn, unless ``culprit`` was warned of before."""
        if culprit in self._named:
            return
        self._named.add(culprit)
        text = told(reason) if isinstance(reason, BaseException) else reason
        warn_of_plugin(f"{culprit} is left out where it fails: {text}", PluginWarning)


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect the texts of plugin warnings, whatever the filters say; other warnings are shown as ever."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PluginWarning)
        yield texts
    for warning in caught:
        if issubclass(warning.category, PluginWarning):
            texts.append(str(warning.message))
        warnings.showwarning(warning.message, warning.category, warning.filename, warning.lineno)


Complain = Callable[["BaseException | str"], None]


def attempt(complain: Complain, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """``call(*args, **named)``, or None and a complaint. Whatever it leaves of torch's modes is put back.

    An interrupt goes through; see :func:`racer.errors.of_the_plugin`.
    """
    modes = TorchModes.now()
    try:
        answer, problem = call(*args, **named), None
    except BaseException as error:
        if not of_the_plugin(error):
            raise
        answer, problem = None, error
    finally:
        left = modes.restore()
    if problem is not None:
        complain(problem)
    elif left:
        complain(f"it left {left} switched, which was put back")
    return answer


def check_form(tree: Any, batch: int, budget: int) -> DraftTree:
    """What can be told without reading tensors: types, shapes, devices. A tree over budget is an error too.

    :raises ValueError: the reason.
    """
    if not isinstance(tree, DraftTree):
        raise ValueError(f"its draft is a {type(tree).__name__}, not a DraftTree or None")
    shape = tuple(tree.tokens.shape)
    if len(shape) != 2 or shape[0] != batch or shape[1] < 1:
        raise ValueError(f"its tree has tokens of shape {shape}, expected ({batch}, N)")
    if shape[1] > budget:
        raise ValueError(f"its tree has {shape[1]} columns, the budget is {budget}")
    columns = {"tokens": tree.tokens, "parent": tree.parent, "score": tree.score, "source": tree.source}
    for name, part in columns.items():
        if part is not None and part.layout != torch.strided:
            raise ValueError(f"its tree has a sparse {name}")
        if part is not None and (part.shape != shape or part.is_meta):
            raise ValueError(f"its tree has {name} of shape {tuple(part.shape)} on {part.device}, expected {shape}")
        if part is not None and name != "score" and part.dtype != torch.int64:
            raise ValueError(f"its tree has {name} of type {part.dtype}, expected torch.int64")
    if not all(isinstance(name, str) for name in tree.sources):
        raise ValueError(f"its tree has sources {tree.sources!r}, expected names")
    if tree.count.shape != (batch,) or tree.count.dtype != torch.int64:
        raise ValueError(f"its tree has count of shape {tuple(tree.count.shape)}, expected ({batch},) of torch.int64")
    if len({str(part.device) for part in (*columns.values(), tree.count) if part is not None}) > 1:
        raise ValueError("its tree has tensors on different devices")
    return tree


def fault_text(bits: int) -> str:
    """The faults of a malformed tree in words."""
    return "its tree is malformed: " + "; ".join(text for bit, text in FAULTS.items() if bits & bit)


class Guard:
    """A drafter that cannot fail: errors and malformed trees become warnings and a None."""

    def __init__(self, drafter: Drafter, warn_once: WarnOnce | None = None) -> None:
        self.drafter = drafter
        self.label = drafter.label
        self.needs = drafter.needs
        self.warn_once = warn_once or WarnOnce()

    def opened(self, request: Request) -> None:
        self.attempt(self.drafter.opened, request)

    def draft(self, view: StepView, budget: int) -> DraftTree | None:
        """The drafter's trees, each sound; a faulty row is cut back to its root."""
        answer = self.attempt(self.drafter.draft, view, budget)
        tree: DraftTree | None = (
            None if answer is None else self.attempt(check_form, answer, len(view.requests), budget)
        )
        if tree is None:
            return None
        # a host tree is compared with the host's own roots: fetching the device's would synchronise
        ends = torch.tensor([request.tokens[-1] for request in view.requests])
        root = ends if tree.tokens.device.type == "cpu" else view.root.to(tree.tokens.device)
        faults = tree.faults(root, view.vocab_size)
        if faults.device.type == "cpu" and (bits := int(faults.max())):  # elsewhere, reading would synchronise
            self.complain(fault_text(bits))
        return tree.sound(faults, root)

    def observe(self, view: StepView, tree: DraftTree, verdict: Verdict) -> None:
        self.attempt(self.drafter.observe, view, tree, verdict)

    def closed(self, request: Request) -> None:
        self.attempt(self.drafter.closed, request)

    def complain(self, reason: BaseException | str) -> None:
        self.warn_once.about(f"drafter {self.label!r}", reason)

    def attempt(self, call: Callable[..., Any], *args: Any) -> Any:
        """``call(*args)``, or None and a warning."""
        return attempt(self.complain, call, *args)
