"""Whether rounding alone may have made two texts of a model differ."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from racer.kernels.gumbel import gumbel_at
from racer.step.request import row_seed
from racer.testing.compat.prompts import Prompts

CLOSE = 1e-3
"""Logits that are nearer to each other than this share of their deviation may be told apart by rounding."""
SHAKE = 1e-6
"""What rounding does to a result, as a share of it, in float32: some of its last bits."""
SHAKES = 8
"""An even choice inside the model goes each time as it went before in one of 256 cases."""


def near_tie(model: Any, prompts: Prompts, rows: slice, plain: Tensor, ours: Tensor, seed: int | None = None) -> bool:
    """Whether, where rows of ``plain [B, T]`` and ``ours`` first part, rounding decides between both tokens.

    It does where they are as good as each other to the model, and where weights that differ in their last bits move
    one past the other: when two experts, say, are as good as each other to a router.

    :param seed: of the call whose noise sampled texts drew; None: they are greedy.
    """
    if plain.shape != ours.shape:
        return False
    for row in range(len(plain)):
        places = (plain[row] != ours[row]).nonzero().flatten().tolist()
        if not places:
            continue
        if places[0] < prompts.ids.shape[1]:
            return False
        both = [int(plain[row, places[0]]), int(ours[row, places[0]])]
        given = (model, prompts, rows, plain, row, places[0], seed)
        scores, deviation = scores_at(*given)
        lead = _lead(scores, both)
        if abs(lead) > CLOSE * deviation and not any(
            abs(other - lead) > abs(lead) for other in _leads_when_shaken(given, both)
        ):
            return False
    return True


def scores_at(
    model: Any, prompts: Prompts, rows: slice, texts: Tensor, row: int, place: int, seed: int | None
) -> tuple[Tensor, float]:
    """``[V]`` what a row's token at ``place`` is the argmax of, and the deviation of its logits.

    :param texts: ``[B, T]`` of these rows, padding included.
    """
    given = prompts.given(rows, texts[:, :place])
    how: Any = {"max_new_tokens": 1, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    logits = model.generate(**given, **how).logits[0][row].double()
    deviation = float(logits.std().clamp(min=1e-9))
    if seed is None:
        return logits, deviation
    position = place - list(prompts.pads)[rows][row]
    return logits + gumbel_at(row_seed(seed, row), position, torch.arange(len(logits))), deviation


@contextmanager
def _shaken(model: Any, seed: int) -> Iterator[None]:
    """The model with weights that differ in their last bits."""
    generator = torch.Generator().manual_seed(seed)
    kept = [(weight, weight.detach().clone()) for weight in model.parameters()]
    try:
        with torch.no_grad():
            for weight, _ in kept:
                weight.mul_(1 + SHAKE * torch.randn(weight.shape, generator=generator))
        yield
    finally:
        with torch.no_grad():
            for weight, before in kept:
                weight.copy_(before)


def _leads_when_shaken(
    given: tuple[Any, Prompts, slice, Tensor, int, int, int | None], both: list[int]
) -> Iterator[float]:
    for seed in range(SHAKES):
        with _shaken(given[0], seed):
            lead = _lead(scores_at(*given)[0], both)
        yield lead  # by weights that are as they were: who asks may stop here


def _lead(scores: Tensor, both: list[int]) -> float:
    return float(scores[both[0]] - scores[both[1]])
