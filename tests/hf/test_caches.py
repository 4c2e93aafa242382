"""A cache that is given is gone on from, and left as plain decoding leaves it; one that is returned too."""

from __future__ import annotations

import copy
import functools
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

import racer
from racer import DecodeConfig
from racer.hf.caches import CACHE_FIELD
from racer.hf.plain import PlainDecodingWarning
from support.listening import listen
from support.tiny_models import VOCAB, batch, tiny
from support.versions import RECENT, recent

DRAFTS = DecodeConfig(drafter="racer", budget=12)
HOW: dict[str, Any] = {"do_sample": False, "max_new_tokens": 14, "return_dict_in_generate": True}
MODELS = ["llama", "gpt2", "qwen2-sliding", "mistral-sliding", "gemma3"]
NEWS = torch.randint(2, VOCAB, (3, 5), generator=torch.Generator().manual_seed(5))


def mine(model: Any, **how: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("error", PlainDecodingWarning)
        return racer.generate(model, config=DRAFTS, **HOW | how)


def cache_of(output: Any) -> Any:
    return getattr(output, CACHE_FIELD)


def equal_caches(got: Any, expected: Any) -> None:
    assert type(got) is type(expected) is DynamicCache
    assert got.get_seq_length() == expected.get_seq_length()
    assert [type(layer) for layer in got.layers] == [type(layer) for layer in expected.layers]
    for one, other in zip(got.layers, expected.layers, strict=True):
        assert getattr(one, "cumulative_length", 0) == getattr(other, "cumulative_length", 0)
        for part in ("keys", "values"):
            stored = getattr(one, part)
            assert stored.shape == getattr(other, part).shape
            torch.testing.assert_close(stored, getattr(other, part), atol=1e-8, rtol=1e-6)


def ending_early(model: Any, inputs: dict[str, Any]) -> int:
    """A token at which some rows end before others."""
    new = model.generate(**inputs, do_sample=False, max_new_tokens=14)[:, inputs["input_ids"].shape[1] :].tolist()
    for token in dict.fromkeys(new[0][2:] + new[1][2:]):
        ends = [row.index(token) if token in row else 14 for row in new]
        if min(ends) < max(ends):
            return int(token)
    raise AssertionError("all rows say the same")


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("name", MODELS)
def test_the_returned_cache_is_that_of_plain_decoding(name: str, rows: int) -> None:
    model, inputs = tiny(name), {key: part[-rows:] for key, part in batch().items()}
    got = cache_of(mine(model, **inputs))
    equal_caches(got, cache_of(model.generate(**inputs, **HOW)))
    for stored in (part for layer in got.layers for part in (layer.keys, layer.values)):
        assert stored.untyped_storage().nbytes() == stored.numel() * stored.element_size(), "it keeps more alive"


@pytest.mark.parametrize("compile", ["off", "static"])
@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_rows_that_end_early_have_the_states_of_pad_tokens(name: str, given: bool, compile: str) -> None:
    model, inputs = tiny(name), batch()
    end = ending_early(model, inputs)
    how = {**inputs, **HOW, "eos_token_id": end, "pad_token_id": 0}
    empty = [{CACHE_FIELD: DynamicCache(config=model.config)} if given else {} for _ in range(2)]
    got = racer.generate(model, config=DecodeConfig(drafter="racer", budget=12, compile=compile), **how, **empty[0])
    expected = model.generate(**how, **empty[1])
    assert torch.equal(got.sequences, expected.sequences)
    assert not given or cache_of(got) is empty[0][CACHE_FIELD]
    equal_caches(cache_of(got), cache_of(expected))


LOOKS: dict[str, Any] = {
    "length": lambda cache: cache.get_seq_length(),
    "states": lambda cache: cache.layers[1].values.sum(),
    "deepcopy": lambda cache: copy.deepcopy(cache),
    "pickle": lambda cache: pickle.loads(pickle.dumps(cache)),
    "print": lambda cache: repr(cache),
    "all": lambda cache: list(cache),
    "rows": lambda cache: cache.batch_select_indices(torch.arange(3)),
    "set": lambda cache: setattr(cache.layers[0], "seen", True),
}


@recent("generate does not say which caches it was given")
@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("look", LOOKS)
def test_pad_tokens_are_only_scored_when_the_cache_is_looked_at(look: str, inference: bool) -> None:
    model, inputs = copy.deepcopy(tiny("gemma3")), batch()
    how = {**inputs, **HOW, "eos_token_id": ending_early(model, inputs), "pad_token_id": 0}
    with torch.inference_mode(inference):
        got = mine(model, **how)
    expected, calls = model.generate(**how), []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    with torch.inference_mode(inference):
        found = LOOKS[look](cache_of(got))
    assert calls == [1]
    equal_caches(cache_of(got), cache_of(expected))
    if isinstance(found, DynamicCache):
        equal_caches(found, cache_of(expected))
    assert calls == [1]


def _written(model: Any) -> None:
    with torch.no_grad():
        model.lm_head.weight.add_(1.0)


CHANGES: dict[str, Any] = {
    "dtype": lambda model: model.float(),
    "weights": _written,
    "another": lambda model: setattr(model.model, "norm", copy.deepcopy(model.model.norm)),
}


@recent("generate does not say which caches it was given")
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_that_has_changed_scores_no_pad_tokens(change: str) -> None:
    """They failed, at each look anew; or had the states of another model."""
    model, inputs = copy.deepcopy(tiny("llama")), batch()
    how = {**inputs, **HOW, "eos_token_id": ending_early(model, inputs), "pad_token_id": 0}
    got, expected = mine(model, **how), cache_of(model.generate(**how))
    width, new = inputs["input_ids"].shape[1], got.sequences[:, inputs["input_ids"].shape[1] :]
    CHANGES[change](model)
    with pytest.warns(UserWarning, match="the model is another"):
        found = list(cache_of(got))
    counts = [int((row == how["eos_token_id"]).float().argmax()) if how["eos_token_id"] in row else 14 for row in new]
    for layer, whole in zip(cache_of(got).layers, expected.layers, strict=True):
        assert layer.keys.shape == whole.keys.shape
        for row, count in enumerate(counts):
            slots = slice(0, width + count)  # the last token of a row is in no cache
            torch.testing.assert_close(layer.keys[row, :, slots], whole.keys[row, :, slots], atol=1e-8, rtol=1e-6)
            assert not layer.keys[row, :, width + count :].any()
    assert len(found) == len(expected.layers)


def test_autocast_fills_the_cache_at_once() -> None:
    model, inputs = copy.deepcopy(tiny("llama")).float(), batch()
    how = {**inputs, **HOW, "eos_token_id": ending_early(model, inputs), "pad_token_id": 0}
    with torch.autocast("cpu", torch.bfloat16):
        got, expected = mine(model, **how), model.generate(**how)
    assert [layer.keys.dtype for layer in cache_of(got).layers] == [
        layer.keys.dtype for layer in cache_of(expected).layers
    ]


def test_threads_may_look_at_once() -> None:
    model, inputs = copy.deepcopy(tiny("llama")), batch()
    how = {**inputs, **HOW, "eos_token_id": ending_early(model, inputs), "pad_token_id": 0}
    got, expected = mine(model, **how), model.generate(**how)
    with ThreadPoolExecutor(8) as pool:
        lengths = list(pool.map(lambda index: cache_of(got).layers[index % 2].get_seq_length(), range(16)))
    assert set(lengths) == {cache_of(expected).get_seq_length()}
    equal_caches(cache_of(got), cache_of(expected))


def test_states_of_many_pads_are_made_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("racer.engine.outside_cache.PIECE", 3)
    test_rows_that_end_early_have_the_states_of_pad_tokens("gemma3", True, "off")


@pytest.mark.parametrize("config", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_a_given_cache_is_filled_in_place(name: str, config: bool) -> None:
    """Also without a dictionary, and with layers that are only made when they are filled."""
    model = tiny(name)
    caches = [DynamicCache(config=model.config) if config else DynamicCache() for _ in range(2)]
    how = batch() | HOW | {"return_dict_in_generate": False}
    got = mine(model, **how, **{CACHE_FIELD: caches[0]})
    assert torch.equal(got, model.generate(**how, **{CACHE_FIELD: caches[1]}))
    equal_caches(*caches)


def next_turn(first: Any, whole: bool, rows: int) -> dict[str, Any]:
    """What the second call of a chat gets."""
    ids = torch.cat([first.sequences, NEWS[-rows:]], 1)
    mask = torch.cat([batch()["attention_mask"][-rows:], ids.new_ones(rows, ids.shape[1] - 11)], 1)
    return {"input_ids": ids if whole else NEWS[-rows:], "attention_mask": mask}


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_the_next_turn_is_that_of_plain_decoding(name: str, whole: bool, rows: int) -> None:
    """Whoever decoded the first turn, and whoever decodes the second."""
    model, inputs = tiny(name), {key: part[-rows:] for key, part in batch().items()}
    ours, plain = mine(model, **inputs), model.generate(**inputs, **HOW)
    if not whole:  # the last token is not in the cache
        news = torch.cat([plain.sequences[:, -1:], NEWS[-rows:]], 1)
        turn = next_turn(plain, True, rows) | {"input_ids": news}
    else:
        turn = next_turn(plain, True, rows)
    expected = model.generate(**turn, **HOW, **{CACHE_FIELD: copy.deepcopy(cache_of(plain))})
    third = mine(model, **turn, **{CACHE_FIELD: copy.deepcopy(cache_of(plain))})
    fourth = model.generate(**turn, **HOW, **{CACHE_FIELD: copy.deepcopy(cache_of(ours))})
    fifth = mine(model, **turn, **{CACHE_FIELD: cache_of(ours)})
    for got in (third, fourth, fifth):
        assert torch.equal(got.sequences, expected.sequences)
        equal_caches(cache_of(got), cache_of(expected))
    assert cache_of(fifth) is cache_of(ours)


def test_only_what_is_new_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    model = copy.deepcopy(tiny("llama"))
    one = {key: part[-1:] for key, part in batch().items()}
    first = mine(model, **one)
    turn = next_turn(first, True, 1)
    widths: list[int] = []
    listen(monkeypatch, model, lambda inputs: widths.append(inputs["input_ids"].shape[1]))
    mine(model, **turn, **{CACHE_FIELD: cache_of(first)})
    assert widths[0] == 6, "five new tokens, and the last of the first turn"


def test_sampled_turns_are_the_same_with_and_without_a_cache() -> None:
    model, config = tiny("llama"), DecodeConfig(drafter="racer", budget=12, seed=3)
    how = HOW | {"do_sample": True, "temperature": 0.8}
    first = racer.generate(model, config=config, **batch(), **how)
    turn = next_turn(first, True, 3)
    expected = racer.generate(model, config=config, **turn, **how)
    got = racer.generate(model, config=config, **turn, **how, **{CACHE_FIELD: cache_of(first)})
    assert torch.equal(got.sequences, expected.sequences)


def attempt(call: Any, **how: Any) -> tuple[Any, str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return call(**how).sequences, ""
        except Exception as error:
            return None, f"{type(error).__name__}: {error}"


def dynamic(model: Any) -> Any:
    return cache_of(model.generate(**{key: part[-1:] for key, part in batch().items()}, **HOW))


class OfTheUser(DynamicCache):
    pass


STRANGE: dict[str, Any] = {
    "all of it cached": lambda model, ids: ({"input_ids": ids[:, :24]}, dynamic(model)),
    "more than all": lambda model, ids: ({"input_ids": ids[:, :20]}, dynamic(model)),
    "new tokens without a mask": lambda model, ids: ({"input_ids": ids[:, 24:]}, dynamic(model)),
    "many new tokens without a mask": lambda model, ids: ({"input_ids": ids[:, 1:]}, dynamic(model)),
    "a mask that fits nothing": lambda model, ids: (
        {"input_ids": ids[:, 24:], "attention_mask": torch.ones(1, 28, dtype=torch.long)},
        dynamic(model),
    ),
    "holes in the mask": lambda model, ids: (
        {"input_ids": ids, "attention_mask": torch.ones_like(ids).index_fill(1, torch.tensor([14]), 0)},
        dynamic(model),
    ),
    "other positions": lambda model, ids: (
        {"input_ids": ids, "position_ids": torch.arange(30)[None] + 2},
        dynamic(model),
    ),
    "more rows": lambda model, ids: ({"input_ids": ids.repeat(2, 1)}, dynamic(model)),
    "several sequences": lambda model, ids: (
        {"input_ids": ids, "num_return_sequences": 2, "do_sample": True, "top_k": 1},
        dynamic(model),
    ),
    "a static cache": lambda model, ids: ({"input_ids": ids}, StaticCache(config=model.config, max_cache_len=64)),
    "a class of the user": lambda model, ids: ({"input_ids": ids}, OfTheUser(config=model.config)),
    **({"a cache that records": lambda model, ids: ({"input_ids": ids}, recording(model))} if RECENT else {}),
    "another model's": lambda model, ids: ({"input_ids": ids}, dynamic(tiny("qwen3"))),
    "a tuple": lambda model, ids: ({"input_ids": ids}, ((ids, ids),)),
    "another precision": lambda model, ids: ({"input_ids": ids}, dynamic(copy.deepcopy(model).float())),
}


def recording(model: Any) -> Any:
    cache = DynamicCache(config=model.config)
    cache.activate_past_recording()
    return cache


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@pytest.mark.parametrize("case", STRANGE)
def test_what_does_not_fit_is_decoded_plainly(case: str, name: str) -> None:
    """Or fails as it does there. "A cache that records" only differs where layers slide."""
    model = tiny(name)
    ids = torch.cat([mine(model, **{key: part[-1:] for key, part in batch().items()}).sequences, NEWS[-1:]], 1)
    outcomes = []
    for call in (functools.partial(racer.generate, model), model.generate):
        how, cache = STRANGE[case](model, ids)
        outcomes.append(attempt(call, **HOW | how, **{CACHE_FIELD: cache}))
    (got, mine_failed), (expected, failed) = outcomes
    assert mine_failed == failed
    assert failed or torch.equal(got, expected)


def test_without_a_cache_none_is_returned() -> None:
    model = tiny("llama")
    got, expected = mine(model, **batch(), use_cache=False), model.generate(**batch(), **HOW, use_cache=False)
    assert torch.equal(got.sequences, expected.sequences)
    assert cache_of(got) is cache_of(expected) is None
