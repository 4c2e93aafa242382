"""What calls ask for together: criteria, caches, scores, processors with a memory, streamers, static shapes."""

from __future__ import annotations

import copy
import functools
import warnings
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache, LogitsProcessor

import racer
from racer import DecodeConfig, PerRow
from racer.hf.caches import CACHE_FIELD
from racer.hf.plain import PlainDecodingWarning
from racer.loading.models import load
from support.criteria import AfterPair, CountsAsked, DeclaredAfterPair, OneFlag, RowLimits
from support.tiny_models import VOCAB, batch, tiny
from support.toy_batch import Collects

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


@settings(max_examples=20)
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


class Counts(LogitsProcessor):
    """Has a memory: adds more to one token with every call, and notes what it was asked."""

    made: ClassVar[list[Counts]] = []

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.made.append(self)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.asked.append(input_ids.shape[1])
        scores = scores.clone()
        scores[:, input_ids.shape[1] % VOCAB] += 0.1 * len(self.asked)
        return scores


@pytest.mark.parametrize("compile", ["off", "static"])
@pytest.mark.parametrize("sampled", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
def test_scores_of_processors_with_a_memory(rows: int, sampled: bool, compile: str) -> None:
    """Each is asked once about each token of its row, though scores are kept too; rows end, leave, and are cut."""
    model, first = tiny("llama"), {name: part[-rows:] for name, part in batch().items()}
    told = {"return_dict_in_generate": True, "output_scores": True, "output_logits": True, "pad_token_id": 0}
    how: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": [3, 5, 8], "repetition_penalty": 1.2, **told}
    how |= {"do_sample": True, "top_k": 1} if sampled else {"do_sample": False}
    turn = model.generate(**first, **how)
    ids = torch.cat([turn.sequences, NEWS[-rows:]], 1)
    mask = torch.cat([first["attention_mask"], ids.new_ones(rows, ids.shape[1] - 11)], 1)
    past = getattr(turn, CACHE_FIELD)
    for inputs in (first, {"input_ids": ids, "attention_mask": mask, CACHE_FIELD: past}):
        given = [copy.deepcopy(inputs) for _ in range(2)]
        columns, Counts.made[:] = inputs["input_ids"].shape[1], []
        processors = [PerRow(Counts) if rows > 1 else Counts() for _ in range(2)]
        Counts.made[:] = [item for item in processors if isinstance(item, Counts)][:1]
        got = mine(model, compile, logits_processor=[processors[0]], **given[0], **how)
        lengths = honest(got, columns, 0)
        assert [item.asked for item in Counts.made] == [list(range(columns, columns + length)) for length in lengths]
        expected = model.generate(logits_processor=[processors[1]], **given[1], **how)
        assert torch.equal(got.sequences, expected.sequences)
        equal_scores(got, expected, lengths)
        equal_caches(got, expected)


class Breaks(LogitsProcessor):
    """From a length on, no token can be drawn for rows that say a certain thing."""

    racer_row_wise = True

    def __init__(self, length: int, row: torch.Tensor, value: float, all_of_it: bool) -> None:
        self.length, self.row, self.value, self.all_of_it = length, row, value, all_of_it

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if input_ids.shape[1] < self.length:
            return scores
        broken = (input_ids[:, : len(self.row)] == self.row).all(1)
        changed = torch.full_like(scores, self.value)
        if not self.all_of_it:
            changed[:, 1:] = scores[:, 1:]
        return torch.where(broken[:, None], changed, scores)


def attempt(call: Any, **how: Any) -> Any:
    try:
        return call(**how)
    except RuntimeError:
        return None


@settings(max_examples=20)
@given(
    place=st.integers(11, 24),
    row=st.integers(0, 2),
    rows=st.sampled_from([1, 3]),
    value=st.sampled_from([(float("nan"), True), (float("-inf"), True), (float("nan"), False), (float("-inf"), False)]),
    stops=st.sampled_from([None, CountsAsked, RowLimits]),
    eos=st.sampled_from([None, [3, 5, 8, 11]]),
    cached=st.booleans(),
    streams=st.booleans(),
    scores=st.booleans(),
    compile=st.sampled_from(["off", "static"]),
)
def test_an_error_of_sampling_is_one_if_all_rows_get_there(
    place: int, row: int, rows: int, value: tuple[float, bool], stops: Any, eos: Any, cached: bool, streams: bool,
    scores: bool, compile: str,
) -> None:  # fmt: skip
    """Rows run ahead; what they meet behind their end is nobody's error."""
    model, inputs = tiny("llama"), {name: part[-rows:] for name, part in batch().items()}
    together = stops is not None and rows > 1
    streams, scores = streams and not together, scores and stops is None
    how: dict[str, Any] = {
        "do_sample": True, "top_k": 1, "max_new_tokens": 12, "eos_token_id": eos, "pad_token_id": 0, **inputs,
        "return_dict_in_generate": True, "output_scores": scores, "output_logits": True,
        "logits_processor": [Breaks(place, inputs["input_ids"][row % rows], *value)],
    }  # fmt: skip
    runs, shown = [], []
    for call in (functools.partial(mine, model, compile), model.generate):
        streamer = Collects()
        more: dict[str, Any] = {"streamer": streamer} if streams else {}
        if cached:
            more[CACHE_FIELD] = DynamicCache(config=model.config)
        if stops is not None:
            more["stopping_criteria"] = [stops()]
        runs.append(attempt(call, **how, **more))
        shown.append(streamer.got)
    got, expected = runs
    if expected is None:
        if got is not None:  # transformers draws for rows that have ended, too, and throws away what it has drawn
            assert 11 + tokens_of(got.racer_stats)[row % rows] <= place
        else:
            assert shown[0] == shown[1][: len(shown[0])]
        return
    assert got is not None
    assert torch.equal(got.sequences, expected.sequences)
    assert shown[0] == shown[1]
    equal_caches(got, expected)
    equal_scores(got, expected, honest(got, 11, 0))


@pytest.mark.parametrize("compile", ["off", "static"])
@pytest.mark.parametrize("declared", [False, True])
def test_scores_are_cut_with_the_tokens(declared: bool, compile: str, folder: Path) -> None:
    """Stop strings without an end token: rows that have stopped go on until all have."""
    loaded = load(str(folder), dtype="fp32", device="cpu")
    ids = torch.randint(3, 300, (3, 5), generator=torch.Generator().manual_seed(4))
    how: dict[str, Any] = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 30, "do_sample": False,
        "pad_token_id": 0, "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
    }  # fmt: skip
    loaded.model.double().generation_config.eos_token_id = None
    new = loaded.model.generate(**how).sequences[:, 5:]
    how |= {"stop_strings": [loaded.tokenizer.decode(new[row, 6 + 3 * row]) for row in range(3)]}
    how |= {"tokenizer": loaded.tokenizer, "stopping_criteria": [DeclaredAfterPair()] if declared else []}
    got, expected = mine(loaded.model, compile, "retrieval", **how), loaded.model.generate(**how)
    assert expected.sequences.shape[1] < 35
    assert torch.equal(got.sequences, expected.sequences)
    lengths = honest(got, 5, None)
    assert len(set(lengths)) == 1, "no row is padded"
    equal_scores(got, expected, lengths)
    equal_caches(got, expected)
