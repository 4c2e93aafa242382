"""``model.generate`` decodes with RACER, until it is detached."""

from __future__ import annotations

import copy
import inspect
from typing import Any

from racer.config import DecodeConfig
from racer.core.model_state import StatePart, base_of, state_of, uncompiled
from racer.core.support import probe
from racer.engine.kept_strategies import StrategySets
from racer.errors import UnsupportedModel
from racer.hf.call import Call, is_attached, replaced_generate
from racer.hf.generate import generate
from racer.hf.plain import warn_of_plain


def attach(model: Any, config: DecodeConfig | None = None) -> Any:
    """Make ``model.generate(...)`` decode with RACER; :func:`detach` undoes it.

    Calls that RACER cannot decode rightly (beam search, another assistant, ...) go to transformers as before, with one
    warning. A model whose ``generate`` somebody has replaced is left as it is, with a warning.

    :param model: a Hugging Face causal LM, or what ``torch.compile`` or PEFT made of it.
    :return: the model.
    :raises UnsupportedModel: it must be loaded otherwise; the message says how.
    :raises UnknownStrategy: the configuration names something that nobody registered.
    """
    face = uncompiled(model)
    if not callable(getattr(type(face), "generate", None)) or not hasattr(face, "config"):
        raise UnsupportedModel(f"a {type(face).__name__} has no generate: attach a causal LM of transformers")
    if replaced_generate(face) is not None:
        warn_of_plain("its generate has been replaced, and RACER would go past that")
        return model
    base = base_of(face)
    if not (support := probe(base)).prepared:
        raise UnsupportedModel(support.reason)
    state_of(base).part(StrategySets).of(config or DecodeConfig())

    face.generate = _Attached(face, config)
    state_of(face).part(_Attachment)
    return model


def detach(model: Any) -> Any:
    """Give ``model.generate`` back to transformers; one that is not RACER's stays.

    :return: the model.
    """
    own = vars(uncompiled(model))
    if is_attached(own.get("generate")):
        del own["generate"]
    return model


class _Attached:
    """``model.generate`` of an attached model. Unlike a bound method of Python's, it outlives pickling of its model."""

    def __init__(self, face: Any, config: DecodeConfig | None) -> None:
        own = type(face).generate  # nothing of the model itself: one that is being unpickled is empty yet
        signature = inspect.signature(own)
        self.__self__, self.__func__, self._config = face, _racer_generate, config
        self.__name__, self.__doc__ = "generate", own.__doc__
        self.__signature__ = signature.replace(parameters=list(signature.parameters.values())[1:])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, self._config, *args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Attached, (self.__self__, self._config)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Attached:
        return _Attached(copy.deepcopy(self.__self__, memo), self._config)


def _racer_generate(face: Any, config: DecodeConfig | None, *args: Any, **kwargs: Any) -> Any:
    state_of(face).part(_Attachment)  # of a copy it is not known yet
    call = Call.of(face, args, kwargs)
    if call.setting("is_assistant"):  # a part of another model's decoding, which nobody need hear of
        return call.plain()
    return generate(face, *args, config=config, **kwargs)


class _Attachment(StatePart):
    """Notes that a model is attached."""

    def release(self, model: Any) -> None:
        detach(model)
