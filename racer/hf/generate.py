"""The face to transformers: all of it takes and gives what ``model.generate`` does."""

from __future__ import annotations

import copy
import inspect
import threading
import types
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import EosTokenCriteria, GenerationConfig, StoppingCriteriaList, StopStringCriteria
from transformers.generation import GenerateDecoderOnlyOutput, MaxLengthCriteria

from racer.config import DecodeConfig
from racer.core.support import probe
from racer.engine.batch import BatchSpec
from racer.engine.decoder import Decoder
from racer.engine.strategies import StrategySet
from racer.errors import ConfigError, UnsupportedGeneration
from racer.hf.processors import ProcessorPipeline
from racer.hf.unsupported import left_padding, refuse_arguments, refuse_for_batches, refuse_settings
from racer.step.request import Request
from racer.step.stats import DecodeStats

_strategy_sets: WeakKeyDictionary[Any, OrderedDict[DecodeConfig, StrategySet]] = WeakKeyDictionary()
"""What drafters learned, by model and configuration: kept from call to call, gone with the model."""

_lock = threading.Lock()

MAX_STRATEGY_SETS = 8
"""Configurations per model whose drafters are kept; the least recently used one makes room."""


class PlainDecodingWarning(UserWarning):
    """RACER cannot speed this call up; transformers decodes it plainly."""


class GenerateOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]  # transformers is untyped here
    """What ``return_dict_in_generate=True`` gives: transformers' own output, with :attr:`racer_stats`."""

    racer_stats: DecodeStats | None = None


def generate(model: Any, *, config: DecodeConfig | None = None, **kwargs: Any) -> Any:
    """Decode as ``model.generate(**kwargs)`` would, with the same result, faster.

    :param model: a Hugging Face causal LM, or a :class:`racer.Decoder`.
    :param config: how to decode; the default if None. Drafters keep what they learn for this model and configuration.
    :param kwargs: everything that ``model.generate`` takes.
    :return: ``[B, P + new]`` token ids, or with ``return_dict_in_generate=True`` an output that has ``racer_stats``.
    :raises UnsupportedGeneration: beams, ``inputs_embeds``, per-step scores and the like.
    :raises ConfigError: ``config`` beside a decoder, which has its own.
    :raises UnsupportedModel: the model must be loaded otherwise; the message says how.
    """
    decoder = model if isinstance(model, Decoder) else None
    if decoder and config is not None:
        raise ConfigError("a Decoder has its own configuration: make another Decoder, or pass the model itself")
    model = decoder.model if decoder else getattr(model, "_orig_mod", model)  # what torch.compile wraps
    for name in ("assistant_model", "prompt_lookup_num_tokens", "custom_generate"):
        if kwargs.get(name) is not None:
            raise UnsupportedGeneration(f"{name} is another decoding method; it cannot be combined with RACER")
    _move_stop_strings(model, kwargs)
    # transformers shows the prompt to the streamer and then forgets it for callables, so it goes both ways
    if kwargs.get("streamer") is not None:
        kwargs["streamer"] = _HeldStreamer(kwargs["streamer"])
    with _without_stop_strings(model):
        return type(model).generate(
            model,
            **kwargs,
            custom_generate=custom_generate,
            racer_config=config,
            racer_decoder=decoder,
            racer_streamer=kwargs.get("streamer"),
        )


def attach(model: Any, config: DecodeConfig | None = None) -> Any:
    """Make ``model.generate(...)`` decode with RACER; :func:`detach` undoes it.

    Calls that RACER cannot take (beam search, another assistant, ...) go to transformers as before, with one warning.

    :return: the model.
    :raises UnsupportedModel: it must be loaded otherwise; the message says how.
    :raises UnknownStrategy: the configuration names something that nobody registered.
    """
    probe(model)
    _strategy_set(model, config or DecodeConfig())

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
    return model


def detach(model: Any) -> Any:
    """Give ``model.generate`` back to transformers."""
    vars(model).pop("generate", None)
    return model


