"""``generate`` as transformers has it, decoded by RACER."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import Tensor
from transformers import GenerationConfig

from racer.config import DecodeConfig
from racer.core.model_state import base_of, uncompiled
from racer.engine.decoder import BatchDecoder
from racer.engine.strategy_set import StrategySet
from racer.errors import ConfigError, UnsupportedGeneration, UnsupportedModel
from racer.hf.call import Call
from racer.hf.loop import Loop
from racer.hf.outputs import GenerateOutput
from racer.hf.plain import PlainDecodingWarning, decode_plainly, run_method, warn_of_plain, without_stats
from racer.hf.streamer import HeldStreamer

__all__ = ["Decoder", "GenerateOutput", "PlainDecodingWarning", "custom_generate", "generate"]


class Decoder(BatchDecoder):
    """A model, a configuration, and what its drafters have learned; see :class:`racer.engine.decoder.BatchDecoder`.

    :param model: a Hugging Face causal LM, or what ``torch.compile`` or PEFT made of it.
    """

    def __init__(
        self, model: Any, config: DecodeConfig | None = None, *, strategies: StrategySet | None = None
    ) -> None:
        self.face = uncompiled(model)
        """Whose ``generate`` is called."""
        super().__init__(base_of(self.face), config, strategies=strategies)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Decoder is neither pickled nor copied, as plugins and what a device holds are not: pickle its model and "
            "its configuration, and make another one; an attached model (racer.attach) pickles and stays attached"
        )

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """``model.generate(...)``, decoded by this decoder; see :func:`racer.generate`."""
        return generate(self, *args, **kwargs)


def generate(model: Any, *args: Any, config: DecodeConfig | None = None, **kwargs: Any) -> Any:
    """Decode as ``model.generate(*args, **kwargs)`` would, with the same result, faster.

    What RACER cannot decode rightly (beams, embeddings as input, a model that takes no trees, ...) transformers decodes
    plainly, with one :class:`PlainDecodingWarning` that says why. docs/generation_config.md goes through all settings.

    :param model: a Hugging Face causal LM, or a :class:`racer.Decoder`.
    :param config: how to decode; the default if None. Drafters keep what they learn for this model and configuration.
    :param args, kwargs: everything that ``model.generate`` takes.
    :return: ``[B, P + new]`` token ids, or with ``return_dict_in_generate=True`` an output that has ``racer_stats``
        (None if it was decoded plainly).
    :raises ConfigError: ``config`` is none, or beside a decoder, which has its own; or a verifier that contradicts the
        call.
    """
    decoder = model if isinstance(model, Decoder) else None
    if decoder and config is not None:
        raise ConfigError("a Decoder has its own configuration: make another Decoder, or pass the model itself")
    model = decoder.face if decoder else uncompiled(model)
    config = decoder.config if decoder else _checked(config)
    call = Call.of(model, args, kwargs)
    loop = Loop(config, decoder)
    try:
        call.refuse()
        given, loop.streamer = call.for_callable()
        output = type(model).generate(model, **given, custom_generate=loop)
    except (UnsupportedGeneration, UnsupportedModel) as refusal:
        warn_of_plain(refusal)
        return decode_plainly(call, config.seed)
    except Exception as failure:
        if loop.reached:
            raise
        output = decode_plainly(call, config.seed)  # fails in the same way, if it is the call that is wrong
        warn_of_plain(f"preparing it failed with {type(failure).__name__}: {failure}")
        return output
    if not loop.reached:
        warn_of_plain(f"{type(model).__name__} has a generate of its own, which goes another way")
        if loop.streamer is not None:
            loop.streamer.release()
        return without_stats(output)
    return output


def custom_generate(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any = None,
    stopping_criteria: Any = None,
    generation_config: GenerationConfig | None = None,
    racer_config: DecodeConfig | None = None,
    racer_streamer: Any = None,
    **model_kwargs: Any,
) -> Any:
    """For ``model.generate(..., custom_generate=racer.custom_generate, racer_config=cfg)``.

    transformers drops ``streamer`` and ``tokenizer`` for callables: pass the streamer as ``racer_streamer`` too, and
    stop strings as ``StopStringCriteria`` (or use :func:`generate`, which does both). What RACER cannot decode rightly
    goes to the method that transformers has for it, with a :class:`PlainDecodingWarning`.

    :raises UnsupportedGeneration: a method that transformers does not run behind a callable either.
    """
    config = _checked(racer_config)
    held = None if racer_streamer is None else HeldStreamer(racer_streamer)
    settings = generation_config or model.generation_config
    prepared = dict(
        input_ids=input_ids,
        logits_processor=logits_processor,
        stopping_criteria=stopping_criteria,
        generation_config=settings,
        **model_kwargs,
    )
    try:
        return Loop(config, streamer=held)(model, **prepared)
    except (UnsupportedGeneration, UnsupportedModel) as refusal:
        warn_of_plain(refusal)
        return run_method(model, prepared, racer_streamer, config.seed)


def _checked(config: DecodeConfig | None) -> DecodeConfig:
    if config is not None and not isinstance(config, DecodeConfig):
        raise ConfigError(f"expected a racer.DecodeConfig, not {config!r}")
    return config or DecodeConfig()
