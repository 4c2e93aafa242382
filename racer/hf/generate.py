"""``generate`` as transformers has it, decoded by RACER."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor
from transformers import GenerationConfig
from transformers.generation import GenerateDecoderOnlyOutput

from racer.config import DecodeConfig
from racer.core.model_state import state_of
from racer.core.support import probe
from racer.engine.decoder import BatchDecoder
from racer.engine.kept_strategies import StrategySets
from racer.errors import ConfigError, UnsupportedGeneration
from racer.hf.batch_spec import batch_spec, sequences_of
from racer.hf.stop_strings import move_stop_strings, without_stop_strings
from racer.hf.streamer import HeldStreamer
from racer.hf.unsupported import refuse_arguments, refuse_for_batches, refuse_settings
from racer.step.stats import DecodeStats


class PlainDecodingWarning(UserWarning):
    """RACER cannot speed this call up; transformers decodes it plainly."""


class GenerateOutput(GenerateDecoderOnlyOutput):  # type: ignore[misc]  # transformers is untyped here
    """What ``return_dict_in_generate=True`` gives: transformers' own output, with :attr:`racer_stats`."""

    racer_stats: DecodeStats | None = None


class Decoder(BatchDecoder):
    """A model, a configuration, and what its drafters have learned; see :class:`racer.engine.decoder.BatchDecoder`."""

    def generate(self, **kwargs: Any) -> Any:
        """``model.generate(**kwargs)``, decoded by this decoder; see :func:`racer.generate`."""
        return generate(self, **kwargs)


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
    decoder = model if isinstance(model, BatchDecoder) else None
    if decoder and config is not None:
        raise ConfigError("a Decoder has its own configuration: make another Decoder, or pass the model itself")
    model = decoder.model if decoder else getattr(model, "_orig_mod", model)  # what torch.compile wraps
    for name in ("assistant_model", "prompt_lookup_num_tokens", "custom_generate"):
        if kwargs.get(name) is not None:
            raise UnsupportedGeneration(f"{name} is another decoding method; it cannot be combined with RACER")
    move_stop_strings(model, kwargs)
    # transformers shows the prompt to the streamer and then forgets it for callables, so it goes both ways
    if kwargs.get("streamer") is not None:
        kwargs["streamer"] = HeldStreamer(kwargs["streamer"])
    with without_stop_strings(model):
        return type(model).generate(
            model,
            **kwargs,
            custom_generate=custom_generate,
            racer_config=config,
            racer_decoder=decoder,
            racer_streamer=kwargs.get("streamer"),
        )


def custom_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: GenerationConfig | None = None,
    racer_config: DecodeConfig | None = None,
    racer_decoder: BatchDecoder | None = None,
    racer_streamer: Any = None,
    **model_kwargs: Any,
) -> Any:
    """For ``model.generate(..., custom_generate=racer.custom_generate, racer_config=cfg)``.

    transformers drops ``streamer`` and ``tokenizer`` for callables: pass the streamer as ``racer_streamer`` too, and
    stop strings as ``StopStringCriteria`` (or use :func:`generate`, which does both).

    :raises UnsupportedGeneration: see :func:`generate`.
    """
    if racer_streamer is not None and not isinstance(racer_streamer, HeldStreamer):
        racer_streamer = HeldStreamer(racer_streamer)
    settings = generation_config or model.generation_config
    processors, criteria = list(logits_processor or ()), list(stopping_criteria or ())
    refuse_settings(settings)
    support = probe(model)
    if support.plan is None:
        text = f"{type(model).__name__} is decoded plainly: {support.reason}"
        warnings.warn(text, PlainDecodingWarning, stacklevel=1)  # our caller is transformers
        return _plain(model, input_ids, logits_processor, stopping_criteria, settings, racer_streamer, model_kwargs)
    refuse_arguments(input_ids, model_kwargs)
    if len(input_ids) > 1:
        refuse_for_batches(processors, racer_streamer)
    if racer_streamer is not None:
        racer_streamer.release()
    config = racer_config or DecodeConfig()
    decoder = racer_decoder or BatchDecoder(model, config, strategies=state_of(model).part(StrategySets).of(config))
    mask, seed = model_kwargs.get("attention_mask"), decoder.config.seed
    spec = batch_spec(input_ids, mask, settings, processors, criteria, racer_streamer, seed)
    stats = decoder.decode(spec)
    if racer_streamer is not None:
        racer_streamer.end()
    sequences = sequences_of(input_ids, spec, settings)
    if not settings.return_dict_in_generate:
        return sequences
    output = GenerateOutput(sequences=sequences)
    output.racer_stats = stats
    return output


def _plain(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    settings: GenerationConfig,
    streamer: HeldStreamer | None,
    model_kwargs: dict[str, Any],
) -> Any:
    """What transformers makes of the call."""
    if streamer is not None:
        streamer.release()
    output = model._sample(
        input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=settings,
        streamer=streamer,
        **model_kwargs,
    )
    if not isinstance(output, Tensor):
        output.racer_stats = None
    return output
