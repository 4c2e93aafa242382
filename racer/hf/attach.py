"""``model.generate`` decodes with RACER, until it is detached."""

from __future__ import annotations

import types
from typing import Any

from racer.config import DecodeConfig
from racer.core.model_state import StatePart, state_of
from racer.core.support import probe
from racer.engine.kept_strategies import StrategySets
from racer.errors import UnsupportedModel
from racer.hf.generate import generate


def attach(model: Any, config: DecodeConfig | None = None) -> Any:
    """Make ``model.generate(...)`` decode with RACER; :func:`detach` undoes it.

    Calls that RACER cannot decode rightly (beam search, another assistant, ...) go to transformers as before, with one
    warning.

    :return: the model.
    :raises UnsupportedModel: it must be loaded otherwise; the message says how.
    :raises UnknownStrategy: the configuration names something that nobody registered.
    """
    attached, model = model, getattr(model, "_orig_mod", model)  # what torch.compile wraps
    if not (support := probe(model)).prepared:
        raise UnsupportedModel(support.reason)
    state = state_of(model)
    state.part(StrategySets).of(config or DecodeConfig())

    def racer_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        return generate(self, *args, config=config, **kwargs)

    racer_generate.__name__ = "generate"  # pickle looks bound methods up by their name
    model.generate = types.MethodType(racer_generate, model)
    state.part(_Attachment)
    return attached


def detach(model: Any) -> Any:
    """Give ``model.generate`` back to transformers; one that is not RACER's stays.

    :return: the model.
    """
    own = vars(getattr(model, "_orig_mod", model))
    function = getattr(own.get("generate"), "__func__", None)
    if getattr(function, "__module__", None) == __name__:  # by where it was made: copies of the model have it too
        del own["generate"]
    return model


class _Attachment(StatePart):
    """Notes that a model is attached."""

    def release(self, model: Any) -> None:
        detach(model)
