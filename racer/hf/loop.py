"""What transformers' ``generate`` calls in place of its own loop."""

from __future__ import annotations

from typing import Any

import attrs
from torch import Tensor
from transformers import GenerationConfig

from racer.config import DecodeConfig
from racer.core.model_state import state_of
from racer.core.support import Support, probe
from racer.engine.decoder import BatchDecoder
from racer.engine.kept_strategies import StrategySets
from racer.engine.spec import BatchSpec
from racer.errors import UnsupportedGeneration, UnsupportedModel
from racer.hf.batch_spec import Asked, batch_spec, pad_token, sequences_of
from racer.hf.caches import CACHE_FIELD, GivenCache, given_cache, outside_cache
from racer.hf.chains import at_once, prepared_call, refuse_for_chains
from racer.hf.outputs import EncoderDecoderOutput, GenerateOutput, score_tuples
from racer.hf.prepared import offset_of
from racer.hf.settings import refuse_settings
from racer.hf.streamer import HeldStreamer
from racer.hf.unsupported import more_than_text, refuse_arguments, refuse_device, refuse_positions
from racer.step.stats import DecodeStats


@attrs.frozen(eq=False)
class PreparedBatch:
    """A call of ``generate``, ready to be decoded."""

    decoder: BatchDecoder
    spec: BatchSpec
    outside: GivenCache | None
    """The cache that the call was given or fills, if there is one."""
    settings: GenerationConfig


class Loop:
    """What transformers calls in place of its own loop."""

    def __init__(
        self,
        config: DecodeConfig,
        decoder: BatchDecoder | None = None,
        streamer: HeldStreamer | None = None,
        asked: Asked | None = None,
    ) -> None:
        self.streamer = streamer
        self.reached = False
        """Whether transformers has called it."""
        self._config = config
        self._decoder = decoder
        self._asked = asked or Asked(config.seed)

    def __call__(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: GenerationConfig | None = None,
        **model_kwargs: Any,
    ) -> Any:
        """The answer, as ``generate`` gives it.

        :raises UnsupportedGeneration, UnsupportedModel: before anything has been decoded, shown or drawn.
        """
        prepared = self.prepare(
            model, input_ids, logits_processor, stopping_criteria, generation_config, **model_kwargs
        )
        spec, settings = prepared.spec, prepared.settings
        stats = self._decode(prepared.decoder, spec)
        sequences = sequences_of(input_ids, spec, settings)
        if not settings.return_dict_in_generate:
            return sequences
        cache = prepared.outside.cache if prepared.outside is not None else given_cache(model_kwargs)
        kept = {CACHE_FIELD: cache, **score_tuples(spec.record, spec.requests)}
        output = (EncoderDecoderOutput if model.config.is_encoder_decoder else GenerateOutput)(
            sequences=sequences, **kept
        )
        output.racer_stats = stats
        return output

    def prepare(
        self,
        model: Any,
        input_ids: Tensor,
        logits_processor: Any = None,
        stopping_criteria: Any = None,
        generation_config: GenerationConfig | None = None,
        **model_kwargs: Any,
    ) -> PreparedBatch:
        """What is to be decoded, and by whom.

        :raises UnsupportedGeneration, UnsupportedModel: RACER cannot decode it rightly.
        """
        self.reached = True
        settings = generation_config or model.generation_config
        processors, criteria = list(logits_processor or ()), list(stopping_criteria or ())
        refuse_settings(settings)
        if (support := probe(model)).way == "plain":
            raise UnsupportedModel(f"{type(model).__name__} takes no trees: {support.reason}")
        refuse_arguments(input_ids, model_kwargs)
        refuse_device(input_ids, model.device)
        has_encoder = bool(model.config.is_encoder_decoder)
        more = not has_encoder and bool(more_than_text(model_kwargs))
        pad = pad_token(settings)
        if len(input_ids) > 1 and not 0 <= pad < support.vocab_size:
            raise UnsupportedGeneration(f"pad_token_id={pad} is not in the vocabulary")
        outside = None
        if support.plan is not None:
            outside = outside_cache(input_ids, settings, model_kwargs, support.plan, pad)
        if not more:
            refuse_positions(input_ids, model_kwargs, 0 if outside is None else outside.unseen)
        decoder, prepared = self._decoder or _decoder(model, self._config), None

        def admit(slots: int, padded: bool) -> Support:
            nonlocal prepared
            found = decoder.supported(slots, padded)
            if found.plan is None:
                refuse_for_chains(settings, model_kwargs)
            if more or found.plan is None:
                offset = offset_of(model, input_ids, model_kwargs, found) if more else None
                whole = settings if found.plan is None else at_once(settings)
                prepared = prepared_call(model, input_ids, whole, model_kwargs, pad, offset)
            return found

        mask = model_kwargs.get("decoder_attention_mask" if has_encoder else "attention_mask")
        spec = batch_spec(
            *(input_ids, mask, outside, settings, processors, criteria, self.streamer),
            asked=self._asked,
            admit=admit,
        )
        chain = spec.support is not None and spec.support.plan is None  # for so many tokens
        spec = attrs.evolve(spec, prepared=prepared, outside=None if chain else outside)
        return PreparedBatch(decoder, spec, outside, settings)

    def _decode(self, decoder: BatchDecoder, spec: BatchSpec) -> DecodeStats:
        """Decode; the streamer is shown the prompt first, and told of the end."""
        if self.streamer is not None:
            self.streamer.release()
        stats = decoder.decode(spec)
        if self.streamer is not None:
            self.streamer.end()
        return stats


def _decoder(model: Any, config: DecodeConfig) -> BatchDecoder:
    """One whose drafters go on with what they have learned of this model under this configuration."""
    return BatchDecoder(model, config, strategies=state_of(model).part(StrategySets).of(config))
