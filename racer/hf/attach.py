"""``model.generate`` decodes with RACER, until it is detached."""

from __future__ import annotations

import inspect
import types
import warnings
from collections.abc import Callable
from typing import Any

import attrs

from racer.config import DecodeConfig
from racer.core.model_state import StatePart, find_state, state_of
from racer.core.support import probe
from racer.engine.kept_strategies import StrategySets
from racer.errors import UnsupportedGeneration
from racer.hf.generate import PlainDecodingWarning, generate


def attach(model: Any, config: DecodeConfig | None = None) -> Any:
    """Make ``model.generate(...)`` decode with RACER; :func:`detach` undoes it.

    Calls that RACER cannot take (beam search, another assistant, ...) go to transformers as before, with one warning.

    :return: the model.
    :raises UnsupportedModel: it must be loaded otherwise; the message says how.
    :raises UnknownStrategy: the configuration names something that nobody registered.
    """
    attached, model = model, getattr(model, "_orig_mod", model)  # what torch.compile wraps
    probe(model)
    state = state_of(model)
    state.part(StrategySets).of(config or DecodeConfig())

    def racer_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = type(self).generate
        names = list(inspect.signature(plain).parameters)[1:]  # the first is self
        given = dict(zip(names, args, strict=False)) | kwargs
        try:
            return generate(self, config=config, **given)
        except UnsupportedGeneration as error:
            warnings.warn(f"decoding without RACER: {error}", PlainDecodingWarning, stacklevel=2)
            return plain(self, **given)

    racer_generate.__name__ = "generate"  # pickle looks bound methods up by their name
    model.generate = types.MethodType(racer_generate, model)
    state.part(_Attachment).function = racer_generate
    return attached


def detach(model: Any) -> Any:
    """Give ``model.generate`` back to transformers; one that is not RACER's stays.

    :return: the model.
    """
    inner = getattr(model, "_orig_mod", model)
    if (attachment := find_state(inner).find(_Attachment)) is not None:
        attachment.release(inner)
    return model


@attrs.define(eq=False)
class _Attachment(StatePart):
    """What stands in the place of a model's ``generate``. It does not hold the model."""

    function: Callable[..., Any] | None = None

    def release(self, model: Any) -> None:
        if self.function is not None and getattr(vars(model).get("generate"), "__func__", None) is self.function:
            del vars(model)["generate"]
        self.function = None
