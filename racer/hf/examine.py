"""What RACER can do with a model, and why not more."""

from __future__ import annotations

from typing import Any

import attrs

from racer.core.model_state import base_of, uncompiled
from racer.core.support import probe


@attrs.frozen
class Examination:
    """How a model is decoded."""

    model: str
    """Its class."""
    way: str
    """``tree``: whole trees are scored in one forward pass. ``chain``: the best path of each tree is, in transformers'
    own cache. ``plain``: transformers decodes."""
    reason: str
    """Why not in a better way; empty for ``tree``."""
    padding_reason: str
    """Why left-padded rows are decoded plainly; empty if they are not, or all calls are."""
    windows: tuple[int, ...]
    """Lengths that its configuration names, beyond which it is tried too."""
    vocab_size: int

    def __str__(self) -> str:
        text = f"{self.model}: {self.way}"
        if self.reason:
            text += f" ({self.reason})"
        if self.padding_reason and self.way != "plain":
            text += f"; left-padded rows plain ({self.padding_reason})"
        return text


def examine(model: Any, tokens: int = 0) -> Examination:
    """How ``racer.generate`` decodes with ``model``, found out by trying it with a few tokens.

    :param model: a Hugging Face model, or what ``torch.compile`` or PEFT made of it.
    :param tokens: that a call takes, new ones included: the model is tried beyond every window that is shorter, and
        some can only be decoded so up to a certain length.
    """
    model = base_of(uncompiled(model))
    support = probe(model, tokens)
    return Examination(
        model=type(model).__name__,
        way=support.way,
        reason=support.reason or support.tree_reason,
        padding_reason=support.padding_reason,
        windows=support.windows,
        vocab_size=support.vocab_size,
    )
