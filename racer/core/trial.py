"""A few tokens scored as RACER would score them, beside what transformers' own loop makes of the same tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor
from transformers import DynamicCache

from racer.core.cache_layout import CacheLayout
from racer.core.logit_error import fault_of, logit_error, own_error
from racer.core.model_runner import CACHE_ARGUMENTS, ModelRunner
from racer.core.own_loop import OwnRun, own_logits
from racer.core.position_table import PositionWatch
from racer.step.draft_tree import DraftTree

PARENTS = (-1, 0, 0, 1, 2)
"""0 -> (1 -> 3, 2 -> 4): the path 0, 2, 4 is compared, the others must not show in it."""
PADDING = [0, 2]
PROMPT = 4


@attrs.frozen(eq=False)
class Trial:
    """Two prompts, one of them left-padded, and a few tokens after each."""

    model: Any
    prompts: Tensor
    """``[2, P]``"""
    tokens: Tensor
    """``[2, 5]`` nodes of a tree after them."""
    theirs: Tensor
    """``[2, 4, V]`` logits of transformers' loop, after the prompt and after each token of the tree's path."""
    layout: CacheLayout
    """What each layer stored meanwhile."""
    planes: int | None
    """Planes of positions that the loop prepared; None: one."""

    @classmethod
    def of(cls, model: Any, vocab_size: int) -> Trial:
        """Let transformers decode.

        :raises Exception: whatever the model raises.
        """
        generator = torch.Generator().manual_seed(0)
        shape = (len(PADDING), PROMPT + len(PARENTS))
        ids = torch.randint(vocab_size, shape, generator=generator).to(model.device)
        prompts, tokens = ids[:, :PROMPT], ids[:, PROMPT:]
        pad = getattr(model.config.get_text_config(), "pad_token_id", None)
        if isinstance(pad, int) and 0 <= pad < vocab_size:  # where it stands in a text, some models count otherwise
            tokens[:, 2] = pad
        theirs = _their_run(model, prompts, tokens[:, ::2])
        return cls(model, prompts, tokens, theirs.logits, CacheLayout.of(theirs.cache), theirs.planes)

    def faults(self, runner: ModelRunner, sound: Callable[[], bool]) -> tuple[str, str, int | None]:
        """What is wrong with rows without padding, what with padded ones (empty: nothing), and how many positions the
        model has (None: no table of them was seen).

        :param sound: whether the model's class takes trees where nothing is rounded; asked in doubt.
        """
        watch = PositionWatch(self._positions())
        try:
            alone = max(logit_error(ours[:1], theirs[:1]) for ours, theirs in self._alone(runner))
            pairs = list(self._together(runner, watch))
        except Exception as failure:  # any failure of a trial run means: not with trees
            return (failed := f"a trial tree failed with {type(failure).__name__}: {failure}"), failed, None
        first, second = (max(logit_error(ours[row], theirs[row]) for ours, theirs in pairs) for row in (0, 1))
        own = own_error(sound, self._their_ways)
        return fault_of(self.model, max(alone, first), own=own), fault_of(self.model, second, own=own), watch.size

    def _their_ways(self) -> Iterator[tuple[Tensor, Tensor]]:
        """transformers' logits of the last tokens, all tokens in one pass and one by one."""
        path = self.tokens[:, ::2]
        whole = _their_run(self.model, torch.cat([self.prompts, path], dim=1), path[:, :0])
        yield whole.logits[:, -1], self.theirs[:, -1]

    def heeds_positions(self) -> bool:
        """Whether positions make a difference: a forward that takes anything may drop them. Where it does, what a small
        dtype forgives would hide that nodes stand where their slots say."""
        near = torch.arange(PROMPT, device=self.prompts.device)[None]
        near, far = (
            self.model(input_ids=self.prompts[:1], position_ids=position, return_dict=True).logits
            for position in (near, 2 * near)
        )
        return not torch.equal(near, far)

    def _alone(self, runner: ModelRunner) -> Iterator[tuple[Tensor, Tensor]]:
        """A prompt without a mask, in pieces."""
        pieces = list(runner.prefill(self.prompts[:1], runner.open([0], PROMPT), chunk=PROMPT // 2, keep=PROMPT))
        yield pieces[-1].logits[:, -1], self.theirs[:, 0]

    def _together(self, runner: ModelRunner, watch: PositionWatch) -> Iterator[tuple[Tensor, Tensor]]:
        """Both prompts in pieces, a tree after them, one of its paths kept, and the next tree."""
        theirs, device = self.theirs, self.tokens.device
        cache = runner.open(PADDING, 64)
        pieces = list(runner.prefill(self.prompts, cache, chunk=PROMPT // 2, keep=PROMPT))
        yield pieces[-1].logits[:, -1:], theirs[:, :1]
        with watch:
            logits = runner.forward(trial_tree(self.tokens), cache, 2**40)
        yield logits[:, ::2], theirs[:, 1:]
        cache.commit(torch.tensor([[0, 2]] * 2, device=device), [2, 2], together=False)
        nodes = self.tokens[:, [4, 1]]
        yield runner.forward(trial_tree(nodes, (-1, 0)), cache, 2**40)[:, :1], theirs[:, 3:]

    def _positions(self) -> Tensor:
        depth = trial_tree(self.tokens).depth
        return PROMPT - torch.tensor(PADDING, device=depth.device)[:, None] + depth


def _their_run(model: Any, prompts: Tensor, forced: Tensor) -> OwnRun:
    """See :func:`~racer.core.own_loop.own_logits`; by forward alone where generate does not know how the model calls
    its cache."""
    try:
        return own_logits(model, prompts, PADDING, forced)
    except TypeError:
        new, old = CACHE_ARGUMENTS
        accepted = inspect.signature(model.forward).parameters
        if new in accepted or old not in accepted:
            raise
    cache = DynamicCache(config=model.config)
    ids = torch.cat([prompts, forced], dim=1)
    position = torch.arange(ids.shape[1], device=ids.device) - torch.tensor(PADDING, device=ids.device)[:, None]
    mask, position = (position >= 0).long(), position.clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=position, use_cache=True, **{old: cache})
    return OwnRun(output.logits[:, prompts.shape[1] - 1 :], cache)


def trial_tree(tokens: Tensor, parents: tuple[int, ...] = PARENTS) -> DraftTree:
    """A tree of the nodes ``[B, N]`` for each row."""
    parent = torch.tensor([parents] * len(tokens), device=tokens.device)
    return DraftTree(tokens, parent, torch.full_like(tokens[:, 0], len(parents)))
