"""Stop strings, which transformers would lose on the way to a callable."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import StoppingCriteriaList, StopStringCriteria

from racer.errors import UnsupportedGeneration


def move_stop_strings(model: Any, kwargs: dict[str, Any]) -> None:
    """Turn ``stop_strings`` into a criterion: transformers would lose the tokenizer on the way to a callable."""
    config = kwargs.get("generation_config")
    strings = kwargs.pop("stop_strings", None)
    strings = strings or getattr(config, "stop_strings", None) or model.generation_config.stop_strings
    tokenizer = kwargs.pop("tokenizer", None)
    if not strings:
        return
    if tokenizer is None:
        raise UnsupportedGeneration("stop_strings need the tokenizer: pass tokenizer=... to generate")
    if getattr(config, "stop_strings", None):
        kwargs["generation_config"] = copy.deepcopy(config)
        kwargs["generation_config"].stop_strings = None
    criteria = StoppingCriteriaList(kwargs.get("stopping_criteria") or ())
    kwargs["stopping_criteria"] = StoppingCriteriaList([*criteria, StopStringCriteria(tokenizer, strings)])


@contextmanager
def without_stop_strings(model: Any) -> Iterator[None]:
    """The model's own default would be filled in again, and ask for a tokenizer."""
    strings = model.generation_config.stop_strings
    if strings is None:
        yield
        return
    model.generation_config.stop_strings = None
    try:
        yield
    finally:
        model.generation_config.stop_strings = strings
