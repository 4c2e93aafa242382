"""What a logits processor needs to be right when rows advance at different speeds, and guesses are never to be seen."""

from __future__ import annotations

from enum import Enum
from typing import Any

from transformers.generation import logits_process as hf


class Kind(Enum):
    """How a processor may be asked."""

    CONTEXT_FREE = "each row of the result depends on that row of scores alone"
    ROW_WISE = "and on that row of ids: no memory, so that any prefix may come in any order, in any batch"
    PER_ROW = "each row has a processor of its own, which is asked once a token, in order, as for a batch of one"
    TOGETHER = "it has a memory, or looks across rows, or nobody knows: right as plain decoding asks it, no other way"


def _types(*names: str) -> tuple[type, ...]:
    """Those of these classes that the installed transformers has."""
    return tuple(getattr(hf, name) for name in names if hasattr(hf, name))


CONTEXT_FREE = _types(
    "BarkEosPrioritizerLogitsProcessor",
    "EpsilonLogitsWarper",
    "EtaLogitsWarper",
    "InfNanRemoveLogitsProcessor",
    "LogitNormalization",
    "MinPLogitsWarper",
    "SuppressTokensLogitsProcessor",
    "TemperatureLogitsWarper",
    "TopHLogitsWarper",
    "TopKLogitsWarper",
    "TopPLogitsWarper",
    "TypicalLogitsWarper",
)
ROW_WISE = _types(
    "AlternatingCodebooksLogitsProcessor",
    "ExponentialDecayLengthPenalty",
    "ForcedBOSTokenLogitsProcessor",
    "ForcedEOSTokenLogitsProcessor",
    "MinLengthLogitsProcessor",
    "MinNewTokensLengthLogitsProcessor",
    "NoBadWordsLogitsProcessor",
    "NoRepeatNGramLogitsProcessor",
    "RepetitionPenaltyLogitsProcessor",
    "SequenceBiasLogitsProcessor",
    "SuppressTokensAtBeginLogitsProcessor",
    "WatermarkLogitsProcessor",  # its generator is seeded anew by each row's last tokens
    "WhisperTimeStampLogitsProcessor",
)
PER_ROW = _types(
    "EncoderNoRepeatNGramLogitsProcessor",  # these three hold something by batch row
    "EncoderRepetitionPenaltyLogitsProcessor",
    "PrefixConstrainedLogitsProcessor",
)
TOGETHER = _types(
    "ClassifierFreeGuidanceLogitsProcessor",  # two rows of scores make one
    "DiaClassifierFreeGuidanceLogitsProcessor",
    "DiaEOSChannelFilterLogitsProcessor",  # channels are rows
    "DiaEOSDelayPatternLogitsProcessor",
    "SynthIDTextWatermarkLogitsProcessor",  # remembers its contexts
    "UnbatchedClassifierFreeGuidanceLogitsProcessor",  # keeps a cache of its own
    "WhisperNoSpeechDetection",  # leaves what it saw of the whole batch behind
)

KINDS: dict[type, Kind] = {
    **dict.fromkeys(CONTEXT_FREE, Kind.CONTEXT_FREE),
    **dict.fromkeys(ROW_WISE, Kind.ROW_WISE),
    **dict.fromkeys(PER_ROW, Kind.PER_ROW),
    **dict.fromkeys(TOGETHER, Kind.TOGETHER),
}
"""Of transformers' own processors; of a subclass nothing is known."""


def kind_of(step: Any) -> Kind:
    """What is known of a processor: transformers' own are listed, others declare themselves.

    ``racer_row_wise = True`` is :attr:`Kind.ROW_WISE`, a method ``racer_rows`` is :attr:`Kind.PER_ROW`, as is
    xgrammar's processor while it is unused.
    """
    if type(step) in KINDS:
        return KINDS[type(step)]
    if getattr(step, "racer_row_wise", False) is True:
        return Kind.ROW_WISE
    if callable(getattr(step, "racer_rows", None)) or is_fresh_xgrammar(step):
        return Kind.PER_ROW
    return Kind.TOGETHER


def is_fresh_xgrammar(step: Any) -> bool:
    """Whether this is xgrammar's own processor, and it has seen no text yet."""
    own = type(step).__module__ == "xgrammar.contrib.hf" and type(step).__name__ == "LogitsProcessor"
    return own and not step.matchers and not step.prefilled
