"""What of a model decides how it can be decoded, as one value: it differs as soon as the model must be tried anew."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationMixin

from racer.core.kept_weights import OfFixedTypes, shape_of

LOOP = (
    "_sample",
    "_prefill",
    "_update_model_kwargs_for_generation",
    "_prepare_position_ids_for_generation",
    "prepare_inputs_for_generation",
)
"""Methods of a model that transformers' loop calls between two tokens."""
ADAPTERS = ("active_adapter", "merged_adapters", "_disable_adapters", "scaling")
"""What PEFT's layers note of the adapters that are on."""


def subject_of(model: Any) -> Hashable:
    """All that a probe's result depends on, contents of weights aside; about 1 ms for 400 modules.

    Two values are equal if attention, dtype, device, vocabulary, autocast, every setting of the configuration, types
    and names of all modules, and the methods of the generation loop are. Hooks do not count: a model that has
    some is not tried (:mod:`racer.core.hooks`).
    """
    kind, device = type(model), model.device.type
    autocast = torch.get_autocast_dtype(device) if autocasts(model) else None
    return (
        model.config.get_text_config()._attn_implementation,
        model.dtype,
        model.device,
        tuple(_rows(end) for end in (model.get_input_embeddings, model.get_output_embeddings)),
        autocast,
        _settings(model.config),
        _structure(model),
        tuple(_reference(getattr(kind, name, None)) for name in LOOP),
        replaced_methods(model),
    )


def contents_of(model: Any) -> Hashable:
    """All that keys and values of a text depend on, as far as torch tells: the subject, which weights there are, where
    they lie and how often they were written, and which adapters are on.

    Of tensors that were made in inference mode nobody counts how often."""
    weights = tuple(
        (id(part), None if part.is_inference() else part._version, part.data_ptr()) for part in _weights(model)
    )
    adapters = tuple(
        tuple(repr(getattr(module, name, None)) for name in ADAPTERS)
        for module in model.modules()
        if hasattr(module, ADAPTERS[0])
    )
    return subject_of(model), weights, adapters


def _weights(model: Any) -> Iterator[Tensor]:
    """Parameters and buffers, but for those that are made from the configuration: some passes write these anew."""
    yield from model.parameters()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            made = name in module._non_persistent_buffers_set and not isinstance(module, OfFixedTypes)
            if buffer is not None and not made:
                yield buffer


def autocasts(model: Any) -> bool:
    """Whether the caller's autocast applies to the model's device."""
    device = model.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def replaced_methods(model: Any) -> tuple[str, ...]:
    """Methods of the generation loop that stand on the instance in place of its class's, as PEFT puts them there while
    a prompt-tuned model generates."""
    own = vars(model)
    return tuple(name for name in LOOP if name in own and not _is_own_method(model, name))


def foreign_loop(model: Any) -> str:
    """Which part of the decoding loop the model's class has of its own, and not from transformers; empty if none.

    What transformers' own models do there, a trial shows. Somebody else's may wait for a certain token.
    """
    kind = type(model)
    if getattr(kind, "_sample", None) is not GenerationMixin._sample:
        return "_sample"
    homes = ((name, getattr(getattr(kind, name, None), "__module__", "")) for name in LOOP)
    return next((name for name, home in homes if home and not home.startswith(("transformers.", "racer."))), "")


def _is_own_method(model: Any, name: str) -> bool:
    """Whether the instance holds its class's method: PEFT leaves it there when it is done."""
    held = vars(model)[name]
    method = isinstance(held, types.MethodType) and held.__self__ is model
    return method and held.__func__ is getattr(type(model), name, None)


def _rows(end: Callable[[], Any]) -> Hashable:
    """Shape of an embedding or a head, as far as there is one."""
    try:
        return shape_of(end())
    except (NotImplementedError, AttributeError):
        return None


def _settings(config: Any) -> str:
    """Every public setting of a configuration and of those within it; 0.02 ms where ``to_dict`` takes 0.15."""
    public = ((name, value) for name, value in vars(config).items() if not name.startswith("_"))
    return repr([(name, _settings(value) if hasattr(value, "to_dict") else value) for name, value in public])


def _reference(function: Any) -> Hashable:
    """Equal for the same function as long as it lives, without keeping it alive."""
    return None if function is None else weakref.ref(function)


def _structure(model: Any) -> int:
    """A hash of the types, names and replaced forwards of all modules."""
    found: list[Any] = []
    stack = [model]
    while stack:
        module = stack.pop()
        parts = module._modules
        found.append(type(module))
        if "forward" in module.__dict__:
            found.append(id(module.__dict__["forward"]))
        if parts:
            found += parts
            found.append(len(parts))
            stack += parts.values()
            if None in parts.values():
                stack = [part for part in stack if part is not None]
    return hash(tuple(found))
