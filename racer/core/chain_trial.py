"""Chains scored as RACER would score them, beside what transformers' own loop makes of the same tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.chain_cache import ChainCache
from racer.core.chain_runner import ChainPlan, ChainRunner
from racer.core.logit_error import fault_of, logit_error, own_error
from racer.core.own_loop import CACHE, generate_with, own_logits
from racer.core.prompt_pieces import PreparedCall

PADDING = 2
PROMPT = 4
FORCED = 7
"""Tokens after each prompt."""
STEPS = (((0, 2), 2), ((0, 5), 0), ((5, 6), 1), ((5, 7), 0))
"""Chains after the prompt: which of the forced tokens, from the last commit on, and how many wrong ones follow. So a
chain is cut in the middle, and its right part carried before the next one, which is kept whole; and once more."""
PAD_AT = 1
"""Which of them is a pad token: one within a chain."""
NOT_THE_MODELS = ("logits_processor", "stopping_criteria")
"""What the loop is given beside the model's arguments."""


def chain_faults(
    model: Any, vocab_size: int, prompt: int = PROMPT, sound: Callable[[], bool] = lambda: False
) -> tuple[ChainPlan | None, str, str]:
    """How a model takes chains (None: not), what is wrong with rows without padding, and what with padded ones.

    :param prompt: tokens of the prompts.
    :param sound: whether the model's class takes chains where nothing is rounded; asked in doubt.
    """
    names = inspect.signature(model.prepare_inputs_for_generation).parameters
    if "next_sequence_length" not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
        return None, "it prepares its inputs for one token at a time", ""
    plan = ChainPlan(CACHE, "logits_to_keep" in inspect.signature(model.forward).parameters)
    ids = _texts(model, vocab_size, prompt)
    try:
        plan, error = _alone(model, plan, ids)
    except Exception as failure:  # any failure of a trial run means: not by chains
        return None, f"a trial chain failed with {type(failure).__name__}: {failure}", ""
    if reason := fault_of(model, error, what="chain", own=own_error(sound, partial(_their_ways, model, ids, prompt))):
        return None, reason, ""
    ids = _texts(model, vocab_size, prompt, pads=plan.alone is None)
    try:
        first, second = _error(model, plan, ids, [0, PADDING], prompt)
    except Exception as failure:
        return plan, "", f"a trial chain failed with {type(failure).__name__}: {failure}"
    own = own_error(sound, partial(_their_ways, model, ids, prompt))
    return plan, "", fault_of(model, max(first, second), what="chain", own=own)


def _texts(model: Any, vocab_size: int, prompt: int, *, pads: bool = True) -> Tensor:
    """``[2, prompt + FORCED]`` tokens; with ``pads``, a pad token is among those that come after the prompts."""
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(vocab_size, (2, prompt + FORCED), generator=generator)
    if model.config.is_encoder_decoder:
        ids[:, 0] = ids[0, 0]  # the token that decoders start with
    if (pad := pad_of(model, vocab_size)) is not None:
        ids[ids == pad] = (pad + 1) % vocab_size
        if pads:
            ids[:, prompt + PAD_AT] = pad
    return ids.to(model.device)


def pad_of(model: Any, vocab_size: int) -> int | None:
    """A model's pad token, if it is one of its tokens."""
    pad = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None)
    return pad if isinstance(pad, int) and 0 <= pad < vocab_size else None


def _alone(model: Any, plan: ChainPlan, ids: Tensor) -> tuple[ChainPlan, float]:
    """The plan, and the error of a row without padding; if only texts without pad tokens are right, a plan that keeps
    these alone."""
    prompt = ids.shape[1] - FORCED
    (error,), states = _compared(model, plan, ids[:1], [0], prompt)
    plan = attrs.evolve(plan, states=states)
    pad = int(ids[0, prompt + PAD_AT])
    if not fault_of(model, error) or pad != pad_of(model, pad + 1):
        return plan, error
    without = ids.masked_fill(ids == pad, pad - 1 if pad else 1)
    return attrs.evolve(plan, alone=pad), _error(model, plan, without[:1], [0], prompt)[0]


def _their_ways(model: Any, ids: Tensor, prompt: int) -> Iterator[tuple[Tensor, Tensor]]:
    """transformers' logits of the last tokens, all tokens in one pass and one by one."""
    whole, theirs = (own_logits(model, ids[:, :n], [0, PADDING], ids[:, n:]).logits for n in (ids.shape[1], prompt))
    yield whole[:, -1], theirs[:, -1]


def _error(model: Any, plan: ChainPlan, ids: Tensor, padding: list[int], prompt: int) -> list[float]:
    """The largest error of each row."""
    return _compared(model, plan, ids, padding, prompt)[0]


def _compared(model: Any, plan: ChainPlan, ids: Tensor, padding: list[int], prompt: int) -> tuple[list[float], bool]:
    """The same, and whether tokens could not be taken back."""
    theirs = own_logits(model, ids[:, :prompt], padding, ids[:, prompt:]).logits
    runner, cache = _opened(model, plan, ids[:, :prompt], padding)
    ours = torch.cat(list(_our_logits(runner, cache, ids, prompt)), dim=1)
    places = [0, *(place for (start, stop), _ in STEPS for place in range(start + 1, stop + 1))]
    return [logit_error(ours[row], theirs[row, places]) for row in range(len(ids))], not cache.crops


def _opened(model: Any, plan: ChainPlan, prompts: Tensor, padding: list[int]) -> tuple[ChainRunner, ChainCache]:
    prepared: list[PreparedCall] = []

    def loop(model: Any, input_ids: Tensor, generation_config: Any = None, **inputs: Any) -> Tensor:
        inputs = {name: value for name, value in inputs.items() if name not in NOT_THE_MODELS}
        prepared.append(PreparedCall(input_ids, generation_config, inputs))
        return input_ids

    generate_with(model, prompts, padding, FORCED, loop)
    runner = ChainRunner(model, plan, prepared[0])
    return runner, runner.open(padding, 0)


def _our_logits(runner: ChainRunner, cache: ChainCache, ids: Tensor, prompt: int) -> Iterator[Tensor]:
    yield next(runner.passes(ids[:, :prompt], cache, prompt, 1)).logits[:, -1:]
    for (start, stop), wrong in STEPS:
        texts, count = ids[:, : prompt + stop], stop - start
        if wrong:
            other = (ids[:, :wrong] + 1) % int(ids.max())
            texts = torch.cat([texts, other], dim=1)
            cache.mark()
        logits, after = runner.forward(texts, cache, count + wrong, count + wrong)
        yield logits[:, :count]
        if wrong and cache.crops:
            cache.crop(prompt + start)
        elif wrong:
            cache.back()
        else:
            cache.arguments, cache.committed = after, prompt + stop
