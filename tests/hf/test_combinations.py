"""What calls ask for together: criteria, caches, scores, processors with a memory, streamers, in both kinds of shapes."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

import racer
from racer import DecodeConfig
from racer.hf.caches import CACHE_FIELD
from racer.hf.plain import PlainDecodingWarning
from support.criteria import AfterPair, CountsAsked, DeclaredAfterPair, OneFlag, RowLimits
from support.tiny_models import VOCAB, batch, tiny

NEWS = torch.randint(2, VOCAB, (3, 5), generator=torch.Generator().manual_seed(5))


def mine(model: Any, compile: str = "off", drafter: str = "racer", **how: Any) -> Any:
    """By RACER, not plainly."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainDecodingWarning)
        return racer.generate(model, config=DecodeConfig(drafter=drafter, budget=12, compile=compile, seed=1), **how)


def equal_caches(got: Any, expected: Any) -> None:
    got, expected = getattr(got, CACHE_FIELD), getattr(expected, CACHE_FIELD)
    assert got.get_seq_length() == expected.get_seq_length()
    for one, other in zip(got.layers, expected.layers, strict=True):
        for part in ("keys", "values"):
            torch.testing.assert_close(getattr(one, part), getattr(other, part), atol=1e-8, rtol=1e-6)


def equal_scores(got: Any, expected: Any, lengths: list[int]) -> None:
    """Of row ``b`` the first ``lengths[b]``."""
    for name in ("scores", "logits"):
        one, other = getattr(got, name), getattr(expected, name)
        assert (one is None) == (other is None)
        assert len(one or ()) == len(other or ())
        for place, (mine, theirs) in enumerate(zip(one or (), other or (), strict=True)):
            for row, length in enumerate(lengths):
                if place < length:
                    torch.testing.assert_close(mine[row], theirs[row], atol=1e-4, rtol=1e-4)
                else:
                    assert not mine[row].any()


def tokens_of(stats: Any) -> list[int]:
    """New tokens of each row, by its steps."""
    return [1 + sum(lengths) for lengths in stats.accept_lengths]


def honest(output: Any, columns: int, pad: int | None) -> list[int]:
    """Each row's new tokens, after checking that the statistics count what is in the output."""
    stats, new = output.racer_stats, output.sequences[:, columns:]
    lengths = tokens_of(stats)
    assert stats.new_tokens == sum(lengths)
    assert max(lengths) == new.shape[1]
    for row, length in zip(new.tolist(), lengths, strict=True):
        assert all(token == pad for token in row[length:])
    return lengths


@settings(max_examples=25)
@given(
    kinds=st.lists(st.sampled_from([AfterPair, DeclaredAfterPair, RowLimits, OneFlag, CountsAsked]), max_size=2),
    eos=st.sampled_from([None, 9, [3, 5, 8, 11]]),
    new=st.integers(2, 20),
    name=st.sampled_from(["llama", "gemma3"]),
    cached=st.sampled_from(["returned", "given", "next turn", "new tokens"]),
    logits=st.booleans(),
    compile=st.sampled_from(["off", "static"]),
    drafter=st.sampled_from(["logits", "racer"]),
)
def test_rows_that_criteria_end_together(
    kinds: list[type], eos: Any, new: int, name: str, cached: str, logits: bool, compile: str, drafter: str
) -> None:
    model, inputs = tiny(name), batch()
    how: dict[str, Any] = {"do_sample": False, "return_dict_in_generate": True, "pad_token_id": 0}
    caches: list[dict[str, Any]] = [{}, {}]
    if cached == "given":
        caches = [{CACHE_FIELD: DynamicCache(config=model.config)} for _ in range(2)]
    elif cached != "returned":
        first = model.generate(**inputs, **how, max_new_tokens=6)
        ids = torch.cat([first.sequences, NEWS], 1)
        inputs = {
            "input_ids": ids if cached == "next turn" else ids[:, 16:],
            "attention_mask": torch.cat([inputs["attention_mask"], ids.new_ones(3, 11)], 1),
        }
        caches = [{CACHE_FIELD: copy.deepcopy(getattr(first, CACHE_FIELD))} for _ in range(2)]
    how |= {**inputs, "max_new_tokens": new, "eos_token_id": eos, "output_logits": logits}
    got = mine(model, compile, drafter, stopping_criteria=[kind() for kind in kinds], **how, **caches[0])
    expected = model.generate(stopping_criteria=[kind() for kind in kinds], **how, **caches[1])
    assert torch.equal(got.sequences, expected.sequences)
    equal_caches(got, expected)
    equal_scores(got, expected, honest(got, inputs["input_ids"].shape[1], 0))
