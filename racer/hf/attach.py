"""``model.generate`` decodes with RACER, until it is detached."""

from __future__ import annotations

import inspect
import types
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

    def racer_generate(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(self, args, kwargs)
        if call.setting("is_assistant"):  # a part of another model's decoding, which nobody need hear of
            return call.plain()
        return generate(self, *args, config=config, **kwargs)

    racer_generate.__name__ = "generate"  # pickle looks bound methods up by their name
    racer_generate.__doc__ = type(face).generate.__doc__
    racer_generate.__signature__ = inspect.signature(type(face).generate)  # type: ignore[attr-defined]
    face.generate = types.MethodType(racer_generate, face)
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


class _Attachment(StatePart):
    """Notes that a model is attached."""

    def release(self, model: Any) -> None:
        detach(model)
