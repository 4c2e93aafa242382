"""transformers' processors that read the prefix, for many prefixes of any lengths at once.

Each gives every row the very floats that its own ``__call__`` gives it, and writes into the scores that it is given: it
touches few tokens, where transformers copies the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.generation import logits_process as hf

from racer.hf.processors.texts import Texts


def _repetition(step: Any, texts: Texts, scores: Tensor) -> Tensor:
    size, ignored = scores.shape[1], step.prompt_ignore_length  # by row, where it is the padding
    first = ignored[list(texts.rows)].tolist() if isinstance(ignored, Tensor) else [ignored or 0] * len(texts.ids)
    seen = [ids[begin:] for ids, begin in zip(texts.ids, first, strict=True)]
    if not texts.fits(size):
        seen = [ids[ids < size] for ids in seen]
    places, flat = _flat(seen, size), scores.view(-1)
    found = flat[places]
    flat[places] = torch.where(found < 0, found * step.penalty, found / step.penalty)
    return scores


def _no_repeat_ngram(step: Any, texts: Texts, scores: Tensor) -> Tensor:
    length, size = step.ngram_size, scores.shape[1]
    banned = []
    for ids in texts.ids:
        if len(ids) < length:
            banned.append(ids[:0])
            continue
        windows = ids.unfold(0, length, 1)
        hit = (windows[:, :-1] == ids[len(ids) + 1 - length :]).all(-1)
        banned.append(windows[hit, -1])
    if not texts.fits(size):
        banned = [ids[ids < size] for ids in banned]
    scores.view(-1)[_flat(banned, size)] = -math.inf
    return scores


def _sequence_bias(step: Any, texts: Texts, scores: Tensor) -> Tensor:
    if not step.prepared_bias_variables:
        step._prepare_bias_variables(scores)
    matched = [_completes(step, ids) for ids in texts.ids]
    whole = {place: step(texts.stacked([place]), scores[[place]]) for place, found in enumerate(matched) if found}
    single = [sequence[0] for sequence in step.sequence_bias if len(sequence) == 1]
    if single:
        scores[:, single] += step.length_1_bias[single]
    for place, row in whole.items():
        scores[place] = row[0]
    return scores


def _completes(step: Any, ids: Tensor) -> bool:
    """Whether one of the longer sequences lacks only its last token."""
    if not hasattr(step, "multi_token_biases"):  # transformers before 5.20 goes through them one by one
        begun = [sequence[:-1] for sequence in step.sequence_bias if len(sequence) > 1]
        tail = tuple(ids[-max(map(len, begun), default=1) :].tolist())
        return any(tail[-len(tokens) :] == tuple(tokens) for tokens in begun)
    return any(
        bool((ids[-prefixes.shape[1] :] == prefixes).all(-1).any())
        for prefixes, *_ in step.multi_token_biases
        if prefixes.shape[1] <= len(ids)
    )


def _min_length(step: Any, texts: Texts, scores: Tensor) -> Tensor:
    short = [place for place, length in enumerate(texts.lengths) if length < step.min_length]
    return _without(scores, short, step.eos_token_id)


def _min_new_tokens(step: Any, texts: Texts, scores: Tensor) -> Tensor:
    least = step.prompt_length_to_skip + step.min_new_tokens
    short = [place for place, length in enumerate(texts.lengths) if length < least]
    return _without(scores, short, step.eos_token_id)


def _suppress_at_begin(step: Any, texts: Texts, scores: Tensor) -> Tensor:
    first = [place for place, length in enumerate(texts.lengths) if length == step.begin_index]
    return _without(scores, first, step.begin_suppress_tokens)


BATCHED: dict[type, Callable[[Any, Texts, Tensor], Tensor]] = {
    hf.MinLengthLogitsProcessor: _min_length,
    hf.MinNewTokensLengthLogitsProcessor: _min_new_tokens,
    hf.NoBadWordsLogitsProcessor: _sequence_bias,
    hf.NoRepeatNGramLogitsProcessor: _no_repeat_ngram,
    hf.RepetitionPenaltyLogitsProcessor: _repetition,
    hf.SequenceBiasLogitsProcessor: _sequence_bias,
    hf.SuppressTokensAtBeginLogitsProcessor: _suppress_at_begin,
}
"""From a processor, M prefixes and scores ``[M, V]`` (contiguous float32, written into) the processed scores."""


def _flat(ids: Sequence[Tensor], size: int) -> Tensor:
    """Where the tokens of each of M rows stand in flattened scores ``[M, size]``."""
    return torch.cat([tokens + place * size for place, tokens in enumerate(ids)])


def _without(scores: Tensor, places: Sequence[int], tokens: Tensor) -> Tensor:
    """Scores in which ``tokens`` are impossible at ``places``; ids that the head does not have are none of them."""
    if places:
        kept = [token for token in tokens.flatten().tolist() if 0 <= token < scores.shape[1]]
        scores[torch.tensor(places)[:, None], torch.tensor(kept, dtype=torch.long)] = -math.inf
    return scores
