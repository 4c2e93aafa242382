"""Forward passes of a model that takes no trees: a chain of tokens after transformers' own cache.

The model prepares its inputs as in transformers' loop, several tokens at once as in assisted generation: masks,
positions and states are its own business, and whether it is up to it, a trial shows (:mod:`racer.core.chain_trial`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
import torch
from torch import Tensor

from racer.core.chain_cache import ChainCache
from racer.core.packed_weights import PackedModel
from racer.core.prompt_pieces import KEEP, PreparedCall, PromptPiece
from racer.core.stand_in import StandIn


@attrs.frozen(eq=False)
class ChainPlan:
    """How a model takes chains. It does not hold the model."""

    cache_argument: str
    """What its generation loop calls the cache."""
    takes_logits_to_keep: bool
    alone: int | None = None
    """A token that must be the last of a pass, and alone if it is pending: models that count positions by the pad
    tokens of a pass give other ones to what comes after it. None: there is none."""
    states: bool = True
    """Whether its cache holds more than keys and values of all slots, so that tokens cannot be taken back."""
    tried: int | None = None
    """Slots up to which it is known to take chains; None if no window may end somewhere."""

    def room(self, nodes: int, end: int) -> int:
        """How many of ``nodes`` a chain may have whose root comes to slot ``end``; one does as plain decoding does."""
        return nodes if self.tried is None else max(1, min(nodes, self.tried - end))


@attrs.define(eq=False)
class ChainRunner:
    """Runs a model over a prompt and over chains, for one call. It touches nothing of the model."""

    model: Any
    plan: ChainPlan
    call: PreparedCall
    packed: PackedModel | None = None
    """The weights that it multiplies with in its place, if any."""
    _stand_in: StandIn = attrs.field(init=False)
    _output: Any = attrs.field(init=False, default=None)
    """Of the latest forward pass."""

    def __attrs_post_init__(self) -> None:
        self._stand_in = StandIn(self.model, self.packed, short_passes=self.model.device.type == "cpu")

    @property
    def looks(self) -> int:
        """See :attr:`racer.core.stand_in.StandIn.looks`."""
        return self._stand_in.looks.count

    def close(self) -> None:
        """End the call."""
        self._stand_in.close()

    def open(self, padding: list[int], capacity: int) -> ChainCache:
        """The call's cache, which grows as transformers' does."""
        return ChainCache(padding, dict(self.call.arguments), self.plan.cache_argument)

    def passes(
        self, input_ids: Tensor, cache: ChainCache, chunk: int, keep: int, wide: int | None = None
    ) -> Iterator[PromptPiece]:
        """Score the whole prompt as transformers does; yields its last ``keep`` columns, or as many as the model shows.

        :param chunk: no piece is shown that is larger.
        :param wide: without effect: it goes at once.
        """
        takes_keep = self.plan.takes_logits_to_keep
        piece, self._output = self.call.score(
            self.model, dict(cache.arguments), takes_keep=takes_keep, chunk=chunk, keep=keep
        )
        cache.committed = input_ids.shape[1]
        yield piece

    def forward(self, tokens: Tensor, cache: ChainCache, count: int, keep: int) -> tuple[Tensor, dict[str, Any]]:
        """Logits ``[B, keep, V]`` of the last ``keep`` of ``count`` tokens after the committed ones, and the arguments
        with which these would be committed.

        :param tokens: ``[B, committed + count]``: the whole texts.
        """
        model, after = self.model, self.arguments_after(cache, count)
        inputs = model.prepare_inputs_for_generation(tokens, next_sequence_length=count, **after)
        inputs["return_dict"] = True
        if self.plan.takes_logits_to_keep:  # some prepare a number of their own
            inputs[KEEP] = keep
        self._output = self._stand_in.run(inputs, cache)
        logits: Tensor = self._output.logits[:, -keep:]
        return logits, after

    def arguments_after(self, cache: ChainCache, count: int) -> dict[str, Any]:
        """The model's arguments when ``count`` more tokens are committed."""
        after: dict[str, Any] = self.model._update_model_kwargs_for_generation(
            self._output,
            dict(cache.arguments),
            is_encoder_decoder=self.model.config.is_encoder_decoder,
            num_new_tokens=count,
        )
        return after


def whole_texts(rows: list[list[int]], length: int, pad: int, device: torch.device) -> Tensor:
    """``[B, length]``: each row's tokens, filled up or cut."""
    filled = [row[:length] + [pad] * (length - len(row)) for row in rows]
    return torch.tensor(filled, device=device)
