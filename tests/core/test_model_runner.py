"""The cache reaches the model by the name that the model knows."""

from __future__ import annotations

import pytest

from racer import DecodeConfig, Decoder
from racer.testing import ToyLM, decode, decode_plainly, toy_model
from racer.testing.toy import ToyConfig


class OldNamed(ToyLM):
    """As models of transformers before 5.24, and others' after it, call the cache."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, past_key_values=None, **others):  # type: ignore[no-untyped-def]
        return super().forward(input_ids, attention_mask, position_ids, past_key_values, **others)


class NewNamed(ToyLM):
    """As models of transformers from 5.24 on call it."""

    def forward(self, input_ids, attention_mask=None, position_ids=None, cache=None, **others):  # type: ignore[no-untyped-def]
        return super().forward(input_ids, attention_mask, position_ids, cache, **others)


@pytest.mark.parametrize("kind", [OldNamed, NewNamed])
def test_the_cache_is_given_by_the_name_that_the_model_knows(kind: type[ToyLM]) -> None:
    model = kind(ToyConfig(vocab_size=9)).eval()
    tokens, _ = decode(Decoder(model, DecodeConfig(drafter="racer-paper", budget=12)), [[1, 2, 3]], 20)
    assert tokens == decode_plainly(toy_model(9), [[1, 2, 3]], 20)
