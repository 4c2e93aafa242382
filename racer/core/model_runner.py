"""One forward pass of an unmodified model over a tree, or over a piece of prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.cache_layout import CacheLayout
from racer.core.few_rows import many_rows
from racer.core.grouped_attention import grouped_configs
from racer.core.kv_cache import TreeCache
from racer.core.masks import MaskPlan
from racer.core.packed_weights import PackedModel
from racer.core.prompt_pieces import KEEP, PreparedCall, PromptPiece, pieces
from racer.core.stand_in import StandIn, call_model
from racer.step.draft_tree import DraftTree

CACHE_ARGUMENTS = ("cache", "past_key_values")
"""What a model's forward may call its cache: the former from transformers 5.24 on."""
WORTH = 16
"""Tokens of a prompt from which on it is worth making a twin for its pass."""
UNSEEN = 16
"""So many times longer are pieces of a prompt whose logits are not made. transformers scores prompts whole; what later
pieces see of earlier ones goes past its fast attention: 8,000 tokens took 1.25 times as long in pieces of 2,048."""


@attrs.frozen(eq=False)
class ForwardPlan:
    """How a model takes trees. It does not hold the model."""

    layout: CacheLayout
    masks: MaskPlan
    takes_logits_to_keep: bool
    cache_argument: str
    """Of :data:`CACHE_ARGUMENTS`."""
    planes: int | None = None
    """Planes of positions that its loop prepares, of height, width and time as well; None: ``[B, N]`` positions."""
    groups: bool = False
    """Whether trees are scored with :func:`racer.core.grouped_attention.grouped`."""
    switched: bool = False
    """Whether the model's own attention takes no trees, so that nothing but its twin may score them."""
    positions: int | None = None
    """Positions that the model's own table of them has, or up to which it rotates alike; None if there is no end."""
    tried: int | None = None
    """Slots of the cache up to which the model is known to take trees; None if no window may end somewhere."""

    def room(self, nodes: int, end: int) -> int:
        """How many of ``nodes`` a tree may have whose root comes to slot ``end``: its deepest path must stay within the
        table of positions, and its slots within what was tried. One node does as plain decoding does."""
        ends = [limit for limit in (self.positions, self.tried) if limit is not None]
        return max(1, min(nodes, min(ends, default=end + nodes) - end))


