"""Chains scored as RACER would score them, beside what transformers' own loop makes of the same tokens."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from racer.core.chain_runner import ChainPlan, ChainRunner
from racer.core.logit_error import fault_of, logit_error
from racer.core.own_loop import CACHE, generate_with, own_logits
from racer.core.prompt_pieces import PreparedCall

PADDING = 2
PROMPT = 4
FORCED = 7
"""Tokens after each prompt."""
STEPS = (((0, 2), 2), ((0, 5), 0), ((5, 6), 1), ((5, 7), 0))
"""Chains after the prompt: which of the forced tokens, from the last commit on, and how many wrong ones follow. So a
chain is cut in the middle, and its right part carried before the next one, which is kept whole; and once more."""
NOT_THE_MODELS = ("logits_processor", "stopping_criteria")
"""What the loop is given beside the model's arguments."""


def chain_faults(model: Any, vocab_size: int, prompt: int = PROMPT) -> tuple[ChainPlan | None, str, str]:
    """How a model takes chains (None: not), what is wrong with rows without padding, and what with padded ones.

    :param prompt: tokens of the prompts.
    """
    names = inspect.signature(model.prepare_inputs_for_generation).parameters
    if "next_sequence_length" not in names and not any(p.kind is p.VAR_KEYWORD for p in names.values()):
        return None, "it prepares its inputs for one token at a time", ""
    plan = ChainPlan(CACHE, "logits_to_keep" in inspect.signature(model.forward).parameters)
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(vocab_size, (2, prompt + FORCED), generator=generator).to(model.device)
    try:
        alone = _error(model, plan, ids[:1], [0], prompt)[0]
    except Exception as failure:  # any failure of a trial run means: not by chains
        return None, f"a trial chain failed with {type(failure).__name__}: {failure}", ""
    if reason := fault_of(model, alone, what="chain"):
        return None, reason, ""
    try:
        first, second = _error(model, plan, ids, [0, PADDING], prompt)
    except Exception as failure:
        return plan, "", f"a trial chain failed with {type(failure).__name__}: {failure}"
    return plan, "", fault_of(model, max(first, second), what="chain")


def _error(model: Any, plan: ChainPlan, ids: Tensor, padding: list[int], prompt: int) -> list[float]:
    """The largest error of each row."""
    theirs = own_logits(model, ids[:, :prompt], padding, ids[:, prompt:]).logits
    ours = torch.cat(list(_our_logits(model, plan, ids, padding, prompt)), dim=1)
    places = [0, *(place for (start, stop), _ in STEPS for place in range(start + 1, stop + 1))]
    return [logit_error(ours[row], theirs[row, places]) for row in range(len(ids))]


def _our_logits(model: Any, plan: ChainPlan, ids: Tensor, padding: list[int], prompt: int) -> Iterator[Tensor]:
    prepared: list[PreparedCall] = []

    def loop(model: Any, input_ids: Tensor, generation_config: Any = None, **inputs: Any) -> Tensor:
        inputs = {name: value for name, value in inputs.items() if name not in NOT_THE_MODELS}
        prepared.append(PreparedCall(input_ids, generation_config, inputs))
        return input_ids

    generate_with(model, ids[:, :prompt], padding, FORCED, loop)
    runner = ChainRunner(model, plan, prepared[0])
    cache = runner.open(padding, 0)
    yield next(runner.prefill(ids[:, :prompt], cache, prompt, 1)).logits[:, -1:]
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
