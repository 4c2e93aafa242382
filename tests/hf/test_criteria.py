"""Stopping criteria end rows where ``generate`` ends them, whatever they remember and wherever they look."""

from __future__ import annotations

import inspect
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria
from transformers.generation import MaxTimeCriteria, stopping_criteria

import racer
from racer import DecodeConfig
from racer.errors import UnsupportedGeneration
from racer.hf import criteria
from racer.hf.batch_spec import Asked, batch_spec
from support.criteria import AfterPair, CountsAsked, DeclaredAfterPair, OneFlag, RowLimits
from support.toy_batch import BATCH, IDS, MASK, MODEL, VOCAB, Collects


def test_every_criterion_of_transformers_is_known() -> None:
    own = {
        item.__name__
        for _, item in inspect.getmembers(stopping_criteria, inspect.isclass)
        if issubclass(item, stopping_criteria.StoppingCriteria) and item is not stopping_criteria.StoppingCriteria
    }
    known = {item.__name__ for item in (*criteria.OWN, *criteria.ROW_WISE)} | set(criteria.TOGETHER)
    assert own == known, "look at its source: may it be asked about one row at a time?"


@settings(max_examples=40)
@given(
    kinds=st.lists(st.sampled_from([AfterPair, DeclaredAfterPair, RowLimits, OneFlag, CountsAsked]), max_size=2),
    rows=st.integers(1, 4),
    eos=st.sampled_from([None, 1, [2, 6]]),
    new=st.integers(1, 25),
    budget=st.integers(2, 20),
    seed=st.integers(0, 99),
    drafter=st.sampled_from(["logits", "retrieval", "racer"]),
    mode=st.sampled_from(["off", "static"]),
)
def test_criteria_end_rows_where_generate_does(
    kinds: list[type], rows: int, eos: Any, new: int, budget: int, seed: int, drafter: str, mode: str
) -> None:
    ids = torch.randint(0, VOCAB, (rows, 4), generator=torch.Generator().manual_seed(seed))
    how = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": new, "do_sample": False,
        "eos_token_id": eos, "pad_token_id": 0,
    }  # fmt: skip
    mine, theirs = [kind() for kind in kinds], [kind() for kind in kinds]
    config = DecodeConfig(drafter=drafter, budget=budget, compile=mode)
    got = racer.generate(MODEL, config=config, stopping_criteria=mine, **how)
    expected = MODEL.generate(stopping_criteria=theirs, **how)
    assert got.tolist() == expected.tolist()
    for one, other in zip(mine, theirs, strict=True):
        assert vars(one).get("asked") == vars(other).get("asked"), "the same questions in the same order"


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    from racer.loading.models import load

    return load(str(folder), dtype="fp32", device="cpu")


@settings(max_examples=15)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 6),
    places=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 30), st.integers(1, 3)), min_size=1, max_size=3),
    cut=st.integers(0, 2),
    declared=st.booleans(),
    seed=st.integers(0, 99),
)
def test_stop_strings_end_rows_where_generate_does(
    loaded: Any, rows: int, columns: int, places: list[tuple[int, int, int]], cut: int, declared: bool, seed: int
) -> None:
    model, tokenizer = loaded.model, loaded.tokenizer
    ids = torch.randint(3, 300, (rows, columns), generator=torch.Generator().manual_seed(seed))
    how: dict[str, Any] = {
        "input_ids": ids, "attention_mask": torch.ones_like(ids), "max_new_tokens": 36, "do_sample": False,
        "pad_token_id": 0, "eos_token_id": 0, "tokenizer": tokenizer,
    }  # fmt: skip
    new = model.generate(**how)[:, columns:]
    spans = [tokenizer.decode(new[row % rows, at : at + count])[cut:] for row, at, count in places]
    how["stop_strings"] = [span for span in spans if span and "\ufffd" not in span] or ["never"]
    how["stopping_criteria"] = [DeclaredAfterPair()] if declared else []
    expected = model.generate(**how)
    got = racer.generate(model, config=DecodeConfig(drafter="retrieval", budget=12), **how)
    assert got.tolist() == expected.tolist()


def test_without_an_eos_token_rows_go_on_until_all_have_stopped() -> None:
    how = BATCH | {"max_new_tokens": 40, "do_sample": False}
    limits = RowLimits()
    got = racer.generate(MODEL, config=DecodeConfig(drafter="logits", budget=12), stopping_criteria=[limits], **how)
    assert got.shape[1] == 11
    assert got.tolist() == MODEL.generate(**how)[:, :11].tolist(), "row 0 has stopped at 7, and is not padded"


def test_time_is_up_for_all() -> None:
    how = BATCH | {"max_new_tokens": 40, "do_sample": False, "eos_token_id": 99}
    got = racer.generate(MODEL, stopping_criteria=[MaxTimeCriteria(1.0, time.time() - 2)], **how)
    assert got.shape[1] == IDS.shape[1] + 1


class Remembers(LogitsProcessor):
    """Says how many tokens it was asked about, to a criterion that shares it."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.asked.append(input_ids.shape[1])
        return scores


class EndsWhenAsked(StoppingCriteria):
    def __init__(self, processor: Remembers) -> None:
        self.processor = processor

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        assert self.processor.asked[-1] == input_ids.shape[1] - 1, "each token is asked about before the next one"
        return torch.tensor([len(self.processor.asked) == 12])


def test_processors_and_criteria_with_a_memory_take_turns() -> None:
    how = {"input_ids": IDS[:1], "max_new_tokens": 40, "do_sample": False}
    outputs = []
    for generate in (MODEL.generate, lambda **kw: racer.generate(MODEL, **kw)):
        processor = Remembers()
        outputs.append(
            generate(logits_processor=[processor], stopping_criteria=[EndsWhenAsked(processor)], **how).tolist()
        )
        assert processor.asked == list(range(4, 16)), "nobody is asked what comes behind the end"
    assert outputs[0] == outputs[1]


def _spec(**how: Any) -> Any:
    config = GenerationConfig(max_length=20, eos_token_id=5, pad_token_id=0, **how.pop("config", {}))
    return batch_spec(
        *(IDS, MASK, None, config, how.get("processors", []), how["criteria"], how.get("streamer")),
        asked=Asked(),
        admit=lambda *_: None,
    )


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"streamer": Collects(), "criteria": [AfterPair()]}, "AfterPair may look across rows"),
        ({"processors": [racer.PerRow(Remembers)], "criteria": [AfterPair()]}, "AfterPair may look across rows"),
        ({"streamer": Collects(), "criteria": [DeclaredAfterPair()]}, "without an eos_token_id"),
        (
            {"criteria": [AfterPair()], "config": {"output_scores": True, "return_dict_in_generate": True}},
            "may read scores",
        ),
    ],
)
def test_what_criteria_cannot_be_right_with_is_left_to_transformers(how: dict[str, Any], reason: str) -> None:
    state = torch.get_rng_state()
    with pytest.raises(UnsupportedGeneration, match=reason):
        _spec(**how)
    assert torch.equal(state, torch.get_rng_state()), "nothing was drawn"