def custom_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: GenerationConfig | None = None,
    racer_config: DecodeConfig | None = None,
    racer_decoder: Decoder | None = None,
    racer_streamer: Any = None,
    **model_kwargs: Any,
) -> Any:
    """For ``model.generate(..., custom_generate=racer.custom_generate, racer_config=cfg)``.

    transformers drops ``streamer`` and ``tokenizer`` for callables: pass the streamer as ``racer_streamer`` too, and
    stop strings as ``StopStringCriteria`` (or use :func:`generate`, which does both).

    :raises UnsupportedGeneration: see :func:`generate`.
    """
    if racer_streamer is not None and not isinstance(racer_streamer, _HeldStreamer):
        racer_streamer = _HeldStreamer(racer_streamer)
    settings = generation_config or model.generation_config
    processors, criteria = list(logits_processor or ()), list(stopping_criteria or ())
    refuse_settings(settings)
    support = probe(model)
    if support.plan is None:
        text = f"{type(model).__name__} is decoded plainly: {support.reason}"
        warnings.warn(text, PlainDecodingWarning, stacklevel=1)  # our caller is transformers
        if racer_streamer is not None:
            racer_streamer.release()
        output = model._sample(
            input_ids,
            logits_processor=logits_processor,
            stopping_criteria=stopping_criteria,
            generation_config=settings,
            streamer=racer_streamer,
            **model_kwargs,
        )
        if not isinstance(output, Tensor):
            output.racer_stats = None
        return output
    refuse_arguments(input_ids, model_kwargs)
    if len(input_ids) > 1:
        refuse_for_batches(processors, racer_streamer)
    if racer_streamer is not None:
        racer_streamer.release()
    decoder = racer_decoder
    if decoder is None:
        config = racer_config or DecodeConfig()
        decoder = Decoder(model, config, strategies=_strategy_set(model, config))
    spec = _batch_spec(
        decoder, input_ids, model_kwargs.get("attention_mask"), settings, processors, criteria, racer_streamer
    )
    stats = decoder.decode(spec)
    if racer_streamer is not None:
        racer_streamer.end()
    sequences = _pad(input_ids, spec, settings)
    if not settings.return_dict_in_generate:
        return sequences
    output = GenerateOutput(sequences=sequences)
    output.racer_stats = stats
    return output


class _HeldStreamer:
    """Keeps the prompt back until it is sure who decodes: the streamer must not be shown it twice.

    Stands between transformers, which puts the prompt, and the user's streamer.
    """

    def __init__(self, streamer: Any) -> None:
        self._streamer = streamer
        self._held: list[Tensor] | None = []

    def put(self, value: Tensor) -> None:
        if self._held is None:
            self._streamer.put(value)
        else:
            self._held.append(value)

    def release(self) -> None:
        """Pass on what was held, and everything from now on."""
        held, self._held = self._held or [], None
        for value in held:
            self._streamer.put(value)

    def end(self) -> None:
        self._streamer.end()


def _strategy_set(model: Any, config: DecodeConfig) -> StrategySet:
    with _lock:
        kept = _strategy_sets.setdefault(model, OrderedDict())
        strategies = kept.get(config) or StrategySet(config)
        kept[config] = strategies
        kept.move_to_end(config)
        while len(kept) > MAX_STRATEGY_SETS:
            kept.popitem(last=False)
        return strategies


def _batch_spec(
    decoder: Decoder,
    input_ids: Tensor,
    attention_mask: Tensor | None,
    settings: GenerationConfig,
    processors: list[Any],
    criteria: list[Any],
    streamer: Any,
) -> BatchSpec:
    batch, width = input_ids.shape
    seed = decoder.config.seed
    if seed is None:
        seed = int(torch.randint(2**62, ())) if settings.do_sample else 0
    eos = [item for item in criteria if type(item) is EosTokenCriteria]
    lengths = [item.max_length for item in criteria if type(item) is MaxLengthCriteria]
    others = [item for item in criteria if type(item) not in (EosTokenCriteria, MaxLengthCriteria)]
    limit = min(lengths, default=settings.max_length) - width
    if limit < 1:
        raise UnsupportedGeneration(f"the prompt has {width} tokens and max_length leaves no room for a new one")
    padding = left_padding(input_ids, attention_mask)
    requests = tuple(
        Request(prompt=tuple(ids[pad:]), padding=tuple(ids[:pad]), limit=limit, seed=seed + row)
        for row, (ids, pad) in enumerate(zip(input_ids.tolist(), padding, strict=True))
    )
    return BatchSpec(
        requests=requests,
        pipeline=ProcessorPipeline(processors, batch),
        do_sample=bool(settings.do_sample),
        stop_tokens=frozenset(int(token) for item in eos for token in item.eos_token_id.flatten().tolist()),
        stops=_row_check(StoppingCriteriaList(others), input_ids.device) if others else None,
        emit=None if streamer is None else lambda row, token: streamer.put(torch.tensor([token])),
    )


def _row_check(criteria: StoppingCriteriaList, device: torch.device) -> Callable[[Request], bool]:
    """Criteria that look at text, asked about one row as a batch of one."""

    def stops(request: Request) -> bool:
        ids = torch.tensor([[*request.padding, *request.tokens]], device=device)
        return bool(criteria(ids, None).any())

    return stops


def _pad(input_ids: Tensor, spec: BatchSpec, settings: GenerationConfig) -> Tensor:
    """``[B, P + longest]``; rows that ended earlier are filled with the pad token, as ``generate`` does."""
    longest = max(len(request.emitted) for request in spec.requests)
    pad = getattr(settings, "_pad_token_tensor", None)
    fill = int(pad) if pad is not None else (settings.pad_token_id or 0)
    new = [request.emitted + [fill] * (longest - len(request.emitted)) for request in spec.requests]
    return torch.cat([input_ids, torch.tensor(new, device=input_ids.device, dtype=input_ids.dtype)], dim=1)


def _move_stop_strings(model: Any, kwargs: dict[str, Any]) -> None:
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
def _without_stop_strings(model: Any) -> Iterator[None]:
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
