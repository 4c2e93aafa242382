"""One call of ``generate``: its arguments by name, and what of them must be settled before transformers sees them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter
from typing import Any

import attrs
import torch
from transformers import GenerationMixin, StoppingCriteriaList, StopStringCriteria
from transformers.generation import BaseStreamer

from racer.errors import UnsupportedGeneration
from racer.hf.streamer import HeldStreamer

OTHER_METHODS = ("assistant_model", "custom_generate")
"""Arguments that choose another way of decoding."""
PER_ROW = ("adapter_names", "alora_offsets")
"""Arguments with which PEFT lets rows differ in their weights: it counts on every row being there in every pass."""


@attrs.frozen
class Call:
    """The arguments of one call of ``model.generate``, by name. Nothing of the user's is changed."""

    model: Any
    arguments: Mapping[str, Any]

    @classmethod
    def of(cls, model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
        """From the arguments as they were given.

        :raises TypeError: more positional arguments than ``generate`` takes, or one twice.
        """
        names = _positional(type(model).generate) or _positional(GenerationMixin.generate)
        if len(args) > len(names):
            raise TypeError(f"generate takes {len(names)} positional arguments, but {len(args)} were given")
        positional = dict(zip(names, args, strict=False))
        if twice := sorted(positional.keys() & kwargs.keys()):
            raise TypeError(f"generate got multiple values for argument {twice[0]!r}")
        return cls(model, {**positional, **kwargs})

    @property
    def streamer(self) -> BaseStreamer | None:
        return self.arguments.get("streamer")

    def setting(self, name: str) -> Any:
        """A field of the generation configuration as transformers will resolve it: argument, configuration, model's."""
        if name in self.arguments:
            return self.arguments[name]
        own = getattr(self.arguments.get("generation_config"), name, None)
        return getattr(getattr(self.model, "generation_config", None), name, None) if own is None else own

    def plain(self) -> Any:
        """What ``model.generate`` makes of the call without RACER."""
        own = replaced_generate(self.model)
        return own(**self.arguments) if own else type(self.model).generate(self.model, **self.arguments)

    def refuse(self) -> None:
        """Say no to what transformers would do, or lose, before anybody else is asked.

        :raises UnsupportedGeneration: the call is not for RACER.
        """
        if replaced_generate(self.model) is not None:
            raise UnsupportedGeneration("its generate has been replaced, and RACER would go past that")
        for name in OTHER_METHODS:
            if self.arguments.get(name) is not None:
                raise UnsupportedGeneration(f"{name} is another decoding method; it cannot be combined with RACER")
        for name in PER_ROW:
            if self.arguments.get(name) is not None:
                raise UnsupportedGeneration(f"{name} gives rows adapters of their own, and rows leave when they end")
        if self.setting("token_healing"):
            raise UnsupportedGeneration("token_healing rewrites the prompt with a tokenizer that RACER is not given")
        if self.setting("cache_implementation") == "paged":
            raise UnsupportedGeneration("cache_implementation='paged' is continuous batching: another way of decoding")
        if self.setting("stop_strings") and self.arguments.get("tokenizer") is None:
            raise UnsupportedGeneration("stop_strings need the tokenizer: pass tokenizer=... to generate")
        if self.arguments.get("synced_gpus") or (torch.distributed.is_available() and _is_sharded()):
            raise UnsupportedGeneration("the model's weights are spread over processes that must step together")

    def for_callable(self) -> tuple[dict[str, Any], HeldStreamer | None]:
        """What to give ``generate`` with a callable, and the streamer that will be shown the prompt.

        transformers loses the tokenizer and the streamer on the way to a callable: stop strings become a criterion
        here, and the prompt is held back until it is known who decodes.
        """
        given = dict(self.arguments)
        tokenizer, strings = given.pop("tokenizer", None), self.setting("stop_strings")
        if strings:
            criteria = list(given.get("stopping_criteria") or ())
            if not any(type(one) is StopStringCriteria for one in criteria):  # the caller's own counts in its place
                criteria.append(StopStringCriteria(tokenizer, strings))
            given["stopping_criteria"] = StoppingCriteriaList(criteria)
            given.pop("stop_strings", None)
            if getattr(given.get("generation_config"), "stop_strings", None):
                given["generation_config"] = copy.deepcopy(given["generation_config"])
                given["generation_config"].stop_strings = None
            if getattr(self.model.generation_config, "stop_strings", None):
                given["stop_strings"] = None  # an argument counts more than the model's own default
        held = None
        if self.streamer is not None:
            held = given["streamer"] = HeldStreamer(self.streamer)
        return given, held


def replaced_generate(model: Any) -> Callable[..., Any] | None:
    """The ``generate`` that somebody, but not :func:`racer.attach`, has put on this very model; None if nobody has."""
    own: Any = vars(model).get("generate")
    return None if is_attached(own) else own


def is_attached(function: Any) -> bool:
    """Whether a ``generate`` is RACER's, told by where it was made: copies of a model have one of their own."""
    return getattr(getattr(function, "__func__", None), "__module__", None) == "racer.hf.attach"


def _positional(function: Any) -> list[str]:
    """Names of the positional parameters but for the first; none if it takes any number of them, as wrappers do."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(parameter.kind is Parameter.VAR_POSITIONAL for parameter in parameters):
        return []
    return [parameter.name for parameter in parameters if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD]


def _is_sharded() -> bool:
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    several = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    return several and bool(is_deepspeed_zero3_enabled())
