"""Lengths at which a model may begin to attend otherwise, and a trial beyond them that needs no long prompt."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.cache_layout import Block
from racer.core.kv_cache import TreeCache
from racer.core.logit_error import fault_of, logit_error, own_error
from racer.core.model_runner import ModelRunner
from racer.core.own_loop import own_logits
from racer.core.trial import PARENTS, trial_tree

_LENGTHS = re.compile(
    r"window|chunk|block|local|sink|keep|stride|span|segment|mem_len|look|compress|topk|recent|sparse"
)
_COUNTS = re.compile(r"expert|layer|head|pattern|group|logits|num_|(?:^|_)n_|interval|rope|moe|conv|mamba")
"""Names that speak of lengths, and words in them that speak of something else."""
SHORTEST = 4
"""Shorter ones are outgrown by every trial."""
PADDING = 3
"""Masked slots of a padded row."""
MARGIN = 8
"""Slots of a trial beyond a window: more than a tree's nodes or the trial's padding."""


def windows_of(config: Any) -> tuple[int, ...]:
    """Every number in a text configuration that may be a window, a chunk, or how many keys are kept; ascending."""
    return tuple(sorted({number for number in _numbers(config.to_dict()) if number > SHORTEST}))


def _numbers(part: Any, named: bool = False) -> Iterator[int]:
    if isinstance(part, dict):
        for name, value in part.items():
            lengths = bool(_LENGTHS.search(str(name))) and not _COUNTS.search(str(name))
            yield from _numbers(value, lengths or (named and isinstance(value, (int, list, tuple))))
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from _numbers(value, named)
    elif named and isinstance(part, int) and not isinstance(part, bool):
        yield part


def beyond(runner: ModelRunner, vocab_size: int, windows: list[int], sound: Callable[[], bool]) -> tuple[str, str]:
    """What is wrong beyond these windows with a row without padding, and what with a padded one; empty: nothing.

    Each side takes the memory of one row as long as the longest of them.

    :param sound: whether the model's class takes trees where nothing is rounded; asked in doubt.
    """
    table, room = runner.plan.positions, len(PARENTS) + 1
    length = max(windows) + MARGIN
    if table is not None and length > table - room:
        length = table - room
        windows = [window for window in windows if window < length]
        if not windows:
            return "", ""  # no text gets so far
    elif (chunk := runner.plan.masks.chunk) in windows:
        assert chunk is not None
        length += (chunk - 1 - length) % chunk  # the root is the last of its chunk: the nodes after it see none before
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randint(vocab_size, (1, len(PARENTS)), generator=generator).to(runner.model.device)
    trial = _LongTrial(runner, tokens, windows, length, sound)
    return trial.fault(0), trial.fault(PADDING)


@attrs.frozen(eq=False)
class _LongTrial:
    """One row whose cache is filled with made-up keys and values: any length for the price of a few tokens.

    Both sides read the same ones, so they need not be what the model would have written.
    """

    runner: ModelRunner
    tokens: Tensor
    """``[1, 5]`` nodes of a tree."""
    windows: list[int]
    length: int
    """Slots that are filled."""
    sound: Callable[[], bool]

    def fault(self, padding: int) -> str:
        """What is wrong with a row that has so many masked slots at its left."""
        where = f" beyond its window of {self.windows[-1]}"
        try:
            error = max(logit_error(ours, theirs) for ours, theirs in self._compared(padding))
        except Exception as failure:  # any failure of a trial run means: not with trees; it may have been too long
            return f"a trial{where} failed with {type(failure).__name__}: {failure}"
        part = 0.5  # what is made up is rounded less, mostly
        return fault_of(self.runner.model, error, where, part, own=own_error(self.sound, self._their_ways))

    def _compared(self, padding: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Logits ``[1, 3, V]`` of a path through a tree, or of it as a piece of prompt, beside transformers' own."""
        path, theirs, cache = self.tokens[:, ::2], self._theirs(padding), self._our_cache(padding)
        yield self.runner.forward(trial_tree(self.tokens), cache, 2**40)[:, ::2], theirs
        piece = next(self.runner.prefill(path, cache, chunk=path.shape[1], keep=path.shape[1]))
        yield piece.logits, theirs

    def _theirs(self, padding: int, together: bool = False) -> Tensor:
        """``[1, 3, V]`` transformers' logits of the path; ``together``, in one pass, its last token's alone."""
        path = self.tokens[:, ::2]
        prompt = torch.cat([path[:, :1].expand(-1, self.length), path], dim=1)
        given = prompt.shape[1] if together else self.length + 1
        run = own_logits(self.runner.model, prompt[:, :given], [padding], prompt[:, given:], fill=self._fill)
        return run.logits

    def _their_ways(self) -> Iterator[tuple[Tensor, Tensor]]:
        """transformers' logits of the path's last token, the path in one pass and one by one."""
        for padding in (0, PADDING):
            yield self._theirs(padding, together=True)[:, -1], self._theirs(padding)[:, -1]

    def _fill(self, cache: Any) -> None:
        for layer, keys, values in self._states():
            cache.update(keys, values, layer)
        for layer, keys in self._index_keys():
            cache.update_indexer(keys, layer)

    def _our_cache(self, padding: int) -> TreeCache:
        cache = self.runner.open([padding], self.length + self.tokens.shape[1])
        for layer, keys, values in self._states():
            for place, states in zip(cache.layer(layer), (keys, values), strict=True):
                place[:, :, : self.length] = states
        for layer, keys in self._index_keys():
            cache.index_keys(layer)[:, : self.length] = keys
        cache.append(self.length)
        return cache

    def _states(self) -> Iterator[tuple[int, Tensor, Tensor]]:
        """The number of each layer that stores something, and its keys and values. Small keys are attended to evenly,
        and where windows end values are the larger the older they are, so that one key more or less shows in a long
        window and in a small dtype too."""
        layout = self.runner.plan.layout
        generator = torch.Generator(layout.keys[0].device).manual_seed(1)
        for layer, keys, values in zip(layout.stored, layout.keys, layout.values, strict=True):
            filled = self._random(values, generator)
            for window in self.windows:
                for place in range(-2, MARGIN):
                    if 0 <= (slot := self.length - window + place) < self.length:
                        larger = window * 2.0 ** (MARGIN - 1 - max(place, 0))
                        filled[:, :, slot] *= min(larger, torch.finfo(values.dtype).max / 8)
            yield layer, self._random(keys, generator) * 0.02, filled

    def _index_keys(self) -> Iterator[tuple[int, Tensor]]:
        """The number of each layer with an indexer, and its keys ``[1, length, head_dim]``."""
        layout = self.runner.plan.layout
        generator = torch.Generator(layout.keys[0].device).manual_seed(3)
        for layer, block in zip(layout.indexed, layout.index_keys, strict=True):
            yield layer, self._random(block, generator)[:, 0]

    def _random(self, block: Block, generator: torch.Generator) -> Tensor:
        shape = (1, block.heads, self.length, block.head_dim)
        return torch.randn(shape, generator=generator, device=generator.device).to(block.device, block.dtype)