@attrs.define(eq=False)
class ModelRunner:
    """Runs a model over prompts and trees, for one call. It knows no strategy, and touches nothing of the model."""

    model: Any
    """A Hugging Face causal LM."""
    plan: ForwardPlan
    """How it takes trees, from :func:`racer.core.support.probe`."""
    packed: PackedModel | None = None
    """The weights that it multiplies with in its place, if any (:func:`racer.core.packed_weights.pack`)."""
    call: PreparedCall | None = None
    """What the prompt is scored with where its tokens do not say it all."""
    _stand_in: StandIn = attrs.field(init=False)
    _of_prompts: StandIn | None = attrs.field(init=False, default=None)
    """Who scores prompts in the model's place, where its own products are slow; made when there is one."""

    def __attrs_post_init__(self) -> None:
        configs = grouped_configs(self.model) if self.plan.groups else None
        self._stand_in = StandIn(self.model, self.packed, configs)

    @property
    def twin(self) -> Any:
        """What scores trees in the model's place; None: the model itself."""
        return self._stand_in.twin

    @property
    def looks(self) -> int:
        """See :attr:`racer.core.stand_in.StandIn.looks`."""
        return self._stand_in.looks.count

    def close(self) -> None:
        """End the call."""
        self._stand_in.close()
        if self._of_prompts is not None:
            self._of_prompts.close()

    def open(self, padding: list[int], capacity: int) -> TreeCache:
        """An empty cache for a batch whose rows start after ``padding`` masked slots."""
        cache = TreeCache(self.plan.layout, padding, capacity)
        cache.offset = None if self.call is None else self.call.offset
        return cache

    def prefill(self, input_ids: Tensor, cache: TreeCache, chunk: int, keep: int) -> Iterator[PromptPiece]:
        """See :meth:`passes`: the pieces that have logits."""
        return (piece for piece in self.passes(input_ids, cache, chunk, keep) if piece is not None)

    def passes(
        self, input_ids: Tensor, cache: TreeCache, chunk: int, keep: int, wide: int | None = None
    ) -> Iterator[PromptPiece | None]:
        """Run the left-padded prompt ``[B, P]`` through the model piece by piece, so that no ``[P, V]`` tensor exists.

        Each pass gives what of it has logits, or None.

        A prompt that its tokens do not say all of (:attr:`call`) goes at once, as the model prepares it itself.

        What the cache holds already stands before it: columns and padding are counted from the cache's first slot.

        :param chunk: columns whose logits may exist at once.
        :param keep: columns at the prompt's end whose logits are wanted, at least 1.
        :param wide: columns of a piece at most; None: as many as are scored fast.
        """
        past, width = cache.end, input_ids.shape[1]
        if self.call is not None:
            yield self._prepared_prompt(self.call, cache, chunk, keep)
            return
        columns = torch.arange(past + width, device=input_ids.device)
        pad = torch.tensor(cache.padding, device=input_ids.device)
        position = (columns - pad[:, None]).clamp(min=0)
        mask = (columns >= pad[:, None]).long() if any(cache.padding) else None
        wide = wide or (chunk * UNSEEN if self.plan.takes_logits_to_keep else chunk)
        for start, stop, scored in pieces(width, chunk, wide, keep):
            tokens = input_ids[:, start:stop]
            cache.reserve(stop - start)
            seen = None if mask is None else mask[:, : past + stop]
            inputs = self._inputs(tokens, seen, position[:, past + start : past + stop], cache, max(scored, 1))
            logits = self._scored(inputs).logits
            cache.append(stop - start)
            yield PromptPiece(past + stop - scored, tokens[:, -scored:], logits[:, -scored:]) if scored else None

    def _scored(self, inputs: dict[str, Any]) -> Any:
        """The output for a piece of prompt: the model's own pass, but for products that are slow here."""
        if not many_rows(self.model.dtype) or inputs["input_ids"].numel() < WORTH:
            return call_model(self.model, **inputs)
        if self._of_prompts is None:
            self._of_prompts = StandIn(self.model, recorded=False)
        return self._of_prompts.run(inputs)

    def _prepared_prompt(self, call: PreparedCall, cache: TreeCache, chunk: int, keep: int) -> PromptPiece:
        width = call.input_ids.shape[1]
        cache.reserve(width)
        name = next(name for name in CACHE_ARGUMENTS if name in call.arguments)
        takes_keep = self.plan.takes_logits_to_keep
        piece, _ = call.score(
            self.model, {**call.arguments, name: cache}, takes_keep=takes_keep, chunk=chunk, keep=keep
        )
        cache.append(width)
        return piece

    def forward(self, tree: DraftTree, cache: TreeCache, last_position: int, keep: int = 0) -> Tensor:
        """Logits ``[B, N, V]`` of every node, each seeing the committed tokens and its own ancestors.

        With ``keep``, of the last so many columns at least.

        Keys and values go to the cache's scratch rows; nothing is committed. Nodes beyond ``last_position`` can never
        be emitted; they are scored at that position, so that a learned position table is not overrun.
        """
        device = tree.tokens.device
        cache.reserve(tree.width)
        if tree.width == 1 and cache.padding == [0]:  # plain decoding, where each small operation counts
            mask = self.plan.masks.of_lone(cache.end + 1, self.model.dtype, device)
            if mask is not None:
                position = torch.tensor([[min(cache.end, last_position)]], device=device)
                return self.run(tree.tokens, mask, self._further(position, cache), cache, keep)
        slots = torch.arange(cache.end, device=device)
        bounds = torch.tensor([cache.padding, cache.lengths], device=device)[:, :, None]
        position = ((bounds[1] - bounds[0]) + tree.depth).clamp(max=last_position)
        past = (slots >= bounds[0]) & (slots < bounds[1])
        seen = torch.cat([past[:, None].expand(-1, tree.width, -1), tree.ancestors], dim=2)
        places = torch.cat([slots - bounds[0], position], dim=1)
        mask = self.plan.masks.build(seen, position, places, self.model.dtype)
        return self.run(tree.tokens, mask, self._further(position, cache), cache, keep)

    @staticmethod
    def _further(position: Tensor, cache: TreeCache) -> Tensor:
        """Positions, moved by as much as those of the cache's rows are."""
        return position if cache.offset is None else position + cache.offset

    def run(
        self,
        tokens: Tensor,
        mask: Any,
        position: Tensor,
        cache: Any,
        keep: int = 0,
        *,
        call: Callable[..., Any] = call_model,
    ) -> Tensor:
        """Logits ``[B, N, V]`` of a tree's ``tokens [B, N]``; with ``keep``, of the last so many columns at least.

        :param position: ``[B, N]``, or ``[planes, B, N]``.
        :param cache: where transformers' layers put keys and values.
        :param call: who calls the model: ``call(model, **inputs)``.
        """
        logits: Tensor = self._output(call, self._inputs(tokens, mask, position, cache, keep)).logits
        return logits

    def _inputs(self, tokens: Tensor, mask: Any, position: Tensor, cache: Any, keep: int) -> dict[str, Any]:
        """Of the model's forward, to give the logits of the last ``keep`` columns, or of all with 0."""
        if self.plan.planes is not None and position.dim() == 2:
            position = position.expand(self.plan.planes, -1, -1)
        inputs: dict[str, Any] = {
            "input_ids": tokens,
            "attention_mask": mask,
            "position_ids": position,
            "use_cache": True,
            "return_dict": True,
            self.plan.cache_argument: cache,
        }
        if self.plan.takes_logits_to_keep:
            inputs[KEEP] = keep
        return inputs

    def _output(self, call: Callable[..., Any], inputs: dict[str, Any]) -> Any:
        if self.plan.switched:
            return call(self.twin, **inputs)
        return self._stand_in.run(inputs) if call is call_model else call(self.model, **inputs)
