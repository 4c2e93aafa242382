"""One row of one ``generate`` call."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Sequence
from typing import Any, NoReturn

import attrs
import torch
from torch import Tensor

_ids = itertools.count()
_GOLDEN = 0x9E3779B97F4A7C15
"""2**64 / golden ratio, odd."""


class ReadOnlyList(list[int]):
    """A list that is read at a list's speed, and that nobody changes who is shown it: its methods that would, raise.

    Slices and copies are lists of their own.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("this list belongs to the decode loop and is read-only: change a copy")

    append = extend = insert = pop = remove = clear = sort = reverse = _refuse
    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse

    def __reduce_ex__(self, _: Any) -> tuple[type[ReadOnlyList], tuple[list[int]]]:
        return ReadOnlyList, (list(self),)  # a copy would be filled by the methods above


@attrs.frozen(eq=False)
class Request:
    """One row of one ``generate`` call, from its prompt to its last token.

    Plugins are shown it and read it; the decode loop alone writes, by the functions of this module.
    """

    prompt: tuple[int, ...]
    """The prompt without padding."""
    padding: tuple[int, ...] = ()
    """The padding ids to the left of the prompt; logits processors see them, as in ``generate``."""
    limit: int = 2**31
    """New tokens it may have."""
    seed: int = 0
    """Keys the noise of this row's sampled tokens."""
    tenant: Hashable = None
    """Whose text it is: what is learned of one tenant's must not be drafted to another (drafts show in timing)."""
    stop_tokens: frozenset[int] = frozenset()
    """Ids that end this row, beside those that end any row of its batch."""
    budget: int | None = None
    """Most nodes that its trees may have, the root included; None: as many as the step has."""
    id: int = attrs.field(factory=lambda: next(_ids))
    """Unique in this process."""
    tokens: ReadOnlyList = attrs.field(
        init=False, default=attrs.Factory(lambda request: ReadOnlyList(request.prompt), takes_self=True)
    )
    """Prompt and emitted tokens; the last one is the next root."""
    accept_lengths: ReadOnlyList = attrs.field(init=False, factory=ReadOnlyList)
    """New tokens of each step, the bonus token included; less those that were taken back."""
    done: bool = attrs.field(init=False, default=False)

    @property
    def emitted(self) -> list[int]:
        return self.tokens[len(self.prompt) :]

    @property
    def remaining(self) -> int:
        return len(self.prompt) + self.limit - len(self.tokens)


def row_seed(seed: int, row: int) -> int:
    """The seed of one row of a call, ``0 <= row < 2**20``.

    No two rows of calls whose seeds are less than ``2**40`` apart share one: multiples of the golden ratio keep their
    distance (those of n successive numbers about ``2**64 / (n * sqrt(5))`` at least). With ``seed + row``, row 1 of one
    call would be row 0 of the next.
    """
    return (seed * _GOLDEN + row) % 2**64


def add_token(request: Request, token: int) -> None:
    """Emit a token."""
    list.append(request.tokens, token)


def add_tokens(request: Request, tokens: Sequence[int]) -> None:
    """Emit several."""
    list.extend(request.tokens, tokens)


def cut(request: Request, length: int) -> None:
    """Take back the tokens behind the first ``length``: the text has ended before them.

    The steps that gave them are noted with fewer, or not at all.
    """
    list.__delitem__(request.tokens, slice(length, None))
    surplus = 1 + sum(request.accept_lengths) - len(request.emitted)  # the prompt's step gave the first one
    while surplus > 0 and request.accept_lengths:
        last = list.pop(request.accept_lengths)
        if last > surplus:
            list.append(request.accept_lengths, last - surplus)
        surplus -= last


def add_step(request: Request, new_tokens: int) -> None:
    """Note how many tokens a step gave."""
    list.append(request.accept_lengths, new_tokens)


def end(request: Request) -> None:
    """Say that nothing more is emitted."""
    object.__setattr__(request, "done", True)


def signed_seeds(requests: Sequence[Request], device: torch.device) -> Tensor:
    """``[B]`` the requests' seeds, as torch's int64 holds 64 bits."""
    return torch.tensor([(request.seed + 2**63) % 2**64 - 2**63 for request in requests], device=device)
