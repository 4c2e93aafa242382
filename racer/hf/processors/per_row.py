"""Processors of which each row has its own."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor
from transformers.generation import logits_process as hf

from racer.errors import UnsupportedGeneration
from racer.hf.processors.kinds import is_fresh_xgrammar

FINITE = (
    hf.RepetitionPenaltyLogitsProcessor,
    hf.EncoderRepetitionPenaltyLogitsProcessor,
    hf.WatermarkLogitsProcessor,
    hf.TemperatureLogitsWarper,
    hf.ExponentialDecayLengthPenalty,
)
"""Processors that make no score -inf."""

SHARED = (
    hf.PrefixConstrainedLogitsProcessor,
    hf.EncoderRepetitionPenaltyLogitsProcessor,
    hf.EncoderNoRepeatNGramLogitsProcessor,
)
"""Processors whose rows may be fewer than those of the batch: sequences of one prompt share one."""


class PerRow(LogitsProcessor):  # type: ignore[misc]  # transformers is untyped here
    """A logits processor with a memory, for batches: each row has one of its own.

    It is right everywhere: with RACER each row's processor is asked once for each of the row's tokens, in order, with
    ids ``[1, L]`` and scores ``[1, V]``, about accepted tokens alone and never beyond the end of the row; where
    transformers decodes, for all rows at each step. Like any processor with a memory it serves one call of
    ``generate``; make another for the next.

    A processor that can be copied: ``PerRow(lambda: copy.deepcopy(processor))``.

    :param make: gives a new processor, which has seen no text.
    """

    def __init__(self, make: Callable[[], Callable[[Tensor, Tensor], Tensor]]) -> None:
        self.make = make
        self._rows: list[Callable[[Tensor, Tensor], Tensor]] = []

    def racer_rows(self, rows: int) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """One processor a row."""
        return [self.make() for _ in range(rows)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._rows = self._rows or self.racer_rows(len(input_ids))
        pairs = zip(self._rows, input_ids[:, None], scores[:, None], strict=True)
        return torch.cat([step(ids, row) for step, ids, row in pairs])


def check_rows(steps: Sequence[Any], rows: int) -> None:
    """See that every row can have its own of transformers' and xgrammar's processors.

    :param steps: the call's processors.
    :raises UnsupportedGeneration: what they hold does not fit the batch, or siblings decide together.
    """
    for place, step in enumerate(steps):
        if type(step) is hf.PrefixConstrainedLogitsProcessor:
            held = step._num_beams
            if held > 1 and not all(type(before) in FINITE for before in steps[:place]):
                raise UnsupportedGeneration(
                    "where other processors may have dropped all tokens that prefix_allowed_tokens_fn allows, the "
                    "num_return_sequences of a prompt decide together: ask for one sequence at a time"
                )
        elif type(step) is hf.EncoderRepetitionPenaltyLogitsProcessor:
            held = len(step.encoder_input_ids)
        elif type(step) is hf.RepetitionPenaltyLogitsProcessor and isinstance(step.prompt_ignore_length, Tensor):
            held = len(step.prompt_ignore_length)
        elif type(step) is hf.EncoderNoRepeatNGramLogitsProcessor:
            held = step.batch_size
        elif is_fresh_xgrammar(step) and len(step.compiled_grammars) > 1:
            held = len(step.compiled_grammars)
        else:
            continue
        if held != rows if type(step) not in SHARED else rows % held:
            raise UnsupportedGeneration(f"{type(step).__name__} is made for {held} rows, and the batch has {rows}")


def processors_of_rows(step: Any, rows: int) -> list[Any]:
    """One for each of ``rows``, asked as for a batch of one.

    :raises ValueError: ``racer_rows`` gives more or fewer.
    """
    if type(step) is hf.PrefixConstrainedLogitsProcessor:
        return [_constrained(step._prefix_allowed_tokens_fn, row // step._num_beams) for row in range(rows)]
    if type(step) is hf.EncoderRepetitionPenaltyLogitsProcessor:
        ids, share = step.encoder_input_ids, rows // len(step.encoder_input_ids)
        return [_copied(step, encoder_input_ids=ids[row // share][None]) for row in range(rows)]
    if type(step) is hf.EncoderNoRepeatNGramLogitsProcessor:
        ngrams, share = step.generated_ngrams, rows // step.batch_size
        return [_copied(step, generated_ngrams=[ngrams[row // share]], batch_size=1) for row in range(rows)]
    if is_fresh_xgrammar(step):
        grammars = step.compiled_grammars
        return [type(step)(grammars[row % len(grammars)]) for row in range(rows)]
    own = list(step.racer_rows(rows))
    if len(own) != rows:
        raise ValueError(f"racer_rows of {type(step).__name__} gave {len(own)} processors for {rows} rows")
    return own


def _constrained(allowed: Callable[[int, Tensor], list[int]], batch_id: int) -> Any:
    """A prefix constraint that asks its function about ``batch_id``, and no other."""
    return hf.PrefixConstrainedLogitsProcessor(lambda _, prefix: allowed(batch_id, prefix), 1)


def _copied(step: Any, **changes: Any) -> Any:
    other = copy.copy(step)
    vars(other).update(changes)
    return other
